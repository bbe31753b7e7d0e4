//! Defaults of the core group.

mod cluster;
mod container;
mod image;
mod pod;
mod service;
mod storage;
mod volume;
mod workload;

pub use cluster::{
    default_event, default_limit_range, default_namespace, default_node, default_resource_quota,
    default_secret,
};
pub use container::default_resource_list;
pub use pod::{default_pod, default_pod_spec, default_pod_template, default_pod_template_spec};
pub(crate) use pod::{total_limits, total_requests};
pub(crate) use service::is_external;
pub use service::{default_endpoints, default_service};
pub use storage::{
    default_persistent_volume, default_persistent_volume_claim, default_persistent_volume_spec,
};
pub use volume::default_claim_spec;
pub use workload::default_replication_controller;
