//! The node: the machine, its object in the API, its lease.

pub mod machine;
