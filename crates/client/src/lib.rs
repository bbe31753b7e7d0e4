//! Skiff: client.
