//! The kinds of the group `flowcontrol`, one file each.

pub mod flow_schema;
pub mod priority_level_configuration;
