//! The namespace of a request as expressions see it.

use serde_json::Value as Json;

/// A namespace as expressions see it: without its owners and its record of owners.
pub(crate) fn namespace_object(namespace: &Json) -> Json {
    let mut object = namespace.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Json::as_object_mut) {
        for hidden in ["managedFields", "ownerReferences", "selfLink"] {
            metadata.remove(hidden);
        }
    }
    if let Some(object) = object.as_object_mut() {
        object.remove("apiVersion");
        object.remove("kind");
    }
    object
}
