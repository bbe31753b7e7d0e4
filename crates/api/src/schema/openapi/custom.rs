//! What custom resources add to OpenAPI documents.

use std::sync::LazyLock;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::JSONSchemaProps;
use schemars::SchemaGenerator;
use serde_json::{Map, Value, json};

use super::paths::{self, Described};
use super::{Dialect, Extra};
use crate::kind::{ALL_VERBS, Scope, Subresource};

/// A version of a custom resource.
#[allow(missing_docs, reason = "the names are those of `Kind`")]
pub struct Custom<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    pub list_kind: &'a str,
    pub plural: &'a str,
    pub scope: Scope,
    pub subresources: &'static [Subresource],
    /// The schema in the definition.
    pub schema: Option<&'a JSONSchemaProps>,
    /// The fields that selectors may name.
    pub selectable: &'a [String],
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// `com.example.stable.v1.CronTab`
#[must_use]
pub fn schema_name(group: &str, version: &str, kind: &str) -> String {
    let mut parts: Vec<&str> = group.split('.').collect();
    parts.reverse();
    format!("{}.{version}.{kind}", parts.join("."))
}

/// What a resource adds to the document of all, `/openapi/v2`.
#[must_use]
pub fn v2(custom: &Custom<'_>) -> Extra {
    extra(custom, Dialect::V2)
}

/// What a resource adds to the document of its group and version.
#[must_use]
pub fn v3(custom: &Custom<'_>) -> Extra {
    extra(custom, Dialect::V3)
}

fn extra(custom: &Custom<'_>, dialect: Dialect) -> Extra {
    let name = schema_name(custom.group, custom.version, custom.kind);
    let list_name = schema_name(custom.group, custom.version, custom.list_kind);
    let described = Described {
        group: custom.group,
        version: custom.version,
        kind: custom.kind,
        plural: custom.plural,
        schema: &name,
        list_schema: list_name.clone(),
        scope: custom.scope,
        verbs: ALL_VERBS,
        strategic: false,
        subresources: custom.subresources,
    };
    let mut extra = Extra {
        paths: paths::of(&described, dialect).into_iter().collect(),
        scale: custom.subresources.iter().any(|one| one.name == "scale"),
        ..Extra::default()
    };
    let list = list(custom, &name, dialect);
    extra.schemas.insert(list_name, list);
    extra.schemas.insert(name, object(custom, dialect));
    extra
}

fn gvk(custom: &Custom<'_>, kind: &str) -> Value {
    json!([{"group": custom.group, "version": custom.version, "kind": kind}])
}

/// The descriptions of `apiVersion` and `kind`, as those of all kinds.
fn type_meta() -> &'static (Value, Value) {
    static DESCRIBED: LazyLock<(Value, Value)> = LazyLock::new(|| {
        let mut generator = SchemaGenerator::default();
        generator.subschema_for::<ConfigMap>();
        let definitions = generator.take_definitions(false);
        let found = definitions
            .get("io.k8s.api.core.v1.ConfigMap")
            .map(|schema| &schema["properties"]);
        let of = |name: &str| {
            let text = found.and_then(|properties| properties[name]["description"].as_str());
            json!({"description": text.unwrap_or_default(), "type": "string"})
        };
        (of("apiVersion"), of("kind"))
    });
    &DESCRIBED
}

fn reference(name: &str, description: &str, dialect: Dialect) -> Value {
    let name = dialect.reference(&format!("{META}{name}"));
    match dialect {
        Dialect::V2 => json!({"description": description, "$ref": name}),
        Dialect::V3 => json!({"description": description, "allOf": [{"$ref": name}]}),
    }
}

fn add_meta(properties: &mut Map<String, Value>, dialect: Dialect) {
    let (api_version, kind) = type_meta();
    properties.insert("apiVersion".to_owned(), api_version.clone());
    properties.insert("kind".to_owned(), kind.clone());
    let metadata = reference("ObjectMeta", "Standard object's metadata.", dialect);
    properties.insert("metadata".to_owned(), metadata);
}

