//! Old versions of kinds: what was served once, and is again where `--runtime-config` asks for it.
//!
//! An old version is a table entry over the stored kind: it has a schema that is the stored one's with changes, defaults
//! where the old version had others, and a conversion. Everything else is the stored kind's.

use std::borrow::Cow;
use std::sync::LazyLock;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value};

use crate::field::ErrorList;
use crate::kind::{Conversion, Kind, KindOps, Subresource, WriteContext};
use crate::object::Object;
use crate::status::{ApiError, ApiResult};

mod autoscaling;
mod convert;
mod table;
mod types;

pub(crate) use types::{TEXT, add_schemas};

/// The old versions, in discovery's order.
#[must_use]
pub fn kinds() -> &'static [Kind] {
    &table::KINDS
}

/// What an old version does differently from the stored kind.
pub(crate) struct Old {
    /// The stored kind.
    stored: &'static dyn KindOps,
    /// The package of the types, for example `extensions.v1beta1`, and that of the stored kind's.
    packages: (&'static str, &'static str),
    /// Fills in what the old version defaulted otherwise than the stored one.
    default: fn(&mut Value),
    /// To the stored version, for rows.
    to_storage: fn(Value) -> Value,
}

/// An object of an old version: its metadata, and the rest as it came.
#[derive(Clone)]
struct OldObject {
    metadata: ObjectMeta,
    rest: Map<String, Value>,
}

impl Object for OldObject {
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
    fn to_value(&self) -> Value {
        let mut value = self.rest.clone();
        let metadata = serde_json::to_value(&self.metadata).unwrap_or_default();
        value.insert("metadata".to_owned(), metadata);
        Value::Object(value)
    }
    fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.to_value()).unwrap_or_default()
    }
    fn clone_box(&self) -> Box<dyn Object> {
        Box::new(self.clone())
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn std::any::Any {
        self
    }
}

impl KindOps for Old {
    fn decode(&self, value: Cow<'_, Value>) -> ApiResult<Box<dyn Object>> {
        let Value::Object(mut rest) = value.into_owned() else {
            return Err(ApiError::bad_request("no object"));
        };
        let metadata = rest.remove("metadata").unwrap_or_default();
        let metadata = match metadata {
            Value::Null => ObjectMeta::default(),
            given => serde_json::from_value(given)
                .map_err(|error| ApiError::bad_request(error.to_string()))?,
        };
        Ok(Box::new(OldObject { metadata, rest }))
    }
    fn has_status(&self) -> bool {
        self.stored.has_status()
    }
    fn has_generation(&self) -> bool {
        self.stored.has_generation()
    }
    fn allow_unconditional_update(&self) -> bool {
        self.stored.allow_unconditional_update()
    }
    fn allow_create_on_update(&self) -> bool {
        self.stored.allow_create_on_update()
    }
    fn default(&self, object: &mut dyn Object) {
        if let Some(object) = object.as_any_mut().downcast_mut::<OldObject>() {
            let mut value = Value::Object(std::mem::take(&mut object.rest));
            (self.default)(&mut value);
            if let Value::Object(rest) = value {
                object.rest = rest;
            }
        }
    }
    fn name_errors(&self, name: &str, prefix: bool) -> Vec<String> {
        self.stored.name_errors(name, prefix)
    }
    // What is written is the stored kind's object by then.
    fn prepare_create(&self, object: &mut dyn Object, context: &WriteContext) {
        self.stored.prepare_create(object, context);
    }
    fn validate_create(&self, object: &dyn Object) -> ErrorList {
        self.stored.validate_create(object)
    }
    fn prepare_update(&self, new: &mut dyn Object, old: &dyn Object, context: &WriteContext) {
        self.stored.prepare_update(new, old, context);
    }
    fn validate_update(&self, new: &dyn Object, old: &dyn Object) -> ErrorList {
        self.stored.validate_update(new, old)
    }
    fn prepare_status_update(
        &self,
        new: &mut dyn Object,
        old: &dyn Object,
        context: &WriteContext,
    ) {
        self.stored.prepare_status_update(new, old, context);
    }
    fn validate_status_update(&self, new: &dyn Object, old: &dyn Object) -> ErrorList {
        self.stored.validate_status_update(new, old)
    }
    fn warnings(&self, new: &dyn Object, old: Option<&dyn Object>) -> Vec<String> {
        self.stored.warnings(new, old)
    }
    fn is_new_generation(&self, new: &dyn Object, old: &dyn Object) -> Option<bool> {
        self.stored.is_new_generation(new, old)
    }
    fn status_warnings(&self, new: &dyn Object) -> Vec<String> {
        self.stored.status_warnings(new)
    }
    fn row(&self, object: &dyn Object, now: Timestamp) -> Vec<Value> {
        let stored = self
            .stored
            .decode(Cow::Owned((self.to_storage)(object.to_value())));
        stored
            .map(|stored| self.stored.row(&*stored, now))
            .unwrap_or_default()
    }
    fn add_schema(&self, generator: &mut schemars::SchemaGenerator) {
        self.stored.add_schema(generator);
        add_schemas(generator, self.packages);
    }
}

#[cfg(test)]
mod tests;
