//! A decoded object of any kind.

use std::any::Any;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::Value;

/// A decoded object of any kind: what the write path carries between decoding and encoding.
/// Code that needs fields downcasts to the kind's own type ([`ObjectExt::downcast_ref`]).
pub trait Object: Any + Send + Sync {
    /// The metadata.
    fn metadata(&self) -> &ObjectMeta;
    /// The metadata, to be changed.
    fn metadata_mut(&mut self) -> &mut ObjectMeta;
    /// The object as JSON, `apiVersion` and `kind` included.
    fn to_value(&self) -> Value;
    /// The object as JSON text.
    fn to_bytes(&self) -> Vec<u8>;
    /// A copy.
    fn clone_box(&self) -> Box<dyn Object>;
    /// For downcasts.
    fn as_any(&self) -> &dyn Any;
    /// For downcasts.
    fn as_any_mut(&mut self) -> &mut dyn Any;
}

impl<T> Object for T
where
    T: k8s_openapi::Metadata<Ty = ObjectMeta> + Serialize + Clone + Send + Sync + 'static,
{
    fn metadata(&self) -> &ObjectMeta {
        k8s_openapi::Metadata::metadata(self)
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        k8s_openapi::Metadata::metadata_mut(self)
    }
    fn to_value(&self) -> Value {
        // Serialising the generated types cannot fail: their maps have string keys.
        serde_json::to_value(self).unwrap_or_default()
    }
    fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
    fn clone_box(&self) -> Box<dyn Object> {
        Box::new(self.clone())
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

/// An object's name only: showing every field of every kind would be two megabytes of code that nobody reads.
impl fmt::Debug for dyn Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meta = self.metadata();
        let (namespace, name) = (meta.namespace.as_deref(), meta.name.as_deref());
        write!(
            f,
            "{}/{}",
            namespace.unwrap_or_default(),
            name.unwrap_or_default()
        )
    }
}

/// Downcasts.
pub trait ObjectExt {
    /// The object as its own type, if it is of that type.
    fn downcast_ref<T: 'static>(&self) -> Option<&T>;
    /// The same, to be changed.
    fn downcast_mut<T: 'static>(&mut self) -> Option<&mut T>;
}

impl ObjectExt for dyn Object {
    fn downcast_ref<T: 'static>(&self) -> Option<&T> {
        self.as_any().downcast_ref()
    }
    fn downcast_mut<T: 'static>(&mut self) -> Option<&mut T> {
        self.as_any_mut().downcast_mut()
    }
}
