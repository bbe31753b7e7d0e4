//! Kinds of the group `settings.k8s.io`, which upstream removed in 1.20.

pub mod pod_preset;
