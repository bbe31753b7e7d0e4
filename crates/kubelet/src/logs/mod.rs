//! Container logs in the CRI format: reading, following, rotating.

pub mod line;
pub mod read;
pub mod rotate;
pub mod tail;
