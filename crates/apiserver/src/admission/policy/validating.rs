//! ValidatingAdmissionPolicy: expressions that must be true of what is written.

use k8s_openapi::api::admissionregistration::v1::{self as api, ValidatingAdmissionPolicy};
use serde_json::json;
use skiff_api::validation::expressions::{ExpressionResult, ExpressionUse};
use skiff_cel::Value;

use super::table::{Binding, FailurePolicy, Head, head};
use crate::admission::expressions::{
    BUDGET, Conditions, Evaluation, Expression, Inputs, Matched, Scope,
};

/// A message that an expression gives is not longer.
const MAX_MESSAGE: usize = 5 * 1024;
/// The value of an audit annotation is cut to this length.
const MAX_ANNOTATION: usize = 10 * 1024;
/// Under this key the audit log says which validations failed.
pub(super) const FAILURE_ANNOTATION: &str = "validation.policy.admission.k8s.io/validation_failure";

/// A policy, compiled.
pub(crate) struct Policy {
    pub head: Head,
    conditions: Conditions,
    variables: Vec<(String, Expression)>,
    validations: Vec<Validation>,
    annotations: Vec<(String, Expression)>,
}

struct Validation {
    expression: Expression,
    message_expression: Option<Expression>,
    message: String,
    reason: String,
}

/// What a validation comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Admit,
    /// The message, and the reason of the answer.
    Deny(String, String),
}

/// What an audit annotation comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Annotation {
    Publish(String, String),
    /// Nothing to say.
    Exclude,
    /// Refuses the request.
    Error(String),
}

/// What a policy says of a request with one parameter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub decisions: Vec<Decision>,
    pub annotations: Vec<Annotation>,
}

impl Policy {
    /// Compiles a policy.
    pub fn new(object: &ValidatingAdmissionPolicy) -> Self {
        let spec = object.spec.clone().unwrap_or_default();
        let params = spec.param_kind.is_some();
        let purpose = |result| ExpressionUse {
            params,
            authorizer: true,
            patch_types: false,
            result,
        };
        let mut scope = Scope::new(true);
        let variables = super::variables(&mut scope, spec.variables.as_deref(), params);
        let conditions = spec.match_conditions.as_deref().unwrap_or_default();
        let validation = |validation: &api::Validation| {
            let message = validation.message_expression.as_deref().unwrap_or_default();
            let without_authorizer = ExpressionUse {
                authorizer: false,
                ..purpose(ExpressionResult::String)
            };
            Validation {
                expression: Expression::new(
                    &scope,
                    &validation.expression,
                    purpose(ExpressionResult::Bool),
                ),
                message_expression: (!message.is_empty())
                    .then(|| Expression::new(&scope, message, without_authorizer)),
                message: validation.message.clone().unwrap_or_default(),
                reason: validation
                    .reason
                    .clone()
                    .unwrap_or_else(|| "Invalid".to_owned()),
            }
        };
        let annotation = |annotation: &api::AuditAnnotation| {
            let purpose = purpose(ExpressionResult::StringOrNull);
            let expression = Expression::new(&scope, &annotation.value_expression, purpose);
            (annotation.key.clone(), expression)
        };
        Self {
            head: head(
                &object.metadata,
                spec.failure_policy.as_ref(),
                spec.match_constraints.as_ref(),
                spec.param_kind.as_ref(),
            ),
            conditions: Conditions::new(conditions, params, &scope),
            validations: spec.validations.iter().flatten().map(validation).collect(),
            annotations: spec
                .audit_annotations
                .iter()
                .flatten()
                .map(annotation)
                .collect(),
            variables,
        }
    }

    fn failed(&self, message: String) -> Decision {
        match self.head.failure {
            FailurePolicy::Ignore => Decision::Admit,
            FailurePolicy::Fail => Decision::Deny(message, String::new()),
        }
    }

    fn only(&self, message: String) -> Outcome {
        Outcome {
            decisions: vec![self.failed(message)],
            annotations: Vec::new(),
        }
    }

