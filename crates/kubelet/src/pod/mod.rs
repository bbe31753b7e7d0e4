//! Everything about one pod: what it should be, what runs of it, and what to do next.

pub mod observed;
pub mod plan;
pub mod resources;
pub mod restart;
pub mod restart_all;
pub mod spec;
pub mod status;
