//! What aggregated servers add to `/openapi/v2`: their paths, and the definitions these need.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use serde_json::{Map, Value};
use skiff_api::schema::openapi::{Extra, v2_definitions};

const DEFINITIONS: &str = "#/definitions/";
const PARAMETERS: &str = "#/parameters/";
const KINDS: &str = "x-kubernetes-group-version-kind";

/// What a server's document says of one group and version.
#[derive(Debug)]
pub(crate) struct Part {
    /// What the server calls this state of its document; empty: nothing.
    pub etag: String,
    hash: u64,
    paths: BTreeMap<String, Value>,
    definitions: BTreeMap<String, Value>,
}

impl PartialEq for Part {
    fn eq(&self, other: &Self) -> bool {
        (self.hash, &self.etag) == (other.hash, &other.etag)
    }
}

impl Part {
    /// Of a whole document.
    pub fn of(document: &Value, etag: String, group: &str, version: &str) -> Self {
        let prefix = format!("/apis/{group}/{version}/");
        let none = Map::new();
        let table = |name: &str| document[name].as_object().unwrap_or(&none);
        let (all, parameters) = (table("definitions"), table("parameters"));
        let mut paths: BTreeMap<String, Value> = table("paths")
            .iter()
            .filter(|(path, _)| path.starts_with(&prefix))
            .map(|(path, item)| (path.clone(), item.clone()))
            .collect();
        paths.values_mut().for_each(|item| inline(item, parameters));
        // What is needed, what that needs, and so on.
        let mut needed = BTreeSet::new();
        paths
            .values()
            .for_each(|item| references(item, &mut needed));
        let mut definitions = BTreeMap::new();
        while let Some(name) = needed.pop_first() {
            let Some(definition) = all.get(&name) else {
                continue;
            };
            if definitions.insert(name, definition.clone()).is_none() {
                let mut further = BTreeSet::new();
                references(definition, &mut further);
                further.retain(|name| !definitions.contains_key(name));
                needed.extend(further);
            }
        }
        let mut hasher = DefaultHasher::new();
        for (name, value) in paths.iter().chain(&definitions) {
            (name, value.to_string()).hash(&mut hasher);
        }
        Self {
            etag,
            hash: hasher.finish(),
            paths,
            definitions,
        }
    }

    /// Tells states of the part from each other.
    pub fn hash(&self) -> u64 {
        self.hash
    }
}

/// Puts shared parameters where they are named: our own documents share none.
fn inline(value: &mut Value, parameters: &Map<String, Value>) {
    let named = value["$ref"]
        .as_str()
        .and_then(|name| name.strip_prefix(PARAMETERS));
    if let Some(parameter) = named.and_then(|name| parameters.get(name)) {
        *value = parameter.clone();
        return;
    }
    match value {
        Value::Object(fields) => fields
            .values_mut()
            .for_each(|field| inline(field, parameters)),
        Value::Array(items) => items.iter_mut().for_each(|item| inline(item, parameters)),
        _ => {}
    }
}

/// The names of the definitions that are referred to.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                match field
                    .as_str()
                    .and_then(|name| name.strip_prefix(DEFINITIONS))
                {
                    Some(name) if key == "$ref" => drop(found.insert(name.to_owned())),
                    _ => references(field, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

fn rename(value: &mut Value, names: &BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                let named = field
                    .as_str()
                    .and_then(|name| name.strip_prefix(DEFINITIONS));
                match named.and_then(|name| names.get(name)) {
                    Some(new) if key == "$ref" => *field = format!("{DEFINITIONS}{new}").into(),
                    _ => rename(field, names),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, names)),
        _ => {}
    }
}

/// Whether two definitions say the same, for whichever kinds.
fn same(one: &Value, other: &Value) -> bool {
    let (Value::Object(one), Value::Object(other)) = (one, other) else {
        return one == other;
    };
    let without =
        |fields: &Map<String, Value>| fields.iter().filter(|(key, _)| *key != KINDS).count();
    let fields = one.iter().filter(|(key, _)| *key != KINDS);
    without(one) == without(other)
        && fields
            .into_iter()
            .all(|(key, value)| other.get(key) == Some(value))
}

/// The names of the definitions that parts bring.
pub(crate) fn names<'p>(parts: impl Iterator<Item = &'p Part>) -> BTreeSet<&'p str> {
    let names = parts.flat_map(|part| part.definitions.keys());
    names.map(String::as_str).collect()
}

