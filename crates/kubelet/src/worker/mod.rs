//! One task per pod: looks at what is wanted and what runs, plans, acts, reports, and sleeps until something happens.
//!
//! The task never blocks on slow work: pulling, starting and stopping run as an operation beside it, one at a time, so
//! that the status follows every container and a deletion is noticed at once.

pub mod hooks;
pub mod mailbox;
pub mod probing;
pub mod publish;
pub mod start;
pub mod stop;
pub mod turn;

pub use mailbox::{Mail, Mailbox};
pub use turn::Worker;
