//! The schemas in OpenAPI documents: those that the kinds' types bring, with what Kubernetes adds to them.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1 as meta;
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use k8s_openapi::apimachinery::pkg::version::Info;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::Dialect;
use crate::kind::Kind;
use crate::schema::table::{TYPES, short_name};

/// Flags of a line of the type table: words and `key=value`.
type Flags = Vec<(&'static str, &'static str)>;

/// Makes the schemas of one document, each once.
pub(super) struct Definitions {
    dialect: Dialect,
    done: BTreeSet<String>,
    types: HashMap<&'static str, Flags>,
    fields: HashMap<(&'static str, &'static str), Flags>,
}

impl Definitions {
    pub(super) fn new(dialect: Dialect) -> Self {
        let (mut types, mut fields) = (HashMap::new(), HashMap::new());
        let mut current = "";
        for line in TYPES.lines().chain(crate::legacy::TEXT.lines()) {
            let mut words = line.split(' ');
            let first = words.next().unwrap_or_default();
            let flag = |word: &'static str| word.split_once('=').unwrap_or((word, ""));
            match first.strip_prefix('@') {
                Some(name) => {
                    current = name;
                    types.insert(name, words.map(flag).collect());
                }
                None => {
                    let code = words.next().unwrap_or_default();
                    let flags: Flags = std::iter::once(("type", code))
                        .chain(words.map(flag))
                        .collect();
                    fields.insert((current, first), flags);
                }
            }
        }
        Self {
            dialect,
            done: BTreeSet::new(),
            types,
            fields,
        }
    }

    /// Hands out all schemas that the kinds consist of, one after the other.
    pub(super) fn for_each(
        &mut self,
        kinds: impl IntoIterator<Item = &'static Kind>,
        take: &mut dyn FnMut(&str, Value),
    ) {
        let mut gvks: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        let kinds: Vec<&'static Kind> = kinds.into_iter().collect();
        for name in ["DeleteOptions", "WatchEvent"] {
            let mut served: Vec<Value> = Vec::new();
            for kind in &kinds {
                let gvk = gvk(kind.group, kind.version, name);
                if !served.contains(&gvk) {
                    served.push(gvk);
                }
            }
            for (group, version) in NOT_SERVED {
                let gvk = gvk(group, version, name);
                if !served.contains(&gvk) {
                    served.push(gvk);
                }
            }
            served.sort_by_cached_key(|gvk| (gvk["group"].to_string(), gvk["version"].to_string()));
            gvks.insert(format!("{META}{name}"), served);
        }
        for kind in kinds {
            // One kind at a time: all at once would take a lot of memory.
            let mut generator = SchemaGenerator::new(SchemaSettings::draft2020_12());
            kind.ops.add_schema(&mut generator);
            for subresource in kind.subresources {
                let other = crate::table::known_kinds();
                let mut other = other
                    .filter(|other| (other.group, other.version, other.kind) == subresource.kind);
                if let Some(other) = other.next() {
                    other.ops.add_schema(&mut generator);
                    gvks.insert(
                        other.schema.to_owned(),
                        vec![gvk(other.group, other.version, other.kind)],
                    );
                }
            }
            gvks.insert(
                kind.schema.to_owned(),
                vec![gvk(kind.group, kind.version, kind.kind)],
            );
            self.drain(&mut generator, &gvks, take);
            if kind.verbs.contains(&crate::Verb::List) {
                take(&format!("{}List", kind.schema), self.list(kind));
            }
        }
        let mut generator = SchemaGenerator::new(SchemaSettings::draft2020_12());
        generator.subschema_for::<meta::ListMeta>();
        generator.subschema_for::<meta::ObjectMeta>();
        generator.subschema_for::<meta::DeleteOptions>();
        generator.subschema_for::<meta::Status>();
        generator.subschema_for::<meta::Patch>();
        generator.subschema_for::<RawExtension>();
        generator.subschema_for::<meta::APIGroupList>();
        generator.subschema_for::<meta::APIResourceList>();
        generator.subschema_for::<meta::APIVersions>();
        generator.subschema_for::<Info>();
        let event = json!({
            "description": "A change that a watch tells of.", "type": "object",
            "properties": {
                "object": {"$ref": "#/$defs/io.k8s.apimachinery.pkg.runtime.RawExtension"},
                "type": {"type": "string"},
            },
        });
        let events = format!("{META}WatchEvent");
        generator.definitions_mut().insert(events, event);
        for name in [
            "Status",
            "APIGroup",
            "APIGroupList",
            "APIResourceList",
            "APIVersions",
        ] {
            gvks.insert(format!("{META}{name}"), vec![gvk("", "v1", name)]);
        }
        self.drain(&mut generator, &gvks, take);
    }

