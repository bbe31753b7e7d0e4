//! Expressions of admission: what they can see, how they are compiled once, and how they run over a request.
//!
//! Policies and the match conditions of webhooks share it. A compiled expression is kept with its policy or webhook;
//! nothing is compiled for a request.

mod authorizer;
mod conditions;
mod request;

use std::cell::{Cell, RefCell};
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
use serde_json::Value as Json;
use skiff_api::validation::expressions::{
    ExpressionChecker, ExpressionResult, ExpressionScope, ExpressionUse, SelectorFault,
};
use skiff_cel::{Activation, Environment, EvalError, Program, Schema, Type, Value};

pub(crate) use authorizer::Checks;
pub(crate) use conditions::{Conditions, Matched};
pub(crate) use request::namespace_object;

/// What one expression may cost.
const CALL_LIMIT: u64 = 1_000_000;
/// What the expressions of a policy may cost together for one binding and parameter.
pub(crate) const BUDGET: u64 = 10_000_000;
/// What match conditions may cost together.
pub(crate) const CONDITIONS_BUDGET: u64 = 2_500_000;

const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";

const VARIABLES: &str = "variables";

/// The environments without `variables`, by what an expression may use.
static ENVIRONMENTS: LazyLock<Vec<Environment>> = LazyLock::new(|| {
    let all = 0..8usize;
    all.map(|bits| environment(bits & 1 > 0, bits & 2 > 0, bits & 4 > 0))
        .collect()
});

fn environment(params: bool, authorizer: bool, patch_types: bool) -> Environment {
    let mut environment = Environment::new()
        .with("object", Type::Dyn)
        .with("oldObject", Type::Dyn)
        .variable_of("namespaceObject", skiff_cel::admission::namespace_schema())
        .variable_of("request", skiff_cel::admission::request_schema());
    if params {
        environment = environment.with("params", Type::Dyn);
    }
    if authorizer {
        environment = environment
            .with("authorizer", skiff_cel::authorizer_type())
            .with(
                "authorizer.requestResource",
                skiff_cel::authorizer_resource_type(),
            );
    }
    if patch_types {
        environment = environment.with_mutation();
    }
    environment
}

/// Compiles expressions that belong together: those after a variable may use it.
#[derive(Default)]
pub(crate) struct Scope {
    /// `None`: there is no `variables`.
    variables: Option<Vec<(String, Arc<Schema>)>>,
}

impl Scope {
    /// A scope with or without `variables`.
    pub fn new(variables: bool) -> Self {
        Self {
            variables: variables.then(Vec::new),
        }
    }

    /// Compiles an expression; the error is upstream's detail.
    pub fn compile(&self, source: &str, purpose: ExpressionUse) -> Result<Program, String> {
        let bits = usize::from(purpose.params)
            + 2 * usize::from(purpose.authorizer)
            + 4 * usize::from(purpose.patch_types);
        let base = ENVIRONMENTS
            .get(bits)
            .ok_or_else(|| "no environment".to_owned())?;
        let program = match &self.variables {
            None => base.compile(source),
            Some(variables) => {
                let schema = Schema::object("kubernetes.variables", variables.iter().cloned());
                base.clone()
                    .lazy_variable(VARIABLES, schema)
                    .compile(source)
            }
        };
        let program = program.map_err(|errors| format!("compilation failed: {errors}"))?;
        check_result(purpose.result, program.output_type())?;
        Ok(program)
    }

    /// Compiles a variable, which the expressions after it may use.
    pub fn add(
        &mut self,
        name: &str,
        source: &str,
        purpose: ExpressionUse,
    ) -> Result<Program, String> {
        let program = self.compile(source, purpose);
        let ty = program
            .as_ref()
            .map_or(Type::Dyn, |program| variable_type(program.output_type()));
        let variables = self.variables.get_or_insert_default();
        variables.retain(|(known, _)| known != name);
        variables.push((name.to_owned(), Schema::of(ty)));
        program
    }
}

impl ExpressionScope for Scope {
    fn check(&mut self, expression: &str, purpose: ExpressionUse) -> Result<(), String> {
        self.compile(expression, purpose).map(drop)
    }

