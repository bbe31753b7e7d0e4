//! Custom resources: what definitions add to the API while the server runs.
//!
//! [`definitions`] follows the definitions in the store, gives them their status and puts what they define into the
//! registry; from there on the one pipeline serves their objects, with [`CustomKind`] for what differs.

mod cleanup;
mod definitions;
mod kind;

pub use kind::CustomKind;

pub(crate) use definitions::{Definitions, run};
