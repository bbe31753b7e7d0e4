//! One behaviour suite for every store: the same operations, the same answers.

#[path = "behaviour/model.rs"]
mod model;
#[path = "behaviour/properties.rs"]
mod properties;
#[path = "behaviour/scenarios.rs"]
mod scenarios;
mod scratch;
