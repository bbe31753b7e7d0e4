//! The rules of `x-kubernetes-validations`: expressions that custom resources must fulfil.
//!
//! [`Rules::compile`] makes a version's schema into a tree of compiled rules, [`Rules::validate`] asks them about an
//! object (and the one before, for transition rules), and [`definition_errors`] says what is wrong with the rules of a
//! definition before it is accepted.

mod compile;
mod definition;
mod evaluate;
mod field_path;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use skiff_api::{ErrorList, FieldError, Path};
use skiff_cel::{Program, Schema};

pub use definition::definition_errors;

/// What all rules of an object may cost together.
const OBJECT_BUDGET: u64 = 10_000_000;

/// The compiled rules of a version's schema.
#[derive(Debug, Default)]
pub struct Rules {
    root: Option<Box<Place>>,
}

/// A place of the schema with its rules and those below it.
#[derive(Debug, Default)]
struct Place {
    /// The type's name in the schema.
    ty: String,
    schema: Option<Arc<Schema>>,
    rules: Vec<Rule>,
    /// Why no rule of this place could be compiled.
    fault: Option<String>,
    properties: BTreeMap<String, Place>,
    additional: Option<Box<Place>>,
    items: Option<Box<Place>>,
    all_of: Vec<Place>,
    /// The keys that tell the elements of a list apart; empty where elements old and new cannot be matched.
    list_keys: Vec<String>,
    /// Whether values old and new under the same name belong together.
    map_correlates: bool,
}

/// One rule.
#[derive(Debug)]
struct Rule {
    rule: String,
    message: String,
    reason: Option<String>,
    optional_old: bool,
    uses_old: bool,
    /// `None` for a blank rule.
    program: Option<Result<Program, String>>,
    message_program: Option<Result<Program, String>>,
    message_source: String,
    /// Which field below the place the fault is reported at.
    field: Option<String>,
    /// How often the rule may be asked at most, by the size of what it is asked about.
    cardinality: u64,
}

impl Place {
    fn is_empty(&self) -> bool {
        self.rules.is_empty()
            && self.fault.is_none()
            && self.properties.is_empty()
            && self.additional.is_none()
            && self.items.is_none()
            && self.all_of.is_empty()
    }
}

/// What came of asking the rules.
#[derive(Debug, Default)]
pub struct Findings {
    /// What is refused.
    pub errors: ErrorList,
    /// What would be refused, had it not been so before.
    pub warnings: Vec<String>,
}

impl Rules {
    /// Compiles the rules of a version's `openAPIV3Schema`. Rules that do not compile are kept, and refuse objects.
    #[must_use]
    pub fn compile(schema: &Value) -> Self {
        Self {
            root: compile::compile(schema).map(Box::new),
        }
    }

    /// Whether there is no rule at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Asks the rules about an object; `old` is the stored one on updates. `before` are the errors found by the schema:
    /// some of them make rules meaningless, and then they are not asked.
    #[must_use]
    pub fn validate(&self, new: &Value, old: Option<&Value>, before: &ErrorList) -> Findings {
        let Some(root) = &self.root else {
            return Findings::default();
        };
        if let Some(error) = blocked(before) {
            return Findings {
                errors: vec![error],
                warnings: Vec::new(),
            };
        }
        evaluate::evaluate(root, new, old, OBJECT_BUDGET)
    }
}

/// The error that stands for the rules when the object's shape is wrong.
fn blocked(errors: &ErrorList) -> Option<FieldError> {
    use skiff_api::field::ErrorType;
    let blocks = |error: &FieldError| {
        matches!(
            error.kind,
            ErrorType::NotSupported
                | ErrorType::Required
                | ErrorType::TooLong
                | ErrorType::TooMany
                | ErrorType::TypeInvalid
        )
    };
    errors.iter().any(blocks).then(|| {
        FieldError::invalid(
            &Path::default(),
            Value::Null,
            "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation",
        )
    })
}