fn list(custom: &Custom<'_>, name: &str, dialect: Dialect) -> Value {
    let (api_version, kind) = type_meta();
    json!({
        "description": format!("{} is a list of {}", custom.list_kind, custom.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": api_version,
            "kind": kind,
            "metadata": reference("ListMeta", "Standard list metadata.", dialect),
            "items": {
                "description": format!("List of {}.", custom.plural),
                "type": "array",
                "items": {"$ref": dialect.reference(name)},
            },
        },
        "x-kubernetes-group-version-kind": gvk(custom, custom.list_kind),
    })
}

fn object(custom: &Custom<'_>, dialect: Dialect) -> Value {
    let open = json!({"type": "object"});
    let mut schema = match (custom.schema, dialect) {
        (None, _) => open,
        // Clients of version 2 would refuse every other field if some were named.
        (Some(schema), Dialect::V2)
            if schema.x_kubernetes_preserve_unknown_fields == Some(true) =>
        {
            open
        }
        (Some(schema), _) => {
            let mut value = serde_json::to_value(schema).unwrap_or_default();
            whole_numbers(&mut value);
            if dialect == Dialect::V2 {
                to_v2(&mut value);
            }
            embedded(&mut value, dialect);
            if let Some(properties) = properties_of(&mut value) {
                add_meta(properties, dialect);
            }
            value
        }
    };
    schema["x-kubernetes-group-version-kind"] = gvk(custom, custom.kind);
    if dialect == Dialect::V3 && !custom.selectable.is_empty() {
        let fields = custom.selectable.iter();
        let fields: Vec<Value> = fields.map(|path| json!({"fieldPath": path})).collect();
        schema["x-kubernetes-selectable-fields"] = fields.into();
    }
    schema
}

fn properties_of(schema: &mut Value) -> Option<&mut Map<String, Value>> {
    let schema = schema.as_object_mut()?;
    let properties = schema
        .entry("properties")
        .or_insert_with(|| Value::Object(Map::new()));
    properties.as_object_mut()
}

/// `2` for `2.0`, which the typed schema makes of it.
pub fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            let whole = number
                .as_f64()
                .filter(|number| number.fract() == 0.0 && number.abs() < 9e15);
            if let (true, Some(whole)) = (number.is_f64(), whole) {
                #[allow(clippy::cast_possible_truncation, reason = "it is whole and small")]
                let whole = whole as i64;
                *value = whole.into();
            }
        }
        Value::Array(list) => list.iter_mut().for_each(whole_numbers),
        Value::Object(map) => map.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

/// Does something with the schemas under a schema.
fn under(schema: &mut Map<String, Value>, mut act: impl FnMut(&mut Value)) {
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().for_each(&mut act);
    }
    for name in ["items", "additionalProperties"] {
        if let Some(inner) = schema.get_mut(name).filter(|inner| inner.is_object()) {
            act(inner);
        }
    }
}

/// Takes away what version 2 has not, or its clients cannot read.
fn to_v2(value: &mut Value) {
    let Some(schema) = value.as_object_mut() else {
        return;
    };
    for name in ["allOf", "anyOf", "oneOf", "not"] {
        schema.remove(name);
    }
    let set =
        |schema: &Map<String, Value>, name: &str| schema.get(name) == Some(&Value::Bool(true));
    let nullable: Vec<String> = schema
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, property)| property["nullable"] == true)
        .map(|(name, _)| name.clone())
        .collect();
    if let Some(Value::Array(required)) = schema.get_mut("required") {
        required.retain(|name| !nullable.iter().any(|nullable| *name == **nullable));
    }
    if set(schema, "nullable") {
        for name in ["type", "nullable", "items", "properties"] {
            schema.remove(name);
        }
    }
    let open = set(schema, "x-kubernetes-preserve-unknown-fields");
    if open {
        schema.remove("items");
        schema.remove("properties");
    }
    let ty = schema
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if (ty == "array" && !schema.contains_key("items")) || (ty == "object" && open) {
        schema.remove("type");
    }
    under(schema, to_v2);
}

