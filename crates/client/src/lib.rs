//! What every component needs to live on the Kubernetes API: caches of what the server holds, queues of
//! what is to be looked at, events for people, and leader election.
//!
//! Everything works over a [`kube::Client`], which may be a function call into the API server of the same
//! process or HTTPS to any Kubernetes API server; nothing here can tell the difference.

pub mod cache;
pub mod caches;
pub mod controller;
pub mod correlate;
pub mod decoders;
pub mod election;
pub mod events;
pub mod failure;
pub mod fence;
pub mod key;
pub mod measure;
pub mod own_api;
pub mod queue;
pub mod reflect;
pub mod selector;

pub use cache::{Event, SharedCache, Subscription};
pub use caches::Caches;
pub use controller::{Outcome, ReconcileError, Reconciler, run_workers};
pub use election::{Elected, ElectionConfig, LeaderElector};
pub use events::{EventRecorder, EventStyle, EventType};
pub use failure::{ApiFailure, is_already_exists, is_conflict, is_gone, is_not_found};
pub use fence::{Fence, Fenced};
pub use key::ObjectKey;
pub use queue::{Queues, WorkQueue};
pub use reflect::{Change, WatchSink, WatchSpec};
pub use selector::LabelMatcher;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use skiff_base::Clock;

/// The wall clock as an object's timestamp: whole seconds, as Kubernetes writes them.
#[must_use]
pub fn timestamp(clock: &dyn Clock) -> Time {
    let now = jiff::Timestamp::try_from(clock.now()).unwrap_or_default();
    Time(jiff::Timestamp::from_second(now.as_second()).unwrap_or_default())
}

/// The wall clock with microseconds, as leases and events carry it.
#[must_use]
pub fn micro_timestamp(clock: &dyn Clock) -> MicroTime {
    let now = jiff::Timestamp::try_from(clock.now()).unwrap_or_default();
    MicroTime(jiff::Timestamp::from_microsecond(now.as_microsecond()).unwrap_or_default())
}
