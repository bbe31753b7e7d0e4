//! Without priority and fairness: so many reading and so many writing requests at once, and no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::limits::Limits;
use crate::request::{RequestInfo, UserInfo};

/// The requests in flight.
pub(super) struct InFlight {
    reading: AtomicU32,
    writing: AtomicU32,
    most: (u32, u32),
}

/// One of them.
pub(crate) struct Slot(Option<(Arc<InFlight>, bool)>);

impl InFlight {
    pub fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            reading: AtomicU32::new(0),
            writing: AtomicU32::new(0),
            most: (
                limits.max_requests_inflight,
                limits.max_mutating_requests_inflight,
            ),
        })
    }

    fn counter(&self, writes: bool) -> (&AtomicU32, u32) {
        if writes {
            (&self.writing, self.most.1)
        } else {
            (&self.reading, self.most.0)
        }
    }

    /// Takes a place; `None`: there is none. 0 is no limit, and administrators are never refused.
    pub fn take(self: &Arc<Self>, info: &RequestInfo, user: &UserInfo) -> Option<Slot> {
        let writes = !matches!(info.verb.as_str(), "get" | "list" | "watch");
        let (counter, most) = self.counter(writes);
        if most == 0 {
            return Some(Slot(None));
        }
        let before = counter.fetch_add(1, Ordering::AcqRel);
        let slot = Slot(Some((self.clone(), writes)));
        (before < most || user.in_group("system:masters")).then_some(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some((inflight, writes)) = &self.0 {
            inflight.counter(*writes).0.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_are_counted_apart() {
        let inflight = InFlight::new(&Limits {
            max_requests_inflight: 2,
            max_mutating_requests_inflight: 1,
            ..Limits::default()
        });
        let of = |method| RequestInfo::resolve(method, "/api/v1/namespaces/a/pods/b", None);
        let (get, put) = (of(&http::Method::GET), of(&http::Method::PUT));
        let bob = UserInfo::new("bob", &[]);
        let first = inflight.take(&get, &bob);
        let _second = inflight.take(&get, &bob);
        assert!(first.is_some() && inflight.take(&get, &bob).is_none());
        let root = UserInfo::new("root", &["system:masters"]);
        assert!(inflight.take(&get, &root).is_some());
        let _writing = inflight.take(&put, &bob).unwrap();
        assert!(inflight.take(&put, &bob).is_none());
        drop(first);
        assert!(inflight.take(&get, &bob).is_some());
    }
}
