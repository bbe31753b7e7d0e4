//! Every kind that Skiff serves: its type, defaults, validation, strategy, table columns and merge keys.
//! No I/O, nothing asynchronous.

pub mod defaults;
pub mod field;
pub mod kind;
pub mod object;
pub mod status;
pub mod validation;

pub use field::{ErrorList, ErrorType, FieldError, Path};
pub use kind::{Column, Kind, KindOps, Scope, Strategy, Subresource, Verb, WriteContext};
pub use object::{Object, ObjectExt};
pub use status::{ApiError, ApiResult};
