//! A compiled expression.

use std::sync::Arc;

use crate::activation::Activation;
use crate::check;
use crate::environment::Environment;
use crate::error::{CompileErrors, EvalError};
use crate::estimate::{self, Estimate};
use crate::eval::Evaluator;
use crate::plan::{self, Node};
use crate::syntax;
use crate::types::Type;
use crate::value::Value;

/// A compiled expression: evaluated as often as wanted, from any thread.
#[derive(Debug)]
pub struct Program {
    root: Node,
    output: Type,
    estimate: Estimate,
    variables: Vec<Arc<str>>,
}

/// What came of an evaluation.
#[derive(Debug)]
pub struct Evaluation<'a> {
    /// The value, or why there is none.
    pub result: Result<Value<'a>, EvalError>,
    /// What it cost, in upstream's units, whether it came to a value or not.
    pub cost: u64,
}

impl Program {
    pub(crate) fn new(environment: &Environment, source: &str) -> Result<Self, CompileErrors> {
        let parsed = syntax::parse(source)?;
        let checked = check::check(environment, source, &parsed)?;
        let estimate = estimate::estimate(environment, &parsed, &checked);
        let root = plan::plan(environment, source, &parsed, &checked)?;
        Ok(Self {
            root,
            output: checked.type_of(parsed.root.id).clone(),
            estimate,
            variables: plan::variables(&checked, environment),
        })
    }

    /// The type of the expression's value.
    pub fn output_type(&self) -> &Type {
        &self.output
    }

    /// What evaluations cost at least and at most, by the bounds of the variables' schemas.
    pub fn estimated_cost(&self) -> Estimate {
        self.estimate
    }

    /// Whether the expression names this variable.
    pub fn uses(&self, variable: &str) -> bool {
        self.variables.iter().any(|name| &**name == variable)
    }

    /// Evaluates the expression. It stops with [`EvalError::CostExceeded`] when it has cost more than `budget`.
    pub fn evaluate<'a>(&self, activation: &dyn Activation<'a>, budget: u64) -> Evaluation<'a> {
        let mut evaluator = Evaluator::new(activation, budget);
        let result = evaluator.eval(&self.root);
        Evaluation {
            result,
            cost: evaluator.cost,
        }
    }
}
