//! What the fields of every kind are: the table behind checking, patches, server-side apply and OpenAPI.
//!
//! `schema/types.txt` lists all types with their fields: what JSON they take, and what Kubernetes says about them
//! beyond that (whether absence and zero differ, how lists merge, defaults). It is read once, when first needed.
//! Custom resources bring tables of the same form ([`table::Schema`]).

pub mod body;
pub mod check;
pub mod openapi;
pub mod table;

pub use table::{Field, ListKind, Schema, Type, TypeDef, TypeId, built_in};
