//! Skiff: testkit.
