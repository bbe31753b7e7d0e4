//! Patches: JSON patch, JSON merge patch, strategic merge patch and server-side apply, as functions on JSON.
//!
//! [`apply_patch`] does the first three and checks what came out; [`apply`] is server-side apply and
//! the record of who owns which field.

pub mod apply;
pub mod fieldset;
pub mod mutation;
pub mod strategic;

use json_patch::{Patch as JsonPatch, PatchOperation};
use serde_json::{Map, Value};

use crate::field::{FieldError, Path};
use crate::schema::body::{Decoded, FieldValidation, Target};
use crate::schema::check::{Checked, check_value};
use crate::status::{ApiError, ApiResult};

/// The kinds of patches beside server-side apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// `application/json-patch+json`
    Json,
    /// `application/merge-patch+json`
    Merge,
    /// `application/strategic-merge-patch+json`
    StrategicMerge,
}

/// Upstream takes no more operations in one JSON patch.
const MAX_OPERATIONS: usize = 10_000;
/// No more bytes are copied by one JSON patch: a short patch must not make a huge object.
const MAX_COPIED: usize = 3 * 1024 * 1024;

/// The object after the patch, checked against its type. `current` makes the object as it is now; it is called again only
/// to tell what was refused.
///
/// # Errors
/// 400: the patch cannot be read; 422: it does not apply, or what comes out is no object of the kind, or has unknown
/// fields under [`FieldValidation::Strict`].
pub fn apply_patch(
    target: &Target<'_>,
    patch_type: PatchType,
    current: &dyn Fn() -> Value,
    patch: &[u8],
    validation: FieldValidation,
) -> ApiResult<Decoded> {
    let now = current();
    let identity = ["apiVersion", "kind"].map(|key| (key, now.get(key).cloned()));
    let (patched, mut strict) = merged(target, patch_type, now, patch)?;
    let refuse = |message: &str| {
        // A strategic patch is shown as it is, of others what came of it.
        let shown = match patch_type {
            PatchType::StrategicMerge => serde_json::from_slice(patch)
                .map(|text| go_value(&text))
                .unwrap_or_default(),
            _ => merged(target, patch_type, current(), patch)
                .map(|(patched, _)| patched.to_string())
                .unwrap_or_default(),
        };
        ApiError::invalid(
            "",
            "",
            "",
            &[FieldError::invalid(
                &Path::new("patch"),
                shown.as_str(),
                message,
            )],
        )
    };
    let Checked {
        mut value,
        strict: found,
    } = check_value(patched, target.schema, target.root)
        .map_err(|error| refuse(&error.to_string()))?;
    strict.extend(found);
    strict.extend(target.prune(&mut value));
    if validation == FieldValidation::Strict && !strict.is_empty() {
        return Err(refuse(&format!(
            "strict decoding error: {}",
            strict.join(", ")
        )));
    }
    if !value.is_object() {
        return Err(refuse("not an object"));
    }
    for (key, kept) in identity {
        value[key] = kept.unwrap_or_default();
    }
    let warnings = if validation == FieldValidation::Warn {
        strict
    } else {
        Vec::new()
    };
    Ok(Decoded { value, warnings })
}

/// What comes of the patch, unchecked, and what is doubtful about the patch.
fn merged(
    target: &Target<'_>,
    patch_type: PatchType,
    mut document: Value,
    patch: &[u8],
) -> ApiResult<(Value, Vec<String>)> {
    let text: Value = serde_json::from_slice(patch)
        .map_err(|error| unreadable(patch_type, &error.to_string()))?;
    match patch_type {
        PatchType::Json => {
            let strict = unknown_in_operations(&text);
            Ok((json_patch(document, text)?, strict))
        }
        PatchType::Merge => {
            if !text.is_object() {
                return Err(ApiError::bad_request("Invalid JSON Patch"));
            }
            json_patch::merge(&mut document, &text);
            Ok((document, duplicates(patch)))
        }
        PatchType::StrategicMerge if target.schema.is_custom() => Err(ApiError::new(
            415,
            "UnsupportedMediaType",
            "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
        )),
        PatchType::StrategicMerge => {
            let Value::Object(patch_map) = text else {
                let got = json_type(&text);
                let message = format!(
                    "json: cannot unmarshal {got} into Go value of type map[string]interface {{}}"
                );
                return Err(ApiError::bad_request(message));
            };
            let merged = strategic::merge(target.schema, target.root, document, patch_map)?;
            Ok((merged, duplicates(patch)))
        }
    }
}

