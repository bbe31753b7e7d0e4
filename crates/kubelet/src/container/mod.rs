//! How a container of a pod is made: its environment, its files and its settings for the runtime.

pub mod config;
pub mod dns;
pub mod env_file;
pub mod environment;
pub mod expand;
pub mod fields;
pub mod hosts;
pub mod mounts;
pub mod sandbox;
pub mod security;
pub mod service_env;
