//! The kinds of the group `policy`, one file each.

pub mod eviction;
pub mod pod_disruption_budget;
