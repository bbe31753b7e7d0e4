//! Writes the pod's node through the `binding` subresource. [`crate::executor`] does it.

use crate::framework::{NOTHING, Plugin};

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "DefaultBinder",
    bind: true,
    ..NOTHING
};
