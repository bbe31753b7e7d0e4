//! The watch cache: every object of a resource as shared bytes in an ordered map, and a ring of recent changes.
//!
//! One watch on the store feeds all caches, so that one number (the hub's progress) tells how far every cache has
//! come. A read is consistent when the progress has reached the store's current revision; nothing is asked twice.
//! Watchers share the ring and keep only a cursor, so that a watcher costs no queue.

mod entry;
mod follow;
mod hub;
mod resource;

pub use entry::{Entry, splice_revision};
pub use follow::Follower;
pub use hub::{CacheError, CacheHub};
pub use resource::{CacheEvent, Form, ResourceCache, Since, Subscription, Trigger};
