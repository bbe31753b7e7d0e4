//! Custom resources over the API: definitions come and go, their objects live as those of any other kind.

#[path = "crd/conversion.rs"]
mod conversion;
#[path = "crd/discovered.rs"]
mod discovered;
#[path = "crd/harness.rs"]
mod harness;
#[path = "crd/lifecycle.rs"]
mod lifecycle;
#[path = "crd/many.rs"]
mod many;
#[path = "crd/objects.rs"]
mod objects;
