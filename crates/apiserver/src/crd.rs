//! Custom resources: what definitions add to the API while the server runs.
//!
//! [`definitions`] follows the definitions in the store, gives them their status and puts what they define into the
//! registry; from there on the one pipeline serves their objects, with [`CustomKind`] for what differs.

mod cleanup;
mod convert;
mod definition;
mod definitions;
pub(crate) mod discovery;
mod kind;
pub mod rules;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use skiff_api::{ErrorList, Object, ObjectExt, Path};

pub use definition::{Definition, ScalePaths, names};
pub use kind::{CustomKind, at};

pub(crate) use convert::{convert, definition_of, served, served_one};
pub(crate) use definitions::{Definitions, run};

/// What is wrong with the rules of a definition, where its schemas are new. `sound`: nothing else is wrong with it.
pub(crate) fn rule_errors(new: &dyn Object, old: Option<&dyn Object>, sound: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let Some(new) = new.downcast_ref::<CustomResourceDefinition>() else {
        return errors;
    };
    let old = old.and_then(|old| old.downcast_ref::<CustomResourceDefinition>());
    let versions = &new.spec.versions;
    let same = versions.iter().all(|version| {
        versions
            .first()
            .is_some_and(|first| first.schema == version.schema)
    });
    for (index, version) in versions.iter().enumerate() {
        let mut had = old.iter().flat_map(|old| &old.spec.versions);
        let unchanged = had.any(|had| had.name == version.name && had.schema == version.schema);
        if unchanged || (same && index > 0) {
            continue;
        }
        let spec = Path::new("spec");
        let path = match same {
            true => spec.child("validation"),
            false => spec.child("versions").index(index).child("schema"),
        };
        let schema = version.schema.as_ref();
        let schema = schema.and_then(|schema| schema.open_api_v3_schema.as_ref());
        let schema = serde_json::to_value(schema).unwrap_or_default();
        let path = path.child("openAPIV3Schema");
        errors.extend(rules::definition_errors(&schema, &path, sound));
    }
    errors
}
