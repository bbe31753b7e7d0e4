//! The seam to the outside world: time, randomness, back-off, shutdown and the life cycle of components.
//!
//! Everything above this crate takes these from here (or through a trait of its own), so that a whole
//! cluster can run in a deterministic simulation.

pub mod backoff;
pub mod clock;
pub mod lifecycle;
pub mod random;

pub use backoff::Backoff;
pub use clock::{Clock, FastClock, SharedClock, SimulatedClock, SystemClock};
pub use lifecycle::{Component, Shutdown, supervise};
pub use random::Random;
