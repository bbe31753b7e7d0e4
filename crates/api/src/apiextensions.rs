//! The kinds of the group `apiextensions`, one file each, and what custom resources are made of.

pub mod custom_object;
pub mod custom_resource_definition;
pub mod json_path;
pub mod naming;
pub mod structural;
pub mod validation;
