//! The Common Expression Language as Kubernetes uses it: parse, check, estimate, evaluate.
//!
//! ```
//! use skiff_cel::{Bindings, Environment, Schema, Value};
//!
//! let environment = Environment::new().variable_of("object", Schema::any());
//! let program = environment.compile("object.spec.replicas <= 5")?;
//! let object = serde_json::json!({"spec": {"replicas": 3}});
//! let bindings = Bindings::new().with("object", Value::from_json(&object));
//! let evaluation = program.evaluate(&bindings, skiff_cel::PER_CALL_LIMIT);
//! assert_eq!(evaluation.result?.as_bool(), Some(true));
//! assert_eq!(evaluation.cost, 4);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! An [`Environment`] declares variables by [`Schema`]s and compiles expressions to [`Program`]s. A program is evaluated
//! with an [`Activation`], which gives the variables' [`Value`]s; those borrow the JSON they stand for, and nothing is
//! converted before an expression looks at it. Evaluations count their cost in upstream's units and stop at a budget.
//! The crate does no I/O; what leaves it (the authorizer) is a trait of the caller's.

mod activation;
pub mod admission;
mod check;
mod cost;
mod declare;
pub mod device;
mod environment;
mod error;
mod escape;
mod estimate;
mod eval;
mod json;
mod library;
mod plan;
mod program;
mod schema;
mod syntax;
mod types;
mod value;

pub use activation::{Activation, Bindings};
pub use environment::{Environment, authorizer_resource_type, authorizer_type};
pub use error::{CompileErrors, EvalError, Issue};
pub use escape::{escape, unescape};
pub use estimate::Estimate;
pub use library::authorizer::{Authorizer, Check, Decision, ResourceCheck, ServiceAccount};
pub use library::opaque::Opaque;
pub use program::{Evaluation, Program};
pub use schema::{ListKind, Schema, from_openapi};
pub use types::{ObjectType, Type};
pub use value::{Entries, Key, List, Map, Object, Text, Value};

/// What one evaluation may cost, as upstream has it.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
