//! Simulated nodes under the real API server, scheduler and controllers.

mod alone;
mod faults;
mod histories;
mod journal;
mod nodes;
mod play;
mod rules;
mod runs;
mod scene;
mod volumes;
mod workload;
mod world;