    fn drain(
        &mut self,
        generator: &mut SchemaGenerator,
        gvks: &BTreeMap<String, Vec<Value>>,
        take: &mut dyn FnMut(&str, Value),
    ) {
        for (name, schema) in generator.take_definitions(false) {
            if !self.done.insert(name.clone()) {
                continue;
            }
            let Value::Object(schema) = schema else {
                continue;
            };
            let mut schema = self.definition(&name, schema);
            if let Some(gvks) = gvks.get(&name) {
                schema.insert("x-kubernetes-group-version-kind".to_owned(), json!(gvks));
            }
            take(&name, schema.into());
        }
    }

    fn definition(&self, name: &str, mut schema: Map<String, Value>) -> Map<String, Value> {
        if let Some(special) = self.special(name, &schema) {
            return special;
        }
        let short = short_name(name);
        let mut required = Vec::new();
        if let Some(Value::Object(properties)) = schema.get_mut("properties") {
            for (field, property) in properties.iter_mut() {
                self.rewrite(property);
                let flags = self
                    .fields
                    .get(&(&*short, field.as_str()))
                    .map(Vec::as_slice)
                    .unwrap_or_default();
                if flags.iter().any(|(key, _)| *key == "r") {
                    required.push(field.clone());
                }
                self.add_flags(property, flags);
            }
        }
        schema.remove("required");
        if !required.is_empty() {
            required.sort_unstable();
            schema.insert("required".to_owned(), json!(required));
        }
        for (key, value) in self.types.get(&*short).into_iter().flatten() {
            match *key {
                "map-type" => drop(schema.insert("x-kubernetes-map-type".to_owned(), json!(value))),
                "unions" => {
                    let unions = serde_json::from_str(value).unwrap_or(Value::Null);
                    schema.insert("x-kubernetes-unions".to_owned(), unions);
                }
                _ => {}
            }
        }
        schema
    }

    /// Types that are no objects with fields.
    fn special(&self, name: &str, schema: &Map<String, Value>) -> Option<Map<String, Value>> {
        let v3 = self.dialect == Dialect::V3;
        let mut special = match name.rsplit('.').next()? {
            "Quantity" if v3 => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            "Quantity" => json!({"type": "string"}),
            "IntOrString" if v3 => {
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
            }
            "IntOrString" => json!({"type": "string", "format": "int-or-string"}),
            "RawExtension" | "FieldsV1" | "Patch" => json!({"type": "object"}),
            "JSON"
            | "JSONSchemaPropsOrArray"
            | "JSONSchemaPropsOrBool"
            | "JSONSchemaPropsOrStringArray" => json!({}),
            _ => return None,
        };
        special["description"] = schema.get("description").cloned().unwrap_or_default();
        special.as_object().cloned()
    }

    /// References as the dialect writes them.
    fn rewrite(&self, schema: &mut Value) {
        let Value::Object(map) = schema else { return };
        if let Some(Value::String(reference)) = map.remove("$ref") {
            let name = reference.rsplit('/').next().unwrap_or_default();
            let reference = self.dialect.reference(name);
            match self.dialect {
                Dialect::V2 => map.insert("$ref".to_owned(), reference.into()),
                // In version 3 a reference has no siblings.
                Dialect::V3 if map.is_empty() => map.insert("$ref".to_owned(), reference.into()),
                Dialect::V3 => map.insert("allOf".to_owned(), json!([{"$ref": reference}])),
            };
        }
        for key in ["items", "additionalProperties"] {
            if let Some(inner) = map.get_mut(key) {
                self.rewrite(inner);
            }
        }
    }

