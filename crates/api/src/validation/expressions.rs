//! Where expressions (CEL) in objects are checked when the objects are written.
//!
//! This crate knows where expressions stand and what each may use; who can read them is handed in by the API server.

use crate::field::{ErrorList, FieldError, Path};

/// What an expression must evaluate to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExpressionResult {
    /// A condition.
    Bool,
    /// A text.
    String,
    /// A text, or null for none.
    StringOrNull,
    /// Anything.
    Any,
    /// An apply configuration: `Object{...}`.
    ApplyConfiguration,
    /// A list of `JSONPatch{...}`.
    JsonPatch,
}

/// What an expression may use beside the request and its objects, and what it must give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExpressionUse {
    /// `params`.
    pub params: bool,
    /// `authorizer`.
    pub authorizer: bool,
    /// `Object{...}`, `JSONPatch{...}` and `jsonpatch.escapeKey`.
    pub patch_types: bool,
    /// What it evaluates to.
    pub result: ExpressionResult,
}

/// Reads expressions.
pub trait ExpressionChecker: Send + Sync {
    /// A scope in which expressions are read one after the other; `variables`: they may use `variables`.
    fn scope(&self, variables: bool) -> Box<dyn ExpressionScope + '_>;
    /// What is wrong with an expression that selects devices.
    fn device_selector(&self, expression: &str) -> Result<(), SelectorFault>;
    /// Takes a warning for the client: what would be refused, had it not been so before.
    fn warn(&self, _warning: String) {}
}

/// What is wrong with an expression that selects devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SelectorFault {
    /// It cannot be read, or gives no answer; in upstream's words.
    Invalid(String),
    /// It may cost too much.
    TooComplex,
}

/// Expressions that belong together.
pub trait ExpressionScope {
    /// What is wrong with an expression, in upstream's words.
    fn check(&mut self, expression: &str, purpose: ExpressionUse) -> Result<(), String>;
    /// The same for a variable, which the expressions after it may use, whatever is wrong with it.
    fn declare(
        &mut self,
        name: &str,
        expression: &str,
        purpose: ExpressionUse,
    ) -> Result<(), String>;
}

/// Reads nothing and finds nothing wrong: for where nobody can read expressions.
#[derive(Debug, Default)]
pub struct Unchecked;

impl ExpressionChecker for Unchecked {
    fn scope(&self, _: bool) -> Box<dyn ExpressionScope + '_> {
        Box::new(Self)
    }
    fn device_selector(&self, _: &str) -> Result<(), SelectorFault> {
        Ok(())
    }
}

impl ExpressionScope for Unchecked {
    fn check(&mut self, _: &str, _: ExpressionUse) -> Result<(), String> {
        Ok(())
    }
    fn declare(&mut self, _: &str, _: &str, _: ExpressionUse) -> Result<(), String> {
        Ok(())
    }
}

/// Checks an expression, which is shown in the error as it is given.
pub(crate) fn expression(
    errors: &mut ErrorList,
    scope: &mut dyn ExpressionScope,
    text: &str,
    purpose: ExpressionUse,
    path: &Path,
) {
    if let Err(detail) = scope.check(text, purpose) {
        errors.push(FieldError::invalid(path, text, &detail));
    }
}
