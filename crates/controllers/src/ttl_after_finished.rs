//! Deletes Jobs some time after they have ended, where they ask for it.

use std::time::Duration;

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::Client;
use kube::api::{Api, DeleteParams};
use skiff_base::SharedClock;
use skiff_client::{Event, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache};

use crate::Context;
use crate::deletion::delete_seen;
use crate::job_plan::finished;

/// The name of this controller.
pub const NAME: &str = "ttl-after-finished-controller";

const WORKERS: usize = 2;

/// Runs the controller.
pub async fn run(context: Context) {
    let jobs = context.caches.of::<Job>();
    let queue = context.queue();
    jobs.wait_synced().await;
    let _jobs = {
        let (queue, clock) = (queue.clone(), context.clock.clone());
        jobs.on_event(move |event| {
            let job = event.object();
            if !matches!(event, Event::Deleted(_)) && left(job, now(&clock)).is_some() {
                queue.add(ObjectKey::of(&job.metadata));
            }
        })
    };
    let reconciler = Finished {
        client: context.client(NAME),
        jobs,
        clock: context.clock.clone(),
    };
    context.run(reconciler, queue, WORKERS).await;
}

fn now(clock: &SharedClock) -> Timestamp {
    Timestamp::try_from(clock.now()).unwrap_or_default()
}

/// How long an ended Job may stay; none if it may for ever, has not ended, or goes already.
fn left(job: &Job, now: Timestamp) -> Option<Duration> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let ended = finished(job)?.last_transition_time.as_ref()?.0;
    let end = SignedDuration::from_secs(i64::from(ttl)).saturating_sub(now.duration_since(ended));
    Some(Duration::try_from(end).unwrap_or_default())
}

struct Finished {
    client: Client,
    jobs: SharedCache<Job>,
    clock: SharedClock,
}

#[async_trait]
impl Reconciler for Finished {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "ttl_jobs_to_delete"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let known = self.jobs.get(key);
        let Some(wait) = known.and_then(|job| left(&job, now(&self.clock))) else {
            return Ok(Outcome::Done);
        };
        if !wait.is_zero() {
            return Ok(Outcome::After(wait));
        }
        // The time may have been extended since; the server knows best.
        let api: Api<Job> = Api::namespaced(self.client.clone(), key.namespace());
        let Some(fresh) = api.get_opt(key.name()).await? else {
            return Ok(Outcome::Done);
        };
        match left(&fresh, now(&self.clock)) {
            None => return Ok(Outcome::Done),
            Some(wait) if !wait.is_zero() => return Ok(Outcome::After(wait)),
            Some(_) => {}
        }
        delete_seen(&api, &fresh.metadata, DeleteParams::foreground()).await?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_ended_jobs_with_a_limit_go() {
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let seconds = |ttl: Option<i32>, type_: &str, deleting: bool| {
            let job: Job = serde_json::from_value(json!({
                "metadata": {"deletionTimestamp": deleting.then_some("2026-01-01T00:00:00Z")},
                "spec": {"ttlSecondsAfterFinished": ttl, "template": {}},
                "status": {"conditions": [{"type": type_, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}))
            .unwrap();
            left(&job, now).map(|left| left.as_secs())
        };
        assert_eq!(seconds(Some(70), "Complete", false), Some(10));
        assert_eq!(seconds(Some(0), "Failed", false), Some(0));
        assert_eq!(seconds(None, "Complete", false), None);
        assert_eq!(seconds(Some(0), "SuccessCriteriaMet", false), None);
        assert_eq!(seconds(Some(0), "Complete", true), None);
    }
}
