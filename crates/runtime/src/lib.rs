//! Skiff: runtime.
