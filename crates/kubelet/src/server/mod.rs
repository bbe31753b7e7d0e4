//! The kubelet's own HTTPS server: logs, exec, port-forward, statistics, for the API server and for metrics.

pub mod authenticate;
pub mod authorize;
pub mod container_logs;
pub mod listen;
pub mod router;
pub mod summary;
pub mod target;

pub use listen::serve;
