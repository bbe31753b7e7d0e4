//! Container logs in the CRI format: reading, following, rotating.

pub mod line;
