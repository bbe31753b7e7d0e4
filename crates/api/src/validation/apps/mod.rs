//! Validation of the apps group.

mod daemon_set;
mod deployment;
mod replica_set;
mod stateful_set;

pub use daemon_set::{
    validate_daemon_set, validate_daemon_set_status_update, validate_daemon_set_update,
    warnings_daemon_set,
};
pub use deployment::{
    validate_deployment, validate_deployment_status_update, validate_deployment_update,
    warnings_deployment,
};
pub(crate) use replica_set::replica_counts;
pub use replica_set::{
    validate_replica_set, validate_replica_set_status_update, validate_replica_set_update,
    warnings_replica_set,
};
pub use stateful_set::{
    validate_controller_revision, validate_controller_revision_update, validate_stateful_set,
    validate_stateful_set_status_update, validate_stateful_set_update, warnings_stateful_set,
};