    /// Evaluates the policy on a request.
    pub fn evaluate(&self, inputs: Inputs<'_>) -> Outcome {
        match self.conditions.evaluate(inputs, &self.variables) {
            Matched::Yes => {}
            Matched::No(_) => return Outcome::default(),
            Matched::Failed(error) => return self.only(error),
        }
        let mut evaluation = Evaluation::new(inputs, &self.variables, BUDGET);
        let mut results = Vec::with_capacity(self.validations.len());
        for validation in &self.validations {
            match evaluation.run(&validation.expression) {
                Ok(result) => results.push(result.map(|value| value.as_bool() == Some(true))),
                Err(exhausted) => return self.only(exhausted.to_string()),
            }
        }
        let decisions = self.decisions(inputs, results, evaluation.left());
        match self.annotations(inputs) {
            Ok(annotations) => Outcome {
                decisions,
                annotations,
            },
            Err(exhausted) => self.only(exhausted),
        }
    }

    fn decisions<'a>(
        &'a self,
        inputs: Inputs<'a>,
        results: Vec<Result<bool, String>>,
        budget: u64,
    ) -> Vec<Decision> {
        let unseen = Inputs {
            authorizer: None,
            ..inputs
        };
        let mut evaluation = Evaluation::new(unseen, &self.variables, budget);
        let mut decisions = Vec::with_capacity(results.len());
        for (validation, result) in self.validations.iter().zip(results) {
            decisions.push(match result {
                Err(error) => self.failed(error),
                Ok(true) => Decision::Admit,
                Ok(false) => self.denied(validation, &mut evaluation),
            });
        }
        decisions
    }

    /// A validation that is not true. Messages are made only for those: making all would cost and change nothing else.
    fn denied<'a>(
        &'a self,
        validation: &'a Validation,
        evaluation: &mut Evaluation<'a>,
    ) -> Decision {
        let mut made = None;
        if let Some(expression) = &validation.message_expression {
            match evaluation.run(expression) {
                Ok(value) => made = value.ok().and_then(|value| usable_message(&value)),
                Err(exhausted) => {
                    return self.failed(format!("failed messageExpression: {exhausted}"));
                }
            }
        }
        let given = validation.message.trim();
        let message = match made {
            Some(message) => message,
            None if !given.is_empty() => given.to_owned(),
            None => format!("failed expression: {}", validation.expression.source.trim()),
        };
        Decision::Deny(message, validation.reason.clone())
    }

    fn annotations(&self, inputs: Inputs<'_>) -> Result<Vec<Annotation>, String> {
        let unseen = Inputs {
            authorizer: None,
            ..inputs
        };
        let mut evaluation = Evaluation::new(unseen, &self.variables, BUDGET);
        let mut annotations = Vec::with_capacity(self.annotations.len());
        for (key, expression) in &self.annotations {
            let result = evaluation
                .run(expression)
                .map_err(|exhausted| exhausted.to_string())?;
            annotations.push(match result {
                Ok(Value::Null) => Annotation::Exclude,
                Ok(value) => match value.as_str() {
                    Some(text) if text.trim().is_empty() => Annotation::Exclude,
                    Some(text) => Annotation::Publish(key.clone(), cut(text.trim())),
                    None => Annotation::Error(format!(
                        "valueExpression '{}' resulted in unsupported return type: {}. Return type must be either string or null.",
                        expression.source,
                        value.type_of()
                    )),
                },
                Err(_) if self.head.failure == FailurePolicy::Ignore => Annotation::Exclude,
                Err(error) => Annotation::Error(error),
            });
        }
        Ok(annotations)
    }
}

/// A message that is neither blank, nor too long, nor of several lines.
fn usable_message(value: &Value<'_>) -> Option<String> {
    let message = value.as_str()?.trim();
    let usable = !message.is_empty() && message.len() <= MAX_MESSAGE && !message.contains('\n');
    usable.then(|| message.to_owned())
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(MAX_ANNOTATION);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

/// What the audit log says of a failed validation.
pub(super) fn failure_note(policy: &str, binding: &Binding, index: usize, message: &str) -> String {
    json!([{
        "message": message,
        "policy": policy,
        "binding": binding.name,
        "expressionIndex": index,
        "validationActions": binding.actions,
    }])
    .to_string()
}

/// The HTTP code of a reason that a validation may have.
pub(super) fn reason_of(reason: &str) -> (u16, &'static str) {
    match reason {
        "Forbidden" => (403, "Forbidden"),
        "Unauthorized" => (401, "Unauthorized"),
        "RequestEntityTooLarge" => (413, "RequestEntityTooLarge"),
        _ => (422, "Invalid"),
    }
}
