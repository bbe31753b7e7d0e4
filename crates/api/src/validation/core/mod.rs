//! Validation of the core group.

pub(crate) mod persistent_volume_claim_spec;
pub mod pod;
pub(crate) mod resources;
