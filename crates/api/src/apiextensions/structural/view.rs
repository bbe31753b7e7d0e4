//! A definition's schema as server-side apply sees it: how objects and lists are taken apart and merged.

use super::{Additional, List, Node, Ty};
use crate::apiextensions::custom_object::root_type;
use crate::schema::{Field, ListKind, Schema, Type, TypeDef, TypeId, built_in};

/// The types of a custom resource's fields.
#[must_use]
pub fn types(root: &Node) -> (Schema, TypeId) {
    let mut schema = Schema::over(built_in());
    let fields = fields(root, "", &mut schema);
    let root = root_type(&schema, fields, root.preserve);
    let id = schema.add(root);
    (schema, id)
}

fn fields(node: &Node, path: &str, schema: &mut Schema) -> Vec<Field> {
    let properties = node.properties.iter();
    properties
        .map(|(name, node)| {
            let ty = type_of(node, &format!("{path}.{name}"), schema);
            let list = match &node.list {
                Some(List::Set) => Some(ListKind::Set),
                Some(List::Map(keys)) => {
                    let keys = keys.iter().map(|key| key.clone().into());
                    Some(ListKind::Map(keys.collect()))
                }
                Some(List::Atomic) => Some(ListKind::Atomic),
                None if node.atomic => Some(ListKind::Atomic),
                None => None,
            };
            Field {
                pointer: true,
                list,
                default: node.default.clone(),
                ..Field::new(name.clone(), ty)
            }
        })
        .collect()
}

fn type_of(node: &Node, path: &str, schema: &mut Schema) -> Type {
    if node.int_or_string {
        return Type::Any;
    }
    match node.ty {
        Some(Ty::Object) => object(node, path, schema),
        Some(Ty::Array) => {
            let element = match node.items.as_deref() {
                Some(items) => type_of(items, &format!("{path}[]"), schema),
                None => Type::Any,
            };
            Type::List(Box::new(element))
        }
        None if node.preserve => match node.properties.is_empty() {
            true => Type::Deduced,
            false => object(node, path, schema),
        },
        _ => Type::Any,
    }
}

fn object(node: &Node, path: &str, schema: &mut Schema) -> Type {
    if let Additional::Fitting(element) = &node.additional {
        return Type::Map(Box::new(type_of(element, &format!("{path}{{}}"), schema)));
    }
    if node.properties.is_empty() && !node.embedded {
        return match node.preserve {
            true => Type::Deduced,
            false => Type::Map(Box::new(Type::Deduced)),
        };
    }
    let fields = fields(node, path, schema);
    let def = match node.embedded {
        true => root_type(schema, fields, node.preserve),
        false => TypeDef {
            fields,
            open: node.preserve,
            ..TypeDef::default()
        },
    };
    Type::Object(schema.add(TypeDef {
        name: format!("CustomResource{path}").into(),
        atomic: node.atomic,
        ..def
    }))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::super::node;
    use super::*;
    use crate::patch::apply::{Manager, apply};
    use crate::schema::body::Target;

    fn manager(name: &str) -> Manager<'_> {
        Manager {
            name,
            api_version: "e.com/v1",
            subresource: "",
            now: Timestamp::UNIX_EPOCH,
            ignored: &[],
        }
    }

    #[test]
    fn lists_and_open_objects_merge_as_the_schema_says() {
        let node = node(
            json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
                "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                    "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "integer"}}}},
                "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                "list": {"type": "array", "items": {"type": "string"}},
                "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "zero": {"type": "integer"},
            }}}}),
        );
        let (schema, root) = types(&node);
        let target = Target {
            schema: &schema,
            root,
            group: "e.com",
            version: "v1",
            kind: "Foo",
            pruned_by: None,
        };
        let object = |spec: Value| json!({"apiVersion": "e.com/v1", "kind": "Foo", "metadata": {"name": "a"}, "spec": spec});
        let one = object(
            json!({"map": [{"k": "a", "v": 1}], "set": ["x"], "list": ["1"], "open": {"a": {"b": 1}}, "zero": 0}),
        );
        let made = apply(&target, None, &one, &manager("one"), false).unwrap();
        assert_eq!(made["spec"], one["spec"]);
        let two =
            object(json!({"map": [{"k": "b", "v": 2}], "set": ["y"], "open": {"a": {"c": 2}}}));
        let both = apply(&target, Some(&made), &two, &manager("two"), false).unwrap();
        assert_eq!(
            both["spec"],
            json!({
                "map": [{"k": "a", "v": 1}, {"k": "b", "v": 2}], "set": ["x", "y"], "list": ["1"],
                "open": {"a": {"b": 1, "c": 2}}, "zero": 0,
            })
        );
        let clash = object(json!({"list": ["2"], "open": {"a": {"b": 3}}}));
        let error = apply(&target, Some(&both), &clash, &manager("three"), false).unwrap_err();
        assert_eq!(error.code, 409);
        assert!(
            error.message.contains(".spec.open.a.b") && error.message.contains(".spec.list"),
            "{}",
            error.message
        );
        let less = object(json!({"map": [{"k": "a", "v": 1}]}));
        let left = apply(&target, Some(&both), &less, &manager("one"), false).unwrap();
        assert_eq!(
            left["spec"],
            json!({"map": [{"k": "a", "v": 1}, {"k": "b", "v": 2}], "set": ["y"], "open": {"a": {"c": 2}}})
        );
        let unknown = object(json!({"other": 1}));
        let error = apply(&target, None, &unknown, &manager("one"), false).unwrap_err();
        assert!(
            error
                .message
                .contains(".spec.other: field not declared in schema"),
            "{}",
            error.message
        );
    }
}
