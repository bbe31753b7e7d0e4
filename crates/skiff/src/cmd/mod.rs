//! The commands, a file each.

pub mod check;
pub mod demo;
pub mod down;
pub mod image;
pub mod kubeconfig;
pub mod kubectl;
pub mod part;
pub mod server;
pub mod status;
pub mod up;
pub mod version;
