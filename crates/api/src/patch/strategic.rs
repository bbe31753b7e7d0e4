//! Strategic merge patch: a merge patch that knows the elements of lists by their merge keys, with its directives.
//!
//! Directives: `$patch: replace|delete` in objects and list elements, `$retainKeys`, `$deleteFromPrimitiveList/<field>`
//! and `$setElementOrder/<field>`. What merges and by which key comes from the table of types.

use serde_json::{Map, Value};

use super::go_value;
use crate::schema::{Field, Schema, Type, TypeId};
use crate::status::{ApiError, ApiResult};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// The document after the patch.
///
/// # Errors
/// 400: a directive is malformed; 500, as upstream: an element has no merge key.
pub fn merge(
    schema: &Schema,
    root: TypeId,
    document: Value,
    patch: Map<String, Value>,
) -> ApiResult<Value> {
    let Value::Object(document) = document else {
        return Err(ApiError::internal("the object to patch is no object"));
    };
    Merger { schema }
        .object(Some(&Type::Object(root)), document, patch)
        .map(Value::Object)
}

struct Merger<'s> {
    schema: &'s Schema,
}

fn bad(message: &str) -> ApiError {
    ApiError::bad_request(message)
}

fn no_merge_key(element: &Map<String, Value>, key: &str) -> ApiError {
    let shown = go_value(&Value::Object(element.clone()));
    ApiError::internal(format!(
        "map: {shown} does not contain declared merge key: {key}"
    ))
}

impl<'s> Merger<'s> {
    fn field(&self, ty: Option<&Type>, name: &str) -> Option<&'s Field> {
        match ty {
            Some(Type::Object(id)) => self.schema.get(*id).field(name),
            _ => None,
        }
    }

    /// The type of what is under a name.
    fn type_under<'t>(&self, ty: Option<&'t Type>, name: &str) -> Option<&'t Type>
    where
        's: 't,
    {
        match ty {
            Some(Type::Object(id)) => self.schema.get(*id).field(name).map(|field| &field.ty),
            Some(Type::Map(element)) => Some(element),
            _ => None,
        }
    }

    fn object(
        &self,
        ty: Option<&Type>,
        mut document: Map<String, Value>,
        mut patch: Map<String, Value>,
    ) -> ApiResult<Map<String, Value>> {
        match patch.remove(DIRECTIVE) {
            None => {}
            Some(directive) => {
                return match directive.as_str() {
                    Some("replace") => Ok(patch),
                    Some("delete") => Ok(Map::new()),
                    _ => {
                        let (directive, patch) =
                            (go_value(&directive), go_value(&Value::Object(patch)));
                        Err(ApiError::internal(format!(
                            "unknown patch type: {directive} in map: {patch}"
                        )))
                    }
                };
            }
        }
        retain_keys(&mut document, &mut patch)?;
        self.ordered_lists(ty, &mut document, &mut patch)?;
        for (key, value) in patch {
            if let Some(name) = key.strip_prefix(DELETE_FROM) {
                delete_from_list(&mut document, name, &value)?;
                continue;
            }
            let merged = match (document.remove(&key), value) {
                (_, Value::Null) => continue,
                (Some(Value::Object(old)), Value::Object(new)) => {
                    if self
                        .field(ty, &key)
                        .is_some_and(|field| field.patch_replace)
                    {
                        Some(Value::Object(new))
                    } else {
                        Some(self.object(self.type_under(ty, &key), old, new)?.into())
                    }
                }
                (Some(Value::Array(old)), Value::Array(new)) => {
                    Some(self.list(ty, &key, old, new)?.into())
                }
                (_, value) => without_directives(value),
            };
            if let Some(merged) = merged {
                document.insert(key, merged);
            }
        }
        Ok(document)
    }

    /// The key by which elements are known; `None`: the elements are no objects.
    fn merge_key(&self, ty: Option<&Type>, name: &str) -> Option<&'s str> {
        self.field(ty, name)
            .and_then(|field| field.patch_merge_key.as_deref())
    }

    fn list(
        &self,
        ty: Option<&Type>,
        name: &str,
        old: Vec<Value>,
        new: Vec<Value>,
    ) -> ApiResult<Vec<Value>> {
        if !self.field(ty, name).is_some_and(|field| field.patch_merge) {
            return Ok(new);
        }
        if old.is_empty() && new.is_empty() {
            return Ok(old);
        }
        let Some(key) = self.merge_key(ty, name) else {
            if old.iter().chain(&new).any(Value::is_object) {
                return Err(ApiError::internal(format!(
                    "cannot merge lists without merge key for {name}"
                )));
            }
            let mut merged: Vec<Value> = Vec::new();
            for value in old.iter().chain(&new) {
                if !merged.contains(value) {
                    merged.push(value.clone());
                }
            }
            return Ok(in_order(merged, &new, &old, None));
        };
        let element = match self.type_under(ty, name) {
            Some(Type::List(element)) => Some(&**element),
            _ => None,
        };
        let (old, new) = special_elements(old, new, key)?;
        let mut merged = old.clone();
        for value in &new {
            let Value::Object(value) = value else {
                return Err(not_an_object(value));
            };
            let Some(wanted) = value.get(key) else {
                return Err(no_merge_key(value, key));
            };
            match position(&merged, key, wanted)? {
                Some(index) => {
                    let place = merged.get_mut(index).map(Value::take);
                    let Some(Value::Object(old)) = place else {
                        continue;
                    };
                    let new = self.object(element, old, value.clone())?;
                    if let Some(place) = merged.get_mut(index) {
                        *place = new.into();
                    }
                }
                None => merged.extend(without_directives(Value::Object(value.clone()))),
            }
        }
        Ok(in_order(merged, &new, &old, Some(key)))
    }

    /// Merges the lists whose order the patch gives.
    fn ordered_lists(
        &self,
        ty: Option<&Type>,
        document: &mut Map<String, Value>,
        patch: &mut Map<String, Value>,
    ) -> ApiResult<()> {
        let directives: Vec<String> = patch
            .keys()
            .filter(|key| key.starts_with(SET_ORDER))
            .cloned()
            .collect();
        for directive in directives {
            let Some(Value::Array(order)) = patch.remove(&directive) else {
                return Err(bad("invalid patch format of setElementOrder list"));
            };
            let name = directive.strip_prefix(SET_ORDER).unwrap_or_default();
            let key = self.merge_key(ty, name);
            let list = |value: Option<Value>| match value {
                None | Some(Value::Null) => Ok(None),
                Some(Value::Array(list)) => Ok(Some(list)),
                Some(_) => Err(bad("invalid patch format of setElementOrder list")),
            };
            // A null removes the list: that is for the ordinary merge to do.
            if patch.get(name).is_some_and(Value::is_null) {
                continue;
            }
            let new = list(patch.remove(name))?;
            let old = list(document.get(name).cloned())?;
            if let Some(new) = &new {
                order_fits(new, &order, key)?;
            }
            let merged = match (&old, new) {
                (None, None) => continue,
                (Some(old), None) => old.clone(),
                (None, Some(new)) => new.into_iter().filter_map(without_directives).collect(),
                (Some(old), Some(new)) => self.list(ty, name, old.clone(), new)?,
            };
            let merged = in_order(merged, &order, &old.unwrap_or_default(), key);
            document.insert(name.to_owned(), merged.into());
        }
        Ok(())
    }
}