/// Says of embedded objects what all objects have.
fn embedded(value: &mut Value, dialect: Dialect) {
    let Some(schema) = value.as_object_mut() else {
        return;
    };
    under(schema, |inner| embedded(inner, dialect));
    let set = |name: &str| schema.get(name) == Some(&Value::Bool(true));
    let open = set("x-kubernetes-preserve-unknown-fields") && dialect == Dialect::V2;
    if open || !set("x-kubernetes-embedded-resource") {
        return;
    }
    let required = schema.entry("required").or_insert_with(|| json!([]));
    if let Value::Array(required) = required {
        for name in ["kind", "apiVersion"] {
            if !required.iter().any(|have| have == name) {
                required.push(name.into());
            }
        }
    }
    if let Some(properties) = properties_of(value) {
        add_meta(properties, dialect);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(schema: Value, dialect: Dialect) -> Value {
        let schema: JSONSchemaProps = serde_json::from_value(schema).unwrap();
        let custom = Custom {
            group: "stable.example.com",
            version: "v1",
            kind: "CronTab",
            list_kind: "CronTabList",
            plural: "crontabs",
            scope: Scope::Namespaced,
            subresources: &[Subresource::SCALE],
            schema: Some(&schema),
            selectable: &["spec.color".to_owned()],
        };
        let extra = extra(&custom, dialect);
        let list = &extra.schemas["com.example.stable.v1.CronTabList"];
        assert_eq!(list["required"], json!(["items"]));
        let path = "/apis/stable.example.com/v1/namespaces/{namespace}/crontabs/{name}";
        assert!(extra.paths.contains_key(path), "{:?}", extra.paths.keys());
        assert!(extra.paths.contains_key(&format!("{path}/scale")));
        extra.schemas["com.example.stable.v1.CronTab"].clone()
    }

    #[test]
    fn version_3_shows_the_schema_as_it_is_and_version_2_what_it_can() {
        let schema = json!({"type": "object", "description": "Foo", "required": ["a", "spec"], "properties": {
            "a": {"type": "string", "nullable": true},
            "spec": {"type": "object", "description": "Specification", "properties": {
                "n": {"type": "integer", "minimum": 1}, "o": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
                "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"x": {"type": "string"}}},
            }},
        }});
        let three = shown(schema.clone(), Dialect::V3);
        assert_eq!(
            three["properties"]["spec"]["properties"]["n"],
            json!({"type": "integer", "minimum": 1})
        );
        assert_eq!(
            three["properties"]["spec"]["properties"]["o"]["anyOf"]
                .as_array()
                .unwrap()
                .len(),
            2
        );
        assert_eq!(
            three["x-kubernetes-group-version-kind"][0]["kind"],
            "CronTab"
        );
        assert_eq!(
            three["x-kubernetes-selectable-fields"],
            json!([{"fieldPath": "spec.color"}])
        );
        assert!(
            three["properties"]["apiVersion"]["description"]
                .as_str()
                .unwrap()
                .starts_with("APIVersion defines")
        );
        let two = shown(schema, Dialect::V2);
        assert_eq!(two["required"], json!(["spec"]));
        assert_eq!(two["properties"]["a"], json!({}));
        assert_eq!(
            two["properties"]["spec"]["properties"]["o"],
            json!({"x-kubernetes-int-or-string": true})
        );
        assert_eq!(
            two["properties"]["spec"]["properties"]["open"],
            json!({"x-kubernetes-preserve-unknown-fields": true})
        );
        assert_eq!(
            two["properties"]["metadata"]["$ref"],
            "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
        );
        let open = shown(
            json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"x": {"type": "string"}}}),
            Dialect::V2,
        );
        assert!(open.get("properties").is_none());
    }
}
