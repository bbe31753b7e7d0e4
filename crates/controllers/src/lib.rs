//! Skiff: controllers.