    fn declare(
        &mut self,
        name: &str,
        expression: &str,
        purpose: ExpressionUse,
    ) -> Result<(), String> {
        if self.variables.is_none() {
            return Err("variable composition is not allowed".to_owned());
        }
        self.add(name, expression, purpose).map(drop)
    }
}

/// Checks the expressions of an object when it is written, and keeps what the client is to be warned of.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    warnings: Mutex<Vec<String>>,
}

impl Checker {
    /// What the client is to be warned of.
    pub fn into_warnings(self) -> Vec<String> {
        self.warnings.into_inner()
    }
}

impl ExpressionChecker for Checker {
    fn scope(&self, variables: bool) -> Box<dyn ExpressionScope + '_> {
        Box::new(Scope::new(variables))
    }
    fn device_selector(&self, expression: &str) -> Result<(), SelectorFault> {
        let program = skiff_cel::device::compile(expression).map_err(SelectorFault::Invalid)?;
        match program.estimated_cost().max > CALL_LIMIT {
            true => Err(SelectorFault::TooComplex),
            false => Ok(()),
        }
    }
    fn warn(&self, warning: String) {
        self.warnings.lock().push(warning);
    }
}

/// The type that a variable is known by: what is neither simple nor a list or map of such is known when it is there.
fn variable_type(ty: &Type) -> Type {
    match ty {
        Type::Bool
        | Type::Bytes
        | Type::Double
        | Type::Duration
        | Type::Int
        | Type::Null
        | Type::String
        | Type::Timestamp
        | Type::Uint => ty.clone(),
        Type::List(element) => Type::list(variable_type(element)),
        Type::Map(entry) => Type::map(variable_type(&entry.0), variable_type(&entry.1)),
        _ => Type::Dyn,
    }
}

fn check_result(wanted: ExpressionResult, got: &Type) -> Result<(), String> {
    let object =
        |ty: &Type, name: &str| matches!(ty, Type::Object(object) if object.name() == name);
    let (fits, shown) = match wanted {
        ExpressionResult::Any => (true, ""),
        ExpressionResult::Bool => (matches!(got, Type::Bool), "bool"),
        ExpressionResult::String => (matches!(got, Type::String), "string"),
        ExpressionResult::StringOrNull => (
            matches!(got, Type::String | Type::Null),
            "one of [string null_type]",
        ),
        ExpressionResult::ApplyConfiguration => (object(got, "Object"), "Object"),
        ExpressionResult::JsonPatch => (
            matches!(got, Type::List(element) if object(element, "JSONPatch")),
            "list(JSONPatch)",
        ),
    };
    if fits {
        return Ok(());
    }
    Err(format!(
        "must evaluate to {shown} but got {}",
        shown_type(got)
    ))
}

/// A type as upstream shows it at run time.
fn shown_type(ty: &Type) -> String {
    match ty {
        Type::Null => "null_type".to_owned(),
        Type::Duration => "google.protobuf.Duration".to_owned(),
        Type::Timestamp => "google.protobuf.Timestamp".to_owned(),
        Type::List(element) => format!("list({})", shown_type(element)),
        Type::Map(entry) => format!("map({}, {})", shown_type(&entry.0), shown_type(&entry.1)),
        Type::Optional(inner) => format!("optional_type({})", shown_type(inner)),
        other => other.to_string(),
    }
}

/// An expression as it is kept: one that does not compile says so when it is to run.
#[derive(Debug)]
pub(crate) struct Expression {
    pub source: String,
    program: Result<Program, String>,
}

impl Expression {
    /// Compiles an expression.
    pub fn new(scope: &Scope, source: &str, purpose: ExpressionUse) -> Self {
        Self {
            source: source.to_owned(),
            program: scope.compile(source, purpose),
        }
    }

    /// Compiles a variable.
    pub fn variable(scope: &mut Scope, name: &str, source: &str, purpose: ExpressionUse) -> Self {
        Self {
            source: source.to_owned(),
            program: scope.add(name, source, purpose),
        }
    }

    /// What is wrong with it, if it does not compile.
    pub fn error(&self) -> Option<&str> {
        self.program.as_ref().err().map(String::as_str)
    }
}

