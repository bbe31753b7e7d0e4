//! Defaults of the core group.

mod container;
mod image;
mod pod;
mod volume;

pub use container::default_resource_list;
pub use pod::{default_pod, default_pod_spec, default_pod_template, default_pod_template_spec};
pub(crate) use pod::{total_limits, total_requests};
pub use volume::default_claim_spec;
