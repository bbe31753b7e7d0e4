//! A revisioned key-value store with watch: etcd's model, small. Bytes only; it knows no kind.

#[allow(dead_code, reason = "the embedded store uses the rest")]
mod history;
#[allow(dead_code, reason = "the embedded store uses the rest")]
mod lease;
mod memory;
mod plan;
mod types;
#[allow(dead_code, reason = "the embedded store uses the rest")]
mod watch;

pub use memory::MemoryStore;
pub use types::*;
pub use watch::WatchLimits;