fn not_an_object(value: &Value) -> ApiError {
    ApiError::internal(format!(
        "expected a map[string]interface {{}}, but received a {}",
        super::json_type(value)
    ))
}

/// Drops the fields that the patch does not retain.
fn retain_keys(document: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> ApiResult<()> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let Value::Array(keys) = keys else {
        return Err(bad("invalid patch format of retainKeys"));
    };
    let named = |key: &str| keys.iter().any(|other| other == key);
    let stray = patch.iter().any(|(key, value)| {
        !value.is_null()
            && !key.starts_with(DELETE_FROM)
            && !key.starts_with(SET_ORDER)
            && !named(key)
    });
    if stray {
        return Err(bad("invalid patch format of retainKeys"));
    }
    document.retain(|key, _| named(key));
    Ok(())
}

fn delete_from_list(
    document: &mut Map<String, Value>,
    name: &str,
    values: &Value,
) -> ApiResult<()> {
    let Value::Array(values) = values else {
        return Err(bad("invalid patch format of primitive list"));
    };
    if let Some(Value::Array(list)) = document.get_mut(name) {
        list.retain(|value| !values.contains(value));
    }
    Ok(())
}

/// A value that is new in the document: without directives and nulls; `None` if it is a directive itself.
fn without_directives(value: Value) -> Option<Value> {
    Some(match value {
        Value::Object(map) => {
            if map.contains_key(DIRECTIVE) {
                return None;
            }
            let kept = map.into_iter().filter(|(key, value)| {
                !value.is_null()
                    && key != RETAIN_KEYS
                    && !key.starts_with(DELETE_FROM)
                    && !key.starts_with(SET_ORDER)
            });
            kept.filter_map(|(key, value)| Some((key, without_directives(value)?)))
                .collect()
        }
        Value::Array(list) => list.into_iter().filter_map(without_directives).collect(),
        other => other,
    })
}

