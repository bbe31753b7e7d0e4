//! Simulated nodes under the real API server, scheduler and controllers.

mod histories;
mod nodes;
mod world;
