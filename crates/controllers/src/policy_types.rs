//! Checks the expressions of validating admission policies against the types of what the policies are for.
//!
//! A policy works without: when it is asked, an object's fields are what they are. What is found here is a warning to
//! its author.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::{
    ExpressionWarning, NamedRuleWithOperations, ValidatingAdmissionPolicySpec,
};
use serde_json::Value;
use skiff_api::schema::table::{self, Type as ApiType, TypeId};
use skiff_cel::{Environment, Schema, Type};

use crate::discovery::ApiResource;

/// No more types are checked for one rule.
const MAX_TYPES: usize = 10;
/// References that go deeper, or around in a circle, are not followed from here on.
const MAX_DEPTH: usize = 32;

/// A kind in a version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Gvk {
    pub group: String,
    pub version: String,
    pub kind: String,
}

impl std::fmt::Display for Gvk {
    /// As upstream shows it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}, Kind={}", self.group, self.version, self.kind)
    }
}

impl Gvk {
    /// Of an `apiVersion` and a kind.
    pub fn of(api_version: &str, kind: &str) -> Self {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Self {
            group: group.to_owned(),
            version: version.to_owned(),
            kind: kind.to_owned(),
        }
    }
}

/// The kinds that a policy is for, as far as its rules name them: groups, versions and resources without `*`.
pub(crate) fn kinds(rules: &[NamedRuleWithOperations], resources: &[ApiResource]) -> Vec<Gvk> {
    let mut kinds = BTreeSet::new();
    for rule in rules {
        let named = |list: &Option<Vec<String>>| {
            let mut list = list.clone().unwrap_or_default();
            list.sort();
            (!list.iter().any(|item| item.contains('*'))).then_some(list)
        };
        let (Some(groups), Some(versions)) = (named(&rule.api_groups), named(&rule.api_versions))
        else {
            continue;
        };
        let mut plurals = rule.resources.clone().unwrap_or_default();
        plurals.retain(|plural| !plural.contains(['*', '/']));
        plurals.sort();
        let mut count = 0;
        for group in &groups {
            for version in &versions {
                for plural in &plurals {
                    let found = resources.iter().find(|resource| {
                        resource.group == *group
                            && resource.version == *version
                            && resource.plural == *plural
                    });
                    let Some(found) = found else { continue };
                    kinds.insert(Gvk {
                        group: group.clone(),
                        version: version.clone(),
                        kind: found.kind.clone(),
                    });
                    count += 1;
                    if count == MAX_TYPES {
                        return kinds.into_iter().collect();
                    }
                }
            }
        }
    }
    kinds.into_iter().collect()
}

/// The type of a built-in kind.
pub(crate) fn built_in(gvk: &Gvk) -> Option<Arc<Schema>> {
    let mut all = skiff_api::kinds().iter();
    let kind = all.find(|kind| {
        kind.group == gvk.group && kind.version == gvk.version && kind.kind == gvk.kind
    })?;
    let root = table::built_in().find(kind.schema)?;
    Some(BuiltIn::default().object(root, &gvk.kind))
}

/// Types as they are built: one for each definition, however many fields are of it, under the path that came to it
/// first.
#[derive(Default)]
struct BuiltIn {
    /// `None` while a definition is being built: within itself it may be anything.
    known: HashMap<TypeId, Option<Arc<Schema>>>,
}

impl BuiltIn {
    fn object(&mut self, id: TypeId, name: &str) -> Arc<Schema> {
        if let Some(known) = self.known.get(&id) {
            return known.clone().unwrap_or_else(Schema::any);
        }
        self.known.insert(id, None);
        let def = table::built_in().get(id);
        let built = if def.open {
            Schema::any()
        } else {
            let fields: Vec<_> = def
                .fields
                .iter()
                .map(|field| {
                    let name = format!("{name}.{}", field.name);
                    (&*field.name, self.schema(&field.ty, &name))
                })
                .collect();
            Schema::object(name, fields)
        };
        self.known.insert(id, Some(built.clone()));
        built
    }

    fn schema(&mut self, ty: &ApiType, name: &str) -> Arc<Schema> {
        match ty {
            ApiType::String => Schema::string(),
            ApiType::Bool => Schema::bool(),
            ApiType::Int32 | ApiType::Int64 => Schema::int(),
            ApiType::Float => Schema::of(Type::Double),
            ApiType::Bytes => Schema::of(Type::Bytes),
            ApiType::Time | ApiType::MicroTime => Schema::of(Type::Timestamp),
            ApiType::Quantity | ApiType::IntOrString | ApiType::Any | ApiType::Deduced => {
                Schema::any()
            }
            ApiType::Object(id) => self.object(*id, name),
            ApiType::List(element) => Schema::list(self.schema(element, &format!("{name}.@idx"))),
            ApiType::Map(element) => Schema::map(self.schema(element, &format!("{name}.@elem"))),
        }
    }
}

