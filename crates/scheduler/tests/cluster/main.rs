//! The whole scheduler against the real API server in process: what comes about, not which calls were made.

mod binding;
mod devices;
mod extenders;
mod preemption;
mod running;
mod volumes;
