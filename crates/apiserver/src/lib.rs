//! Skiff: apiserver.
