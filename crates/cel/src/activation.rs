//! What an expression finds when it runs: the variables' values.

use std::sync::Arc;

use crate::error::EvalError;
use crate::value::Value;

/// Gives the variables of an evaluation. [`Bindings`] is the ready one; write one where variables are computed late.
pub trait Activation<'a> {
    /// The value of a variable; `None` where it is not given ("no such attribute(s)").
    fn variable(&self, name: &str) -> Option<Value<'a>>;

    /// The value of a field of a variable declared lazy ([`crate::Environment::lazy_variable`]), computed when it is
    /// first asked for. `None` where there is no such field.
    fn field(&self, variable: &str, field: &str) -> Option<Result<Value<'a>, EvalError>> {
        let _ = (variable, field);
        None
    }
}

/// Variables by name.
#[derive(Clone, Debug, Default)]
pub struct Bindings<'a> {
    values: Vec<(Arc<str>, Value<'a>)>,
}

impl<'a> Bindings<'a> {
    /// No variables.
    pub fn new() -> Self {
        Self { values: Vec::new() }
    }

    /// The same and one more.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value<'a>) -> Self {
        self.set(name, value);
        self
    }

    /// Adds a variable, or gives it another value.
    pub fn set(&mut self, name: &str, value: Value<'a>) {
        match self.values.iter_mut().find(|(known, _)| &**known == name) {
            Some((_, old)) => *old = value,
            None => self.values.push((Arc::from(name), value)),
        }
    }
}

impl<'a> Activation<'a> for Bindings<'a> {
    fn variable(&self, name: &str) -> Option<Value<'a>> {
        self.values
            .iter()
            .find(|(known, _)| &**known == name)
            .map(|(_, value)| value.clone())
    }
}
