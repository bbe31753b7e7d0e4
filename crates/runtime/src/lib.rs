//! Runs containers: images, pod sandboxes and processes, behind the Container Runtime Interface.

pub mod cgroup;
pub mod cri;
mod embedded;
pub mod image;
mod remote;
mod server;
pub mod shim;
pub mod spec;

pub use embedded::{
    AttachRequest, Attachment, EmbeddedRuntime, ExecStreams, FdStream, NetworkError, NoNetwork,
    OpenError, PodNetwork, PortStream, Resize, RuntimeConfig,
};
pub use remote::RemoteRuntime;
pub use server::serve_cri;
pub use shim::shim_main;
