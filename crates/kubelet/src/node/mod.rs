//! The node: the machine, its object in the API, its lease.

pub mod lease;
pub mod machine;
pub mod object;
pub mod register;
