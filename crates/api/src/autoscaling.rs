//! The kinds of the group `autoscaling`, one file each.

pub mod horizontal_pod_autoscaler;
pub mod horizontal_pod_autoscaler_v1;
pub mod scale;
mod targets;
