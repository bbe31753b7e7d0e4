//! The kubelet: makes the containers of the pods that are bound to this node, keeps them running and tells the API.

pub mod admission;
pub mod cgroups;
pub mod cluster;
pub mod component;
pub mod config;
pub mod container;
pub mod context;
pub mod drain;
pub mod eviction;
pub mod image_gc;
pub mod images;
pub mod local_storage;
pub mod logs;
pub mod manager;
pub mod node;
pub mod pod;
pub mod probes;
pub mod quantity;
pub mod runtime;
pub mod runtime_events;
pub mod server;
pub mod static_pods;
pub mod termination;
pub mod volumes;
pub mod worker;

pub use component::{component, remove_everything};
pub use config::KubeletConfig;
pub use drain::Drain;

#[cfg(test)]
mod simulation;