/// Applies the elements with directives; the list and the patch that remain.
fn special_elements(
    mut old: Vec<Value>,
    new: Vec<Value>,
    key: &str,
) -> ApiResult<(Vec<Value>, Vec<Value>)> {
    let (mut rest, mut replace) = (Vec::new(), false);
    for value in new {
        let Value::Object(element) = &value else {
            return Err(not_an_object(&value));
        };
        match element
            .get(DIRECTIVE)
            .map(|directive| (directive, directive.as_str()))
        {
            None => rest.push(value),
            Some((_, Some("delete"))) => {
                let Some(wanted) = element.get(key) else {
                    return Err(no_merge_key(element, key));
                };
                while let Some(index) = position(&old, key, wanted)? {
                    old.remove(index);
                }
            }
            Some((_, Some("replace"))) => replace = true,
            Some((_, Some("merge"))) => {
                return Err(ApiError::internal(
                    "merging lists cannot yet be specified in the patch",
                ));
            }
            Some((directive, _)) => {
                let (directive, element) = (go_value(directive), go_value(&value));
                return Err(ApiError::internal(format!(
                    "unknown patch type: {directive} in map: {element}"
                )));
            }
        }
    }
    Ok(if replace {
        (rest, Vec::new())
    } else {
        (old, rest)
    })
}

fn position(list: &[Value], key: &str, wanted: &Value) -> ApiResult<Option<usize>> {
    for (index, value) in list.iter().enumerate() {
        let Value::Object(element) = value else {
            return Err(ApiError::internal(format!(
                "value for key {index} is not a map"
            )));
        };
        if element.get(key) == Some(wanted) {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// What two elements are compared by.
fn identity<'v>(value: &'v Value, key: Option<&str>) -> Option<&'v Value> {
    match key {
        None => Some(value),
        Some(key) => value.get(key),
    }
}

fn index_in(list: &[Value], value: &Value, key: Option<&str>) -> Option<usize> {
    let wanted = identity(value, key)?;
    list.iter()
        .position(|other| identity(other, key) == Some(wanted))
}

/// The order of a merged list: the elements that the patch names in its order, the others in the order they had, and
/// each of these before the first of those that it stood before.
fn in_order(
    merged: Vec<Value>,
    patch_order: &[Value],
    old_order: &[Value],
    key: Option<&str>,
) -> Vec<Value> {
    let (mut named, mut others): (Vec<Value>, Vec<Value>) = merged
        .into_iter()
        .partition(|value| index_in(patch_order, value, key).is_some());
    named.sort_by_key(|value| index_in(patch_order, value, key));
    others.sort_by_key(|value| index_in(old_order, value, key).unwrap_or(usize::MAX));
    let mut result = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let other_first = match (others.peek(), named.peek()) {
            (None, None) => return result,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(other), Some(named)) => {
                match (
                    index_in(old_order, other, key),
                    index_in(old_order, named, key),
                ) {
                    (Some(other), Some(named)) => other < named,
                    _ => false,
                }
            }
        };
        result.extend(if other_first {
            others.next()
        } else {
            named.next()
        });
    }
}

