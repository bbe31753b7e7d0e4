//! A revisioned key-value store with watch: etcd's model, small. Bytes only; it knows no kind.

mod types;

pub use types::*;
