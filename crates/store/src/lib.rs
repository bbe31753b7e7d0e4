//! A revisioned key-value store with watch: etcd's model, small. Bytes only; it knows no kind.

mod embedded;
mod history;
mod lease;
mod memory;
mod plan;
mod types;
mod watch;

pub use embedded::{EmbeddedOptions, EmbeddedStore};
pub use memory::MemoryStore;
pub use types::*;
pub use watch::WatchLimits;
