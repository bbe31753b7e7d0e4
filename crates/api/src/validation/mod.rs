//! What is wrong with an object: upstream's checks, in its order, with its field paths and messages.
//!
//! One file per kind under its group's folder. The functions never change the object; what a client left out is
//! filled before by [`crate::defaults`]. Metadata is checked by [`meta`], once, for every kind.

pub(crate) mod absent;
pub mod admissionregistration;
pub mod apiregistration;
pub mod apps;
pub mod attachments;
pub mod autoscaling;
pub mod batch;
pub mod certificates;
pub(crate) mod changes;
pub mod coordination;
pub mod core;
pub mod discovery;
pub mod events;
pub mod expressions;
pub mod flowcontrol;
pub mod meta;
pub mod names;
pub mod net;
pub mod networking;
pub mod policy;
pub mod quantity;
pub mod rbac;
pub mod resource;
pub mod runtime_class;
pub mod service_ranges;
pub mod storage;
pub(crate) mod values;
pub mod warnings;
pub(crate) mod workload;
