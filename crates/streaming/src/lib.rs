//! Skiff: streaming.
