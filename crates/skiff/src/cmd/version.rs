//! `skiff version`.

/// Skiff's version and that of the Kubernetes API it serves.
pub const TEXT: &str = concat!(env!("CARGO_PKG_VERSION"), " (Kubernetes API v1.36.2)");