/// The type of a kind in an OpenAPI v3 document of its group and version.
pub(crate) fn published(document: &Value, gvk: &Gvk) -> Option<Arc<Schema>> {
    let schemas = document.pointer("/components/schemas")?.as_object()?;
    let is_it = |schema: &&Value| {
        let kinds = schema.get("x-kubernetes-group-version-kind");
        kinds.and_then(Value::as_array).is_some_and(|kinds| {
            kinds.iter().any(|kind| {
                kind["group"] == *gvk.group
                    && kind["version"] == *gvk.version
                    && kind["kind"] == *gvk.kind
            })
        })
    };
    let schema = schemas.values().find(is_it)?;
    let resolved = resolve(schema, schemas, 0);
    skiff_cel::from_openapi(&resolved, true, &gvk.kind)
}

/// A schema with what it refers to put in its place.
fn resolve(schema: &Value, all: &serde_json::Map<String, Value>, depth: usize) -> Value {
    if depth > MAX_DEPTH {
        return Value::Null;
    }
    match schema {
        Value::Object(fields) => {
            let referred = fields
                .get("$ref")
                .and_then(Value::as_str)
                .and_then(|path| all.get(path.rsplit('/').next()?));
            if let Some(referred) = referred {
                return resolve(referred, all, depth + 1);
            }
            let mut resolved: serde_json::Map<String, Value> = fields
                .iter()
                .map(|(name, value)| (name.clone(), resolve(value, all, depth + 1)))
                .collect();
            // A reference with a description or default stands in an `allOf` of its own.
            if let Some(Value::Array(parts)) = resolved.remove("allOf")
                && let [Value::Object(only)] = parts.as_slice()
            {
                for (name, value) in only {
                    resolved.entry(name).or_insert_with(|| value.clone());
                }
            }
            Value::Object(resolved)
        }
        Value::Array(list) => list
            .iter()
            .map(|value| resolve(value, all, depth + 1))
            .collect(),
        other => other.clone(),
    }
}

/// The types that a policy is checked against.
#[derive(Debug, Default)]
pub(crate) struct Types {
    pub objects: Vec<(Gvk, Arc<Schema>)>,
    /// The type of the parameters, if it is known.
    pub params: Option<Arc<Schema>>,
}

/// What is wrong with the policy's expressions.
pub(crate) fn warnings(
    spec: &ValidatingAdmissionPolicySpec,
    types: &Types,
) -> Vec<ExpressionWarning> {
    let environments: Vec<(&Gvk, Environment)> = types
        .objects
        .iter()
        .map(|(gvk, object)| (gvk, environment(spec, object, types.params.as_ref())))
        .collect();
    let mut warnings = Vec::new();
    let mut check = |source: &str, field: String| {
        let found: Vec<String> = environments
            .iter()
            .filter_map(|(gvk, environment)| {
                let errors = environment.compile(source).err()?;
                Some(format!("{gvk}: {errors}\n"))
            })
            .collect();
        if !found.is_empty() {
            warnings.push(ExpressionWarning {
                field_ref: field,
                warning: found.join("\n"),
            });
        }
    };
    for (index, validation) in spec.validations.iter().flatten().enumerate() {
        let path = format!("spec.validations[{index}]");
        check(&validation.expression, format!("{path}.expression"));
        if let Some(message) = validation.message_expression.as_deref()
            && !message.is_empty()
        {
            check(message, format!("{path}.messageExpression"));
        }
    }
    warnings
}

