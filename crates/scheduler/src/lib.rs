//! Skiff: scheduler.
