//! The kubelet: makes the containers of the pods that are bound to this node, keeps them running and tells the API.

pub mod pod;
pub mod quantity;
