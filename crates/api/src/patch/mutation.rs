//! What admission policies do to an object: an apply configuration merged without owners, or a JSON patch.

use json_patch::{Patch as JsonPatch, PatchErrorKind, PatchOperation};
use serde_json::Value;

use super::fieldset::Fields;
use super::{MAX_COPIED, MAX_OPERATIONS};
use crate::schema::body::Target;
use crate::schema::check::check_value;

/// The object with a configuration merged into it as server-side apply would, but that nobody gets to own anything.
///
/// # Errors
/// In upstream's words: the configuration does not fit the kind, or would replace something as a whole.
pub fn merge_configuration(
    target: &Target<'_>,
    live: &Value,
    config: &Value,
) -> Result<Value, String> {
    let typed = "failed to convert patch object to typed object";
    let checked = check_value(config.clone(), target.schema, target.root)
        .map_err(|error| format!("{typed}: {error}"))?;
    if let Some(unknown) = checked.strict.first() {
        let path = unknown.split('"').nth(1).unwrap_or_default();
        return Err(format!("{typed}: .{path}: field not declared in schema"));
    }
    let fields = Fields::new(target.schema, target.root);
    let whole = fields.replaced_as_a_whole(config);
    if !whole.is_empty() {
        return Err(format!(
            "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}",
            whole.join(", ")
        ));
    }
    finish(target, live, fields.merge(live, config))
}

/// The object after a JSON patch. A test that fails leaves the object as it is.
///
/// # Errors
/// In upstream's words as far as they can be told.
pub fn patch_with_json(
    target: &Target<'_>,
    live: &Value,
    operations: Value,
) -> Result<Value, String> {
    let count = operations.as_array().map_or(0, Vec::len);
    if count > MAX_OPERATIONS {
        return Err(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}"
        ));
    }
    let operations: JsonPatch =
        serde_json::from_value(operations).map_err(|error| error.to_string())?;
    let mut document = live.clone();
    let mut copied = 0;
    for operation in operations.0 {
        if let PatchOperation::Copy(copy) = &operation {
            let source = document.pointer(copy.from.as_str());
            copied += source.map_or(0, |value| value.to_string().len());
            if copied > MAX_COPIED {
                return Err(format!(
                    "Unable to complete the copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED}"
                ));
            }
        }
        match json_patch::patch(&mut document, std::slice::from_ref(&operation)) {
            Ok(()) => {}
            Err(error) if matches!(error.kind, PatchErrorKind::TestFailed) => {
                return Ok(live.clone());
            }
            Err(_) => return Err(does_not_apply(&operation)),
        }
    }
    finish(target, live, document)
}

fn does_not_apply(operation: &PatchOperation) -> String {
    let (name, missing, path) = match operation {
        PatchOperation::Add(add) => ("add", "path: ", format!("{:?}", add.path.as_str())),
        PatchOperation::Remove(remove) => {
            ("remove", "path: ", format!("{:?}", remove.path.as_str()))
        }
        PatchOperation::Replace(replace) => ("replace", "key: ", replace.path.to_string()),
        PatchOperation::Move(moved) => ("move", "from path: ", moved.from.to_string()),
        PatchOperation::Copy(copy) => ("copy", "from path: ", copy.from.to_string()),
        PatchOperation::Test(test) => ("test", "path: ", test.path.to_string()),
    };
    format!("{name} operation does not apply: doc is missing {missing}{path}: missing value")
}

/// The object must still be one of its kind.
fn finish(target: &Target<'_>, live: &Value, patched: Value) -> Result<Value, String> {
    if !patched.is_object() {
        return Err("the patched object is not an object".to_owned());
    }
    let checked =
        check_value(patched, target.schema, target.root).map_err(|error| error.to_string())?;
    if let Some(unknown) = checked.strict.first() {
        return Err(format!("strict decoding error: {unknown}"));
    }
    let mut value = checked.value;
    for key in ["apiVersion", "kind"] {
        value[key] = live.get(key).cloned().unwrap_or_default();
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn target() -> Target<'static> {
        let kind = crate::kinds()
            .iter()
            .find(|kind| kind.kind == "Deployment" && kind.group == "apps")
            .unwrap();
        Target::of(kind).unwrap()
    }

    fn live() -> Value {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"a": "1"}},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "1"}}, "template": {
                "metadata": {}, "spec": {"containers": [{"name": "c", "image": "i", "args": ["x"]}]}}}})
    }

    #[test]
    fn configurations_are_merged_by_the_schema() {
        let config = json!({"metadata": {"labels": {"b": "2"}}, "spec": {"replicas": 3, "template": {"spec": {
            "containers": [{"name": "c", "image": "j"}, {"name": "side", "image": "s"}]}}}});
        let merged = merge_configuration(&target(), &live(), &config).unwrap();
        assert_eq!(merged["metadata"]["labels"], json!({"a": "1", "b": "2"}));
        assert_eq!(merged["spec"]["replicas"], 3);
        let containers = &merged["spec"]["template"]["spec"]["containers"];
        assert_eq!(containers[0]["image"], "j");
        assert_eq!(containers[0]["args"], json!(["x"]));
        assert_eq!(containers[1]["name"], "side");
    }

    #[test]
    fn what_apply_takes_as_one_may_not_be_replaced() {
        let table = [
            (
                json!({"spec": {"selector": {"matchLabels": {"b": "2"}}}}),
                "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.selector",
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "args": ["y"]}]}}}}),
                "invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.template.spec.containers[0].args",
            ),
            (
                json!({"spec": {"size": 1}}),
                "failed to convert patch object to typed object: .spec.size: field not declared in schema",
            ),
        ];
        for (config, expected) in table {
            let error = merge_configuration(&target(), &live(), &config).unwrap_err();
            assert_eq!(error, expected, "{config}");
        }
    }

    #[test]
    fn json_patches() {
        let patched = |operations: Value| patch_with_json(&target(), &live(), operations);
        let add = json!([{"op": "add", "path": "/metadata/labels/b~1c", "value": "2"}]);
        assert_eq!(patched(add).unwrap()["metadata"]["labels"]["b/c"], "2");
        let test = json!([{"op": "replace", "path": "/spec/replicas", "value": 9},
            {"op": "test", "path": "/spec/replicas", "value": 5}]);
        assert_eq!(patched(test).unwrap(), live());
        for (operations, expected) in [
            (
                json!([{"op": "add", "path": "/spec/x/y", "value": 1}]),
                "add operation does not apply: doc is missing path: \"/spec/x/y\": missing value",
            ),
            (
                json!([{"op": "add", "path": "/spec/x", "value": 1}]),
                "strict decoding error: unknown field \"spec.x\"",
            ),
        ] {
            assert_eq!(patched(operations).unwrap_err(), expected);
        }
    }
}
