//! Custom resources: what definitions add to the API while the server runs.
//!
//! [`definitions`] follows the definitions in the store, gives them their status and puts what they define into the
//! registry; from there on the one pipeline serves their objects, with [`CustomKind`] for what differs.

mod cleanup;
mod convert;
mod definition;
mod definitions;
pub(crate) mod discovery;
mod kind;
pub mod rules;

pub use definition::{Definition, ScalePaths, names};
pub use kind::{CustomKind, at};

pub(crate) use convert::{convert, definition_of, served, served_one};
pub(crate) use definitions::{Definitions, run};
