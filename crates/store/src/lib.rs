//! A revisioned key-value store with watch: etcd's model, small. Bytes only; it knows no kind.

mod embedded;
mod etcd;
mod history;
mod lease;
mod memory;
mod plan;
mod types;
mod watch;

pub use embedded::{EmbeddedOptions, EmbeddedStore};
pub use etcd::{EtcdOptions, EtcdStore, EtcdTls};
pub use memory::MemoryStore;
pub use types::*;
pub use watch::WatchLimits;