/// The variables of a policy, by name.
pub(crate) type Variables = [(String, Expression)];

/// What expressions see. What is not there is `Json::Null`.
#[derive(Clone, Copy)]
pub(crate) struct Inputs<'a> {
    pub object: &'a Json,
    pub old_object: &'a Json,
    pub request: &'a Json,
    pub params: &'a Json,
    pub namespace: &'a Json,
    /// `None`: expressions do not see `authorizer`.
    pub authorizer: Option<&'a Checks>,
}

/// Nothing more may be evaluated: the budget is used up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{OUT_OF_BUDGET}")]
pub(crate) struct OutOfBudget;

/// Runs expressions one after the other over the same inputs; variables are computed when they are first asked for.
pub(crate) struct Evaluation<'a> {
    inputs: Inputs<'a>,
    variables: &'a Variables,
    computed: RefCell<Vec<Option<Result<Value<'a>, EvalError>>>>,
    /// What variables cost since the last expression.
    spent: Cell<u64>,
    left: u64,
}

impl<'a> Evaluation<'a> {
    /// An evaluation that may cost so much.
    pub fn new(inputs: Inputs<'a>, variables: &'a Variables, budget: u64) -> Self {
        Self {
            inputs,
            variables,
            computed: RefCell::new(vec![None; variables.len()]),
            spent: Cell::new(0),
            left: budget,
        }
    }

    /// What may still be spent.
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// Runs an expression. The inner error is the expression's own, in upstream's words.
    pub fn run(
        &mut self,
        expression: &'a Expression,
    ) -> Result<Result<Value<'a>, String>, OutOfBudget> {
        let program = match &expression.program {
            Ok(program) => program,
            Err(error) => return Ok(Err(format!("compilation error: {error}"))),
        };
        let evaluation = program.evaluate(&*self, CALL_LIMIT);
        let cost = self.spent.take().saturating_add(evaluation.cost);
        self.left = self.left.checked_sub(cost).ok_or(OutOfBudget)?;
        Ok(evaluation.result.map_err(|error| {
            format!(
                "expression '{}' resulted in error: {error}",
                expression.source
            )
        }))
    }

    fn compute(&self, name: &str, expression: &'a Expression) -> Result<Value<'a>, EvalError> {
        let program = match &expression.program {
            Ok(program) => program,
            Err(error) => {
                return Err(EvalError::fault(format!(
                    "composited variable {name:?} fails to compile: {error}"
                )));
            }
        };
        let evaluation = program.evaluate(self, CALL_LIMIT);
        let spent = self.spent.get().saturating_add(evaluation.cost);
        self.spent.set(spent);
        evaluation.result.map_err(|error| {
            EvalError::fault(format!(
                "composited variable {name:?} fails to evaluate: {error}"
            ))
        })
    }
}

impl<'a> Activation<'a> for Evaluation<'a> {
    fn variable(&self, name: &str) -> Option<Value<'a>> {
        let inputs = &self.inputs;
        Some(match name {
            "object" => Value::from_json(inputs.object),
            "oldObject" => Value::from_json(inputs.old_object),
            "request" => Value::from_json(inputs.request),
            "params" => Value::from_json(inputs.params),
            "namespaceObject" => Value::from_json(inputs.namespace),
            "authorizer" => Value::authorizer(inputs.authorizer?),
            "authorizer.requestResource" => {
                let checks = inputs.authorizer?;
                Value::authorizer_resource(checks, checks.request_resource())
            }
            _ => return None,
        })
    }

    fn field(&self, variable: &str, field: &str) -> Option<Result<Value<'a>, EvalError>> {
        if variable != VARIABLES {
            return None;
        }
        // Of several variables of one name the last one counts.
        let at = self.variables.iter().rposition(|(name, _)| name == field)?;
        if let Some(Some(value)) = self.computed.borrow().get(at) {
            return Some(value.clone());
        }
        let (name, expression) = self.variables.get(at)?;
        let value = self.compute(name, expression);
        if let Some(slot) = self.computed.borrow_mut().get_mut(at) {
            *slot = Some(value.clone());
        }
        Some(value)
    }
}
