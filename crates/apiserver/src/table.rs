//! Objects as rows of a table, and as their metadata alone.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use skiff_api::{ApiError, ApiResult};

use crate::registry::Resource;
use crate::server::Call;

#[derive(Deserialize)]
struct Outer<'a> {
    #[serde(borrow)]
    metadata: Option<&'a RawValue>,
}

/// A `PartialObjectMetadata` of an object.
pub fn partial_metadata(bytes: &[u8]) -> Vec<u8> {
    let outer: Option<Outer<'_>> = serde_json::from_slice(bytes).ok();
    let metadata = outer
        .and_then(|outer| outer.metadata)
        .map_or("{}", RawValue::get);
    format!("{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{metadata}}}").into_bytes()
}

/// What `includeObject` asks a row to carry.
enum Included {
    Nothing,
    Metadata,
    Object,
}

/// The rows of a table.
pub(crate) fn rows<'a>(
    call: &Call,
    resource: &Resource,
    objects: impl Iterator<Item = &'a bytes::Bytes>,
) -> ApiResult<Vec<Value>> {
    let included = match call.query.get("includeObject") {
        "None" => Included::Nothing,
        "" | "Metadata" => Included::Metadata,
        "Object" => Included::Object,
        other => {
            return Err(ApiError::bad_request(format!(
                "unrecognized includeObject value: {other:?}"
            )));
        }
    };
    let now = Timestamp::try_from(call.server.clock.now()).unwrap_or(Timestamp::UNIX_EPOCH);
    objects
        .map(|bytes| {
            let value = resource.served_value(bytes);
            let typed = resource.kind.ops.decode(Cow::Borrowed(&value));
            let typed = typed.map_err(ApiError::internal)?;
            let object = match included {
                Included::Nothing => Value::Null,
                Included::Metadata => {
                    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": value["metadata"]})
                }
                Included::Object => value,
            };
            Ok(json!({"cells": resource.kind.ops.row(&*typed, now), "object": object}))
        })
        .collect()
}

/// A table; `columns`: with the columns' definitions.
#[must_use]
pub fn table(
    resource: &Resource,
    version: &str,
    metadata: &Value,
    rows: Vec<Value>,
    columns: bool,
) -> Value {
    let definitions: Option<Vec<Value>> = columns.then(|| {
        resource
            .kind
            .columns
            .iter()
            .map(|column| {
                json!({
                    "name": column.name, "type": column.kind, "format": column.format,
                    "description": column.description, "priority": column.priority,
                })
            })
            .collect()
    });
    json!({
        "kind": "Table", "apiVersion": version, "metadata": metadata,
        "columnDefinitions": definitions, "rows": rows,
    })
}