fn unreadable(patch_type: PatchType, message: &str) -> ApiError {
    let message = message.split(" at line ").next().unwrap_or_default();
    match patch_type {
        PatchType::StrategicMerge => ApiError::bad_request(message),
        PatchType::Json | PatchType::Merge => {
            ApiError::bad_request(format!("error decoding patch: {message}"))
        }
    }
}

/// 422 as upstream answers when a patch does not apply.
fn does_not_apply() -> ApiError {
    ApiError {
        details: Some(Value::Object(Map::new())),
        ..ApiError::new(
            422,
            "Invalid",
            "the server rejected our request due to an error in our request",
        )
    }
}

fn json_patch(mut document: Value, patch: Value) -> ApiResult<Value> {
    let count = patch.as_array().map_or(0, Vec::len);
    if count > MAX_OPERATIONS {
        let message = format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}"
        );
        return Err(ApiError::new(
            413,
            "RequestEntityTooLarge",
            format!("Request entity too large: {message}"),
        ));
    }
    let operations: JsonPatch = serde_json::from_value(patch)
        .map_err(|error| unreadable(PatchType::Json, &error.to_string()))?;
    let mut copied = 0;
    for operation in operations.0 {
        if let PatchOperation::Copy(copy) = &operation {
            copied += document
                .pointer(copy.from.as_str())
                .map_or(0, |value| value.to_string().len());
            if copied > MAX_COPIED {
                return Err(does_not_apply());
            }
        }
        json_patch::patch(&mut document, &[operation]).map_err(|_| does_not_apply())?;
    }
    Ok(document)
}

/// Applies a JSON patch that no client sent; says what does not apply.
pub fn apply_json_patch(document: &mut Value, patch: &Value) -> Result<(), String> {
    let operations =
        <JsonPatch as serde::Deserialize>::deserialize(patch).map_err(|error| error.to_string())?;
    let mut copied = 0;
    for operation in operations.0 {
        if let PatchOperation::Copy(copy) = &operation {
            copied += document
                .pointer(copy.from.as_str())
                .map_or(0, |value| value.to_string().len());
            if copied > MAX_COPIED {
                return Err("the patch copies too much".to_owned());
            }
        }
        json_patch::patch(document, std::slice::from_ref(&operation))
            .map_err(|error| format!("jsonpatch operation does not apply: {error}"))?;
    }
    Ok(())
}

fn unknown_in_operations(patch: &Value) -> Vec<String> {
    let known = ["op", "path", "from", "value"];
    let operations = patch.as_array().into_iter().flatten().enumerate();
    operations
        .flat_map(|(index, operation)| {
            let fields = operation.as_object().into_iter().flat_map(Map::keys);
            fields
                .filter(|name| !known.contains(&name.as_str()))
                .map(move |name| format!("json patch unknown field \"[{index}].{name}\""))
        })
        .collect()
}

/// The fields that are there twice in a JSON text.
fn duplicates(text: &[u8]) -> Vec<String> {
    crate::schema::check::duplicates(text)
}

