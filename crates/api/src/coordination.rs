//! The kinds of the group `coordination`, one file each.

pub mod lease;
