//! Runs containers: images, pod sandboxes and processes, behind the Container Runtime Interface.

pub mod cri;
mod remote;

pub use remote::RemoteRuntime;
