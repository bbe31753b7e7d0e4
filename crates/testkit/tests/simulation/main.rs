//! Simulated nodes under the real API server, scheduler and controllers.

mod alone;
mod faults;
mod histories;
mod journal;
mod nodes;
mod rules;
mod scene;
mod workload;
mod world;
