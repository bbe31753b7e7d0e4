//! What an object gets where its author said nothing: upstream's defaults, also those that come of converting to
//! its internal types and back (empty structures, canonical quantities).
//!
//! One file per kind under its group's folder. Every function is idempotent.

pub mod core;
