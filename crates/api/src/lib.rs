//! Every kind that Skiff serves: its type, defaults, validation, strategy, table columns and merge keys.
//! No I/O, nothing asynchronous.

pub mod admissionregistration;
pub mod apiextensions;
pub mod apiregistration;
pub mod apps;
pub mod authentication;
pub mod authorization;
pub mod autoscaling;
pub mod batch;
pub mod certificates;
pub mod conversion;
pub mod coordination;
pub mod core;
pub mod cron_schedule;
pub mod defaults;
pub mod discovery;
pub mod discovery_documents;
pub mod events;
pub mod field;
pub mod flowcontrol;
pub mod kind;
pub mod legacy;
pub mod networking;
pub mod node;
pub mod object;
pub mod patch;
pub mod pod_resources;
pub mod pod_security;
pub mod policy;
pub mod printing;
pub mod protobuf;
pub mod quota;
pub mod rbac;
pub mod resource;
pub mod runtime_config;
pub mod scheduling;
pub mod schema;
pub mod settings;
pub mod status;
pub mod storage;
pub mod table;
pub mod validation;

pub use field::{ErrorList, ErrorType, FieldError, Path};
pub use kind::{
    Column, Conversion, Kind, KindOps, Scope, Strategy, Subresource, Verb, WriteContext,
};
pub use object::{Object, ObjectExt};
pub use status::{ApiError, ApiResult};
pub use table::{kinds, subresource_kinds};
