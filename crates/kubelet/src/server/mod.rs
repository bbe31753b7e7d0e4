//! The kubelet's own HTTPS server: logs, exec, port-forward, statistics, for the API server and for metrics.

pub mod authenticate;
pub mod authorize;
pub mod container_logs;
pub mod embedded;
pub mod listen;
pub mod pump;
pub mod remote;
pub mod router;
pub mod streams;
pub mod summary;
pub mod target;

pub use listen::serve;
