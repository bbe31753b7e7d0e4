//! Admission policies and webhooks: what both have in common is in [`rules`].

pub mod bindings;
pub mod policies;
pub mod rules;
#[cfg(test)]
mod tests;
pub mod webhooks;
