//! The server under attack and under load: what was once broken elsewhere, limits, overload, audit and encryption at rest.

mod identity;
