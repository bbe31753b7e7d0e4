//! What an object gets where its author said nothing: upstream's defaults, also those that come of converting to
//! its internal types and back (empty structures, canonical quantities).
//!
//! One module per group. Every function is idempotent.

pub mod admissionregistration;
pub mod apps;
pub mod autoscaling;
pub mod batch;
pub mod core;
pub mod flowcontrol;
pub mod networking;
pub mod other;
pub mod rbac;
pub mod resource;
pub mod storage;