/// Whether the elements of a patch come in the order that it sets.
fn order_fits(new: &[Value], order: &[Value], key: Option<&str>) -> ApiResult<()> {
    if order.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for value in new.iter().filter(|value| value.get(DIRECTIVE).is_none()) {
        if let (Some(key), Value::Object(element)) = (key, value)
            && !element.contains_key(key)
        {
            return Err(no_merge_key(element, key));
        }
        if !rest.any(|other| identity(other, key) == identity(value, key)) {
            let (new, order) = (
                go_value(&new.to_vec().into()),
                go_value(&order.to_vec().into()),
            );
            return Err(ApiError::internal(format!(
                "The order in patch list:\n{new}\n doesn't match $setElementOrder list:\n{order}\n"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::schema::built_in;

    fn merged(document: Value, patch: Value) -> ApiResult<Value> {
        let schema = built_in();
        let root = schema.find("io.k8s.api.core.v1.Pod").unwrap();
        let Value::Object(patch) = patch else {
            panic!("no object")
        };
        merge(schema, root, document, patch)
    }

    fn names(document: &Value) -> Vec<&str> {
        document["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|c| c["name"].as_str().unwrap())
            .collect()
    }

    fn pod(containers: &[&str]) -> Value {
        let containers: Vec<Value> = containers
            .iter()
            .map(|name| json!({"name": name, "image": "i"}))
            .collect();
        json!({"spec": {"containers": containers}})
    }

    #[test]
    fn elements_are_merged_by_their_key() {
        let patch = json!({"spec": {"containers": [{"name": "b", "image": "j"}, {"name": "d", "tty": true, "stdin": null}]}});
        let result = merged(pod(&["a", "b", "c"]), patch).unwrap();
        assert_eq!(names(&result), ["a", "b", "d", "c"]);
        assert_eq!(
            result["spec"]["containers"][1],
            json!({"name": "b", "image": "j"})
        );
        assert_eq!(
            result["spec"]["containers"][2],
            json!({"name": "d", "tty": true})
        );
    }

    #[test]
    fn directives_delete_and_replace() {
        let delete = json!({"spec": {"containers": [{"name": "b", "$patch": "delete"}]}});
        assert_eq!(names(&merged(pod(&["a", "b"]), delete).unwrap()), ["a"]);
        let replace = json!({"spec": {"containers": [{"name": "x"}, {"$patch": "replace"}]}});
        assert_eq!(names(&merged(pod(&["a", "b"]), replace).unwrap()), ["x"]);
        let replace = json!({"spec": {"$patch": "replace", "nodeName": "n"}});
        assert_eq!(
            merged(pod(&["a"]), replace).unwrap(),
            json!({"spec": {"nodeName": "n"}})
        );
        let delete = json!({"spec": {"$patch": "delete"}});
        assert_eq!(merged(pod(&["a"]), delete).unwrap(), json!({"spec": {}}));
        let unknown = json!({"spec": {"$patch": "explode"}});
        assert!(
            merged(pod(&["a"]), unknown)
                .unwrap_err()
                .message
                .contains("unknown patch type: explode")
        );
    }

    #[test]
    fn order_is_set() {
        let order =
            |names: &[&str]| -> Value { names.iter().map(|name| json!({"name": name})).collect() };
        let patch = json!({"spec": {"$setElementOrder/containers": order(&["c", "a"])}});
        assert_eq!(
            names(&merged(pod(&["a", "b", "c"]), patch).unwrap()),
            ["b", "c", "a"]
        );
        let patch = json!({"spec": {
            "$setElementOrder/containers": order(&["new", "b"]), "containers": [{"name": "new"}, {"name": "a", "$patch": "delete"}]}});
        assert_eq!(
            names(&merged(pod(&["a", "b"]), patch).unwrap()),
            ["new", "b"]
        );
        let patch = json!({"spec": {"$setElementOrder/containers": order(&["a"]), "containers": [{"name": "b"}]}});
        assert!(
            merged(pod(&["a"]), patch)
                .unwrap_err()
                .message
                .contains("doesn't match $setElementOrder")
        );
    }

    #[test]
    fn lists_of_primitives_merge_where_the_type_says_so() {
        let document = json!({"metadata": {"finalizers": ["a", "b"]}, "spec": {"containers": [{"name": "c", "args": ["1"]}]}});
        let patch = json!({"metadata": {"finalizers": ["c", "a"], "$deleteFromPrimitiveList/finalizers": ["b"]},
            "spec": {"containers": [{"name": "c", "args": ["2"]}]}});
        let result = merged(document, patch).unwrap();
        assert_eq!(result["metadata"]["finalizers"], json!(["c", "a"]));
        assert_eq!(result["spec"]["containers"][0]["args"], json!(["2"]));
    }

    #[test]
    fn retained_keys_drop_the_others() {
        let document = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
        let patch = json!({"spec": {"volumes": [{"$retainKeys": ["name", "hostPath"], "name": "v", "hostPath": {"path": "/"}}]}});
        let result = merged(document.clone(), patch).unwrap();
        assert_eq!(
            result["spec"]["volumes"][0],
            json!({"name": "v", "hostPath": {"path": "/"}})
        );
        let patch = json!({"spec": {"volumes": [{"$retainKeys": ["name"], "name": "v", "hostPath": {"path": "/"}}]}});
        assert_eq!(
            merged(document, patch).unwrap_err().message,
            "invalid patch format of retainKeys"
        );
    }

    #[test]
    fn an_element_without_key_is_refused() {
        let error = merged(
            pod(&["a"]),
            json!({"spec": {"containers": [{"image": "x"}]}}),
        )
        .unwrap_err();
        assert!(
            error
                .message
                .contains("map: map[image:x] does not contain declared merge key: name")
        );
    }

    proptest! {
        #[test]
        fn a_patch_without_order_can_be_applied_twice(
            old in proptest::collection::btree_set("[a-e]", 0..5), new in proptest::collection::btree_set("[a-h]", 1..5)
        ) {
            let document = pod(&old.iter().map(String::as_str).collect::<Vec<_>>());
            let patch = pod(&new.iter().map(String::as_str).collect::<Vec<_>>());
            let once = merged(document, patch.clone()).unwrap();
            let twice = merged(once.clone(), patch).unwrap();
            prop_assert_eq!(&once, &twice);
            prop_assert_eq!(names(&once).len(), old.union(&new).count());
        }
    }
}
