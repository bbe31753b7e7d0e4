//! A cluster in the test's own process: the real API server on a memory store, reached over TLS or by a function call.

mod certificates;
mod cluster;
mod etcd;
mod https;
mod registry;
pub mod virtual_time;

pub use certificates::TestCertificates;
pub use cluster::{TestCluster, TestOptions};
pub use etcd::TestEtcd;
pub use https::HttpsServer;
pub use registry::{FakeRegistry, Fault};