fn environment(
    spec: &ValidatingAdmissionPolicySpec,
    object: &Arc<Schema>,
    params: Option<&Arc<Schema>>,
) -> Environment {
    let mut environment = Environment::new()
        .variable_of("namespaceObject", skiff_cel::admission::namespace_schema())
        .variable_of("request", skiff_cel::admission::request_schema())
        .variable_of("object", object.clone())
        .variable_of("oldObject", object.clone())
        .with("authorizer", skiff_cel::authorizer_type());
    if spec.param_kind.is_some() {
        let params = params.cloned().unwrap_or_else(Schema::any);
        environment = environment.variable_of("params", params);
    }
    let mut variables: Vec<(String, Arc<Schema>)> = Vec::new();
    let composed = |environment: &Environment, variables: &[(String, Arc<Schema>)]| {
        let schema = Schema::object("kubernetes.variables", variables.iter().cloned());
        environment.clone().lazy_variable("variables", schema)
    };
    for variable in spec.variables.iter().flatten() {
        let compiled = composed(&environment, &variables).compile(&variable.expression);
        let ty = compiled.map_or(Type::Dyn, |program| program.output_type().clone());
        variables.push((variable.name.clone(), Schema::of(ty)));
    }
    composed(&environment, &variables)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(value: Value) -> ValidatingAdmissionPolicySpec {
        serde_json::from_value(value).unwrap()
    }

    fn deployment() -> Types {
        let gvk = Gvk::of("apps/v1", "Deployment");
        let schema = built_in(&gvk).unwrap();
        Types {
            objects: vec![(gvk, schema)],
            params: None,
        }
    }

    #[test]
    fn confused_types_are_found() {
        let spec = spec(json!({
            "variables": [{"name": "n", "expression": "object.spec.replicas"}],
            "validations": [
                {"expression": "object.spec.replicas > 1 && variables.n > 1", "messageExpression": "'wants ' + string(variables.n)"},
                {"expression": "object.spec.replicas > '1'", "messageExpression": "'got ' + object.spec.replicas"},
                {"expression": "object.spec.size == 1 && object.metadata.labels['a'] == 'b'"},
                {"expression": "object.spec.template.spec.containers.all(c, c.image.startsWith('x'))"},
            ],
        }));
        let found = warnings(&spec, &deployment());
        let found: Vec<(&str, &str)> = found
            .iter()
            .map(|warning| {
                let line = warning.warning.lines().next().unwrap();
                (warning.field_ref.as_str(), line)
            })
            .collect();
        assert_eq!(
            found,
            [
                (
                    "spec.validations[1].expression",
                    "apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'"
                ),
                (
                    "spec.validations[1].messageExpression",
                    "apps/v1, Kind=Deployment: ERROR: <input>:1:8: found no matching overload for '_+_' applied to '(string, int)'"
                ),
                (
                    "spec.validations[2].expression",
                    "apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'size'"
                ),
            ]
        );
    }

    #[test]
    fn every_built_in_kind_has_a_type() {
        for kind in skiff_api::kinds() {
            let gvk = Gvk::of(&kind.api_version(), kind.kind);
            assert!(built_in(&gvk).is_some(), "{gvk}");
        }
    }

    #[test]
    fn published_types_are_found_behind_references() {
        let document = json!({"components": {"schemas": {
            "com.example.v1.CronTab": {"type": "object", "x-kubernetes-group-version-kind": [{"group": "example.com", "version": "v1", "kind": "CronTab"}],
                "properties": {"apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": {"allOf": [{"$ref": "#/components/schemas/Meta"}]}, "spec": {"type": "object", "properties": {"replicas": {"type": "integer"}}}}},
            "Meta": {"type": "object", "properties": {"name": {"type": "string"}, "generateName": {"type": "string"}, "labels": {"type": "object", "additionalProperties": {"type": "string"}}}},
        }}});
        let gvk = Gvk::of("example.com/v1", "CronTab");
        let types = Types {
            objects: vec![(gvk.clone(), published(&document, &gvk).unwrap())],
            params: None,
        };
        let spec = spec(json!({"validations": [
            {"expression": "object.spec.replicas > 1 && object.metadata.labels.size() > 0"},
            {"expression": "object.spec.maxRetries < 10"}]}));
        let found = warnings(&spec, &types);
        assert_eq!(found.len(), 1);
        assert!(found[0].warning.contains("undefined field 'maxRetries'"));
    }

    #[test]
    fn kinds_are_those_that_rules_name() {
        let resource = |group: &str, plural: &str, kind: &str| ApiResource {
            group: group.into(),
            version: "v1".into(),
            plural: plural.into(),
            kind: kind.into(),
            namespaced: true,
            verbs: Vec::new(),
        };
        let all = [
            resource("apps", "deployments", "Deployment"),
            resource("", "pods", "Pod"),
        ];
        for (rule, expected) in [
            (
                json!({"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}),
                vec!["apps/v1, Kind=Deployment"],
            ),
            (
                json!({"apiGroups": ["apps", ""], "apiVersions": ["v1"], "resources": ["pods", "deployments", "pods/log"]}),
                vec!["/v1, Kind=Pod", "apps/v1, Kind=Deployment"],
            ),
            (
                json!({"apiGroups": ["*"], "apiVersions": ["v1"], "resources": ["pods"]}),
                vec![],
            ),
            (
                json!({"apiGroups": [""], "apiVersions": ["*"], "resources": ["pods"]}),
                vec![],
            ),
            (
                json!({"apiGroups": [""], "apiVersions": ["v1"], "resources": ["*"]}),
                vec![],
            ),
        ] {
            let rule: NamedRuleWithOperations = serde_json::from_value(rule.clone()).unwrap();
            let found: Vec<String> = kinds(&[rule], &all)
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(found, expected);
        }
    }
}
