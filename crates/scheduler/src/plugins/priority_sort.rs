//! The more important pod comes first, then the one that waits longer. The queue does it ([`crate::queue`]).

use crate::framework::{NOTHING, Plugin};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "PrioritySort",
    queue_sort: true,
    ..NOTHING
};
