//! Validation of the core group.

mod config;
mod endpoints;
mod limits;
mod namespace;
mod node;
mod persistent_volume;
mod persistent_volume_claim;
pub(crate) mod persistent_volume_claim_spec;
pub mod pod;
mod replication_controller;
pub(crate) mod resources;
mod service;
mod service_addresses;

pub use config::{
    validate_config_map, validate_config_map_update, validate_secret, validate_secret_update,
    warnings_secret,
};
pub(crate) use endpoints::endpoint_ip;
pub use endpoints::{validate_endpoints, validate_endpoints_update, warnings_endpoints};
pub use limits::{
    validate_limit_range, validate_resource_quota, validate_resource_quota_status_update,
    validate_resource_quota_update,
};
pub use namespace::{
    validate_namespace, validate_namespace_finalize_update, validate_namespace_status_update,
    validate_namespace_update, validate_service_account, warnings_service_account,
};
pub use node::{validate_node, validate_node_status_update, validate_node_update, warnings_node};
pub use persistent_volume::{
    validate_persistent_volume, validate_persistent_volume_update, warnings_persistent_volume,
};
pub use persistent_volume_claim::{
    validate_persistent_volume_claim, validate_persistent_volume_claim_status_update,
    validate_persistent_volume_claim_update, warnings_persistent_volume_claim,
};
pub use replication_controller::{
    validate_replication_controller, validate_replication_controller_status_update,
    validate_replication_controller_update, warnings_replication_controller,
};
pub use service::{
    validate_service, validate_service_status_update, validate_service_update, warnings_service,
};

/// Whether a resource is someone else's, for example `vendor.example/gpu`.
#[must_use]
pub fn is_extended_resource(name: &str) -> bool {
    resources::is_extended(name)
}