/// Adds parts to what is to be served, in order. A definition that is there already under its name and says something else
/// gets another name, as upstream gives it.
pub(crate) fn merge<'p>(extra: &mut Extra, parts: impl Iterator<Item = &'p Part> + Clone) {
    let wanted = names(parts.clone());
    if wanted.is_empty() {
        return;
    }
    let mut known = v2_definitions(extra, &|name| wanted.contains(name));
    for (name, schema) in &extra.schemas {
        known.insert(name.clone(), schema.clone());
    }
    for part in parts {
        let mut names = BTreeMap::new();
        let mut new = Vec::new();
        for (name, definition) in &part.definitions {
            let candidates = (2..).map(|number| format!("{name}_v{number}"));
            let mut candidates = std::iter::once(name.clone()).chain(candidates);
            // The candidates have no end, so there is one.
            let chosen =
                candidates.find(|name| known.get(name).is_none_or(|have| same(have, definition)));
            let Some(chosen) = chosen else { continue };
            if chosen != *name {
                names.insert(name.clone(), chosen.clone());
            }
            if !known.contains_key(&chosen) {
                known.insert(chosen.clone(), definition.clone());
                new.push((chosen, definition.clone()));
            }
        }
        for (name, mut definition) in new {
            rename(&mut definition, &names);
            extra.schemas.insert(name, definition);
        }
        for (path, item) in &part.paths {
            extra.paths.entry(path.clone()).or_insert_with(|| {
                let mut item = item.clone();
                rename(&mut item, &names);
                item
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document(thing: &Value) -> Value {
        json!({
            "paths": {
                "/apis/wardle.example/v1/things": {"get": {
                    "parameters": [{"$ref": "#/parameters/limit-1"}],
                    "responses": {"200": {"schema": {"$ref": "#/definitions/Things"}}}}},
                "/apis/wardle.example/v2/things": {"get": {"schema": {"$ref": "#/definitions/Other"}}},
                "/version/": {},
            },
            "parameters": {"limit-1": {"name": "limit", "in": "query"}},
            "definitions": {
                "Things": {"properties": {"items": {"items": {"$ref": "#/definitions/Thing"}}}},
                "Thing": thing, "Other": {}, "Unused": {},
            },
        })
    }

    fn part(thing: &Value) -> Part {
        Part::of(&document(thing), String::new(), "wardle.example", "v1")
    }

    #[test]
    fn a_part_has_its_paths_and_what_they_need() {
        let part = part(&json!({"type": "object"}));
        let paths: Vec<&String> = part.paths.keys().collect();
        assert_eq!(paths, ["/apis/wardle.example/v1/things"]);
        let names: Vec<&String> = part.definitions.keys().collect();
        assert_eq!(names, ["Thing", "Things"]);
        let parameter = &part.paths["/apis/wardle.example/v1/things"]["get"]["parameters"][0];
        assert_eq!(parameter["name"], "limit");
        assert_ne!(part.hash(), self::part(&json!({})).hash());
    }

    #[test]
    fn definitions_that_differ_get_names_of_their_own() {
        let parts = [
            part(&json!({"type": "object", (KINDS): [1]})),
            part(&json!({"type": "object", (KINDS): [2]})),
            part(&json!({"type": "string"})),
        ];
        let mut extra = Extra::default();
        merge(&mut extra, parts[..2].iter());
        let names: Vec<&String> = extra.schemas.keys().collect();
        assert_eq!(names, ["Thing", "Things"]);

        let mut extra = Extra::default();
        let own = json!({"type": "integer"});
        extra.schemas.insert("Thing".to_owned(), own.clone());
        merge(&mut extra, parts.iter());
        assert_eq!(extra.schemas["Thing"], own);
        assert_eq!(extra.schemas["Thing_v2"]["type"], "object");
        assert_eq!(extra.schemas["Thing_v3"]["type"], "string");
        let reference = &extra.schemas["Things"]["properties"]["items"]["items"]["$ref"];
        assert_eq!(reference, "#/definitions/Thing_v2");
        assert!(extra.paths.contains_key("/apis/wardle.example/v1/things"));
    }

    #[test]
    fn what_is_built_in_keeps_its_name() {
        let name = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
        let with = |meta: Value| {
            let document = json!({
                "paths": {"/apis/g/v1/x": {"get": {"schema": {"$ref": format!("{DEFINITIONS}{name}")}}}},
                "definitions": {(name): meta},
            });
            let part = Part::of(&document, String::new(), "g", "v1");
            let mut extra = Extra::default();
            merge(&mut extra, std::iter::once(&part));
            extra.schemas.into_keys().collect::<Vec<_>>()
        };
        let own = v2_definitions(&Extra::default(), &|one| one == name)[name].clone();
        assert!(with(own).is_empty());
        assert_eq!(with(json!({"type": "object"})), [format!("{name}_v2")]);
    }
}
