//! Validation of the apps group.

mod deployment;
mod replica_set;

pub use deployment::{
    validate_deployment, validate_deployment_status_update, validate_deployment_update,
    warnings_deployment,
};
pub(crate) use replica_set::replica_counts;
pub use replica_set::{
    validate_replica_set, validate_replica_set_status_update, validate_replica_set_update,
    warnings_replica_set,
};