    fn add_flags(&self, property: &mut Value, flags: &[(&str, &str)]) {
        let Value::Object(map) = property else { return };
        // A tilde stands for a blank, which ends a flag in the table.
        let list = |text: &str| {
            let words = text.split(',').map(|word| word.replace('~', " "));
            json!(words.collect::<Vec<_>>())
        };
        for (key, value) in flags {
            let (name, value) = match *key {
                "list" => ("x-kubernetes-list-type", json!(value)),
                "keys" => ("x-kubernetes-list-map-keys", list(value)),
                "map-type" => ("x-kubernetes-map-type", json!(value)),
                "patch" => ("x-kubernetes-patch-strategy", json!(value)),
                "merge-key" => ("x-kubernetes-patch-merge-key", json!(value)),
                // Version 2 tells no defaults: old clients filled them in.
                "default" if self.dialect == Dialect::V2 => continue,
                "default" => ("default", serde_json::from_str(value).unwrap_or_default()),
                "enum" => ("enum", list(value)),
                "item-enum" => {
                    if let Some(Value::Object(items)) = map.get_mut("items") {
                        items.insert("enum".to_owned(), list(value));
                    }
                    continue;
                }
                "value-enum" => {
                    if let Some(Value::Object(values)) = map.get_mut("additionalProperties") {
                        values.insert("enum".to_owned(), list(value));
                    }
                    continue;
                }
                "v" if self.dialect == Dialect::V3 => ("default", json!({})),
                _ => continue,
            };
            map.insert(name.to_owned(), value);
        }
        // A reference got siblings.
        if self.dialect == Dialect::V3
            && map.len() > 1
            && let Some(reference) = map.remove("$ref")
        {
            map.insert("allOf".to_owned(), json!([{"$ref": reference}]));
        }
    }

    fn list(&self, kind: &Kind) -> Value {
        let text = |description: &str| json!({"type": "string", "description": description});
        let name = format!("{}List", kind.kind);
        json!({
            "description": format!("{name} is a list of objects of kind {}.", kind.kind),
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": text("The version of the schema of the list."),
                "kind": text("The kind of the list."),
                "metadata": {"allOf": [{"$ref": self.dialect.reference(&format!("{META}ListMeta"))}]},
                "items": {
                    "description": "The objects.", "type": "array",
                    "items": {"$ref": self.dialect.reference(kind.schema)},
                },
            },
            "x-kubernetes-group-version-kind": [gvk(kind.group, kind.version, &name)],
        })
    }
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

/// Group-versions that are known to upstream's server though it serves no kind of them: options and watch events
/// are kinds of them as well, and generated clients look for that.
const NOT_SERVED: &[(&str, &str)] = &[
    ("admission.k8s.io", "v1"),
    ("admission.k8s.io", "v1beta1"),
    ("admissionregistration.k8s.io", "v1alpha1"),
    ("admissionregistration.k8s.io", "v1beta1"),
    ("apiextensions.k8s.io", "v1beta1"),
    ("apiregistration.k8s.io", "v1beta1"),
    ("apps", "v1beta1"),
    ("apps", "v1beta2"),
    ("authentication.k8s.io", "v1alpha1"),
    ("authentication.k8s.io", "v1beta1"),
    ("authorization.k8s.io", "v1beta1"),
    ("batch", "v1beta1"),
    ("certificates.k8s.io", "v1alpha1"),
    ("certificates.k8s.io", "v1beta1"),
    ("coordination.k8s.io", "v1alpha2"),
    ("coordination.k8s.io", "v1beta1"),
    ("discovery.k8s.io", "v1beta1"),
    ("events.k8s.io", "v1beta1"),
    ("extensions", "v1beta1"),
    ("flowcontrol.apiserver.k8s.io", "v1beta1"),
    ("flowcontrol.apiserver.k8s.io", "v1beta2"),
    ("flowcontrol.apiserver.k8s.io", "v1beta3"),
    ("imagepolicy.k8s.io", "v1alpha1"),
    ("internal.apiserver.k8s.io", "v1alpha1"),
    ("networking.k8s.io", "v1beta1"),
    ("node.k8s.io", "v1alpha1"),
    ("node.k8s.io", "v1beta1"),
    ("policy", "v1beta1"),
    ("rbac.authorization.k8s.io", "v1alpha1"),
    ("rbac.authorization.k8s.io", "v1beta1"),
    ("resource.k8s.io", "v1alpha3"),
    ("resource.k8s.io", "v1beta1"),
    ("resource.k8s.io", "v1beta2"),
    ("scheduling.k8s.io", "v1alpha2"),
    ("scheduling.k8s.io", "v1beta1"),
    ("storage.k8s.io", "v1alpha1"),
    ("storage.k8s.io", "v1beta1"),
    ("storagemigration.k8s.io", "v1beta1"),
];

fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}
