//! Custom resources over the API: definitions come and go, their objects live as those of any other kind.

#[path = "crd/harness.rs"]
mod harness;
#[path = "crd/lifecycle.rs"]
mod lifecycle;
