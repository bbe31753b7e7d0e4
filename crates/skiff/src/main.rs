//! Skiff: the one binary.
fn main() {}
