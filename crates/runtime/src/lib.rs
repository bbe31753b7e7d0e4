//! Runs containers: images, pod sandboxes and processes, behind the Container Runtime Interface.

pub mod cri;
mod remote;
pub mod shim;

pub use remote::RemoteRuntime;
pub use shim::shim_main;
