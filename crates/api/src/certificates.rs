//! The kinds of the group `certificates`, one file each.

pub mod certificate_signing_request;
