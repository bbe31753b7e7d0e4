//! MutatingAdmissionPolicy: expressions that say what is to be changed in what is written.

use k8s_openapi::api::admissionregistration::v1::{self as api, MutatingAdmissionPolicy};
use serde_json::{Map, Value as Json};
use skiff_api::patch::mutation::{merge_configuration, patch_with_json};
use skiff_api::schema::body::Target;
use skiff_api::validation::expressions::{ExpressionResult, ExpressionUse};
use skiff_cel::{Object, Value};

use super::table::{Head, head};
use crate::admission::expressions::{
    BUDGET, Conditions, Evaluation, Expression, Inputs, Matched, Scope,
};

/// A policy, compiled.
pub(crate) struct Policy {
    pub head: Head,
    conditions: Conditions,
    variables: Vec<(String, Expression)>,
    pub mutations: Vec<Mutation>,
    /// Whether it is asked again when others changed the object after it.
    pub reinvoked: bool,
}

/// One change.
pub(crate) struct Mutation {
    kind: Kind,
    expression: Expression,
}

#[derive(Clone, Copy)]
enum Kind {
    ApplyConfiguration,
    JsonPatch,
}

impl Policy {
    /// Compiles a policy.
    pub fn new(object: &MutatingAdmissionPolicy) -> Self {
        let spec = object.spec.clone().unwrap_or_default();
        let params = spec.param_kind.is_some();
        let mut scope = Scope::new(true);
        let variables = super::variables(&mut scope, spec.variables.as_deref(), params);
        let conditions = spec.match_conditions.as_deref().unwrap_or_default();
        let mutation = |mutation: &api::Mutation| {
            let (kind, source, result) = match mutation.patch_type.as_str() {
                "JSONPatch" => (
                    Kind::JsonPatch,
                    mutation.json_patch.as_ref()?.expression.as_ref()?,
                    ExpressionResult::JsonPatch,
                ),
                _ => (
                    Kind::ApplyConfiguration,
                    mutation.apply_configuration.as_ref()?.expression.as_ref()?,
                    ExpressionResult::ApplyConfiguration,
                ),
            };
            let purpose = ExpressionUse {
                params,
                authorizer: true,
                patch_types: true,
                result,
            };
            let expression = Expression::new(&scope, source, purpose);
            Some(Mutation { kind, expression })
        };
        Self {
            head: head(
                &object.metadata,
                spec.failure_policy.as_ref(),
                spec.match_constraints.as_ref(),
                spec.param_kind.as_ref(),
            ),
            conditions: Conditions::new(conditions, params, &scope),
            mutations: spec
                .mutations
                .iter()
                .flatten()
                .filter_map(mutation)
                .collect(),
            reinvoked: spec.reinvocation_policy.as_deref() == Some("IfNeeded"),
            variables,
        }
    }

    /// Whether the match conditions are met; the error is of the policy.
    pub fn is_met(&self, inputs: Inputs<'_>) -> Result<bool, String> {
        match self.conditions.evaluate(inputs, &self.variables) {
            Matched::Yes => Ok(true),
            Matched::No(_) => Ok(false),
            Matched::Failed(error) => Err(error),
        }
    }

    /// The object after one of the changes; `inputs` has the object as it is before.
    pub fn mutate(
        &self,
        mutation: &Mutation,
        inputs: Inputs<'_>,
        target: &Target<'_>,
    ) -> Result<Json, String> {
        let source = &mutation.expression;
        if let Some(error) = source.error() {
            return Err(error.to_owned());
        }
        let mut evaluation = Evaluation::new(inputs, &self.variables, BUDGET);
        let value = evaluation
            .run(source)
            .map_err(|exhausted| exhausted.to_string())??;
        match mutation.kind {
            Kind::ApplyConfiguration => {
                check_names(&value)?;
                let config = value
                    .to_json()
                    .map_err(|error| format!("invalid return type: {error}"))?;
                merge_configuration(target, inputs.object, &config)
                    .map_err(|error| format!("error applying patch: {error}"))
            }
            Kind::JsonPatch => patch_with_json(target, inputs.object, operations(&value)?)
                .map_err(|error| format!("JSON Patch: {error}")),
        }
    }
}

/// The operations that an expression made.
fn operations(value: &Value<'_>) -> Result<Json, String> {
    let Value::List(list) = value else {
        return Err("type mismatch: JSONPatchType.expression should evaluate to array".to_owned());
    };
    let mut operations = Vec::with_capacity(list.len());
    for element in list.iter() {
        let element = element.map_err(|error| error.to_string())?;
        let Value::Object(patch) = &element else {
            return Err(format!(
                "type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch, got element of {}",
                element.type_of()
            ));
        };
        operations.push(operation(patch)?);
    }
    Ok(Json::Array(operations))
}

fn operation(patch: &Object<'_>) -> Result<Json, String> {
    let mut operation = Map::new();
    operation.insert("op".to_owned(), "".into());
    operation.insert("path".to_owned(), "".into());
    for (name, value) in &patch.fields {
        if &**name == "value" {
            check_names(value)?;
        }
        let json = value.to_json().map_err(|error| {
            format!("JSONPath valueExpression evaluated to a type that could not marshal to JSON: {error}")
        })?;
        let unset = &**name == "from" && json.as_str() == Some("");
        if !unset {
            operation.insert(name.to_string(), json);
        }
    }
    Ok(operation.into())
}

/// Every object's type must be named after the fields it is in: `Object.spec.template` in `spec`'s `template`.
fn check_names(value: &Value<'_>) -> Result<(), String> {
    let Value::Object(object) = value else {
        return Ok(());
    };
    let mut wrong = Vec::new();
    find_misnamed(value, &object.type_name, &mut wrong);
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!("type mismatch: {}", wrong.join("\n")))
}

fn find_misnamed(value: &Value<'_>, path: &str, wrong: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            if &*object.type_name != path {
                wrong.push(format!(
                    "unexpected type name {:?}, expected {path:?}, which matches field name path from root Object type",
                    &*object.type_name
                ));
            }
            for (name, value) in &object.fields {
                find_misnamed(value, &format!("{path}.{name}"), wrong);
            }
        }
        Value::List(list) => {
            for element in list.iter().flatten() {
                find_misnamed(&element, path, wrong);
            }
        }
        Value::Map(skiff_cel::Map::Shared(entries)) => {
            for (_, element) in entries.values() {
                find_misnamed(element, path, wrong);
            }
        }
        _ => {}
    }
}
