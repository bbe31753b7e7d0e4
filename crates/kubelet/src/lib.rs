//! The kubelet: makes the containers of the pods that are bound to this node, keeps them running and tells the API.

pub mod cluster;
pub mod container;
pub mod logs;
pub mod pod;
pub mod quantity;
pub mod runtime;
pub mod termination;
pub mod volumes;
