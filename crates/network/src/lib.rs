//! Skiff: network.