fn json_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A value as Go prints it: `map[a:1 b:[x y]]`.
#[must_use]
pub fn go_value(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(list) => format!(
            "[{}]",
            list.iter().map(go_value).collect::<Vec<_>>().join(" ")
        ),
        Value::Object(map) => {
            let mut entries: Vec<(&String, &Value)> = map.iter().collect();
            entries.sort_by(|a, b| a.0.cmp(b.0));
            let entries: Vec<String> = entries
                .into_iter()
                .map(|(key, value)| format!("{key}:{}", go_value(value)))
                .collect();
            format!("map[{}]", entries.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn current() -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "labels": {"x": "1"}},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {}}], "nodeName": "n"}, "status": {}})
    }

    fn patch(
        patch_type: PatchType,
        patch: &Value,
        validation: FieldValidation,
    ) -> ApiResult<Decoded> {
        let kind = crate::kinds()
            .iter()
            .find(|kind| kind.plural == "pods")
            .unwrap();
        apply_patch(
            &Target::of(kind).unwrap(),
            patch_type,
            &current,
            patch.to_string().as_bytes(),
            validation,
        )
    }

    #[test]
    fn json_patch_applies_as_a_whole_or_not_at_all() {
        let good = json!([
            {"op": "test", "path": "/metadata/labels/x", "value": "1"},
            {"op": "replace", "path": "/spec/containers/0/image", "value": "j"},
            {"op": "add", "path": "/metadata/labels/a~1b", "value": "2"},
            {"op": "remove", "path": "/spec/nodeName"},
        ]);
        let value = patch(PatchType::Json, &good, FieldValidation::Strict)
            .unwrap()
            .value;
        assert_eq!(
            value["spec"],
            json!({"containers": [{"name": "c", "image": "j", "resources": {}}]})
        );
        assert_eq!(value["metadata"]["labels"], json!({"x": "1", "a/b": "2"}));
        for bad in [
            json!([{"op": "test", "path": "/metadata/labels/x", "value": "2"}]),
            json!([{"op": "remove", "path": "/spec/nothing"}]),
            json!([{"op": "add", "path": "/spec/nothing/there", "value": 1}]),
        ] {
            let error = patch(PatchType::Json, &bad, FieldValidation::Strict).unwrap_err();
            assert_eq!((error.code, error.reason), (422, "Invalid"), "{bad}");
        }
        assert_eq!(
            patch(PatchType::Json, &json!({}), FieldValidation::Warn)
                .unwrap_err()
                .code,
            400
        );
        let many: Vec<Value> = (0..10_001)
            .map(|_| json!({"op": "test", "path": "/kind", "value": "Pod"}))
            .collect();
        assert_eq!(
            patch(PatchType::Json, &many.into(), FieldValidation::Warn)
                .unwrap_err()
                .code,
            413
        );
    }

    #[test]
    fn copies_cannot_blow_up_an_object() {
        let mut operations = vec![
            json!({"op": "add", "path": "/metadata/annotations", "value": {"a": "x".repeat(4096)}}),
        ];
        for i in 0..20 {
            operations.push(json!({"op": "copy", "from": "/metadata/annotations", "path": format!("/metadata/annotations/{i}")}));
        }
        assert_eq!(
            patch(PatchType::Json, &operations.into(), FieldValidation::Ignore)
                .unwrap_err()
                .code,
            422
        );
    }

    #[test]
    fn merge_patch_removes_nulls_and_replaces_lists() {
        let value = patch(
            PatchType::Merge,
            &json!({"metadata": {"labels": {"x": null, "y": "2"}}, "spec": {"containers": [{"name": "d"}]}}),
            FieldValidation::Strict,
        )
        .unwrap()
        .value;
        assert_eq!(value["metadata"]["labels"], json!({"y": "2"}));
        assert_eq!(
            value["spec"]["containers"],
            json!([{"name": "d", "resources": {}}])
        );
    }

    #[test]
    fn unknown_fields_and_wrong_types_are_named() {
        let unknown = json!({"spec": {"foo": 1}});
        let error =
            patch(PatchType::StrategicMerge, &unknown, FieldValidation::Strict).unwrap_err();
        assert_eq!(
            error.message,
            r#" "" is invalid: patch: Invalid value: "map[spec:map[foo:1]]": strict decoding error: unknown field "spec.foo""#
        );
        let warned = patch(PatchType::Merge, &unknown, FieldValidation::Warn).unwrap();
        assert_eq!(warned.warnings, [r#"unknown field "spec.foo""#]);
        let wrong = json!({"spec": {"nodeName": 1}});
        assert_eq!(
            patch(PatchType::Merge, &wrong, FieldValidation::Ignore)
                .unwrap_err()
                .code,
            422
        );
        assert_eq!(
            patch(
                PatchType::StrategicMerge,
                &json!([]),
                FieldValidation::Ignore
            )
            .unwrap_err()
            .code,
            400
        );
    }
}
