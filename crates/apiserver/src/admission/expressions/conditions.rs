//! Match conditions: expressions that must all be true for a policy or webhook to be asked.

use k8s_openapi::api::admissionregistration::v1::MatchCondition;
use skiff_api::validation::expressions::{ExpressionResult, ExpressionUse};

use super::{CONDITIONS_BUDGET, Evaluation, Expression, Inputs, Scope, Variables};

/// The conditions of one policy or webhook, compiled.
#[derive(Debug, Default)]
pub(crate) struct Conditions(Vec<(String, Expression)>);

/// What came of conditions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Matched {
    /// All are true, or there are none.
    Yes,
    /// One is false: its name. Errors of others do not count.
    No(String),
    /// None is false and some failed: their errors together.
    Failed(String),
}

impl Conditions {
    /// Compiles conditions; `params`: they may use `params`.
    pub fn new(conditions: &[MatchCondition], params: bool, scope: &Scope) -> Self {
        let purpose = ExpressionUse {
            params,
            authorizer: true,
            patch_types: false,
            result: ExpressionResult::Bool,
        };
        let compiled = conditions.iter().map(|condition| {
            let expression = Expression::new(scope, &condition.expression, purpose);
            (condition.name.clone(), expression)
        });
        Self(compiled.collect())
    }

    /// Whether there are none, so that nothing needs to be made ready for them.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Evaluates the conditions. They see no `namespaceObject`.
    pub fn evaluate(&self, inputs: Inputs<'_>, variables: &Variables) -> Matched {
        let inputs = Inputs {
            namespace: &serde_json::Value::Null,
            ..inputs
        };
        let mut evaluation = Evaluation::new(inputs, variables, CONDITIONS_BUDGET);
        let mut errors: Vec<String> = Vec::new();
        let mut refused = None;
        for (name, expression) in &self.0 {
            match evaluation.run(expression) {
                Err(exhausted) => return Matched::Failed(exhausted.to_string()),
                Ok(Err(error)) if errors.contains(&error) => {}
                Ok(Err(error)) => errors.push(error),
                Ok(Ok(value)) if value.as_bool() == Some(false) && refused.is_none() => {
                    refused = Some(name.clone());
                }
                Ok(Ok(_)) => {}
            }
        }
        if let Some(name) = refused {
            return Matched::No(name);
        }
        match errors.as_slice() {
            [] => Matched::Yes,
            [one] => Matched::Failed(one.clone()),
            many => Matched::Failed(format!("[{}]", many.join(", "))),
        }
    }
}
