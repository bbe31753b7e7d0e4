//! Runs containers: images, pod sandboxes and processes, behind the Container Runtime Interface.

pub mod cgroup;
pub mod cri;
pub mod image;
mod remote;
pub mod shim;

pub mod spec;

pub use remote::RemoteRuntime;
pub use shim::shim_main;
