//! The rules about CronJobs: what was due ran and came to an end, and never two at a time.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::journal::Rule;
use crate::scene::{Change, LATELY, Object, Scene};
use crate::world::epoch;

/// One Job of a CronJob.
struct Run {
    begun: Duration,
    ended: Option<Duration>,
}

impl Run {
    fn was_under_way(&self, from: Duration, to: Duration) -> bool {
        self.begun <= to && self.ended.is_none_or(|ended| ended >= from)
    }
}

/// Of one CronJob.
#[derive(Default)]
struct Schedule {
    begun: Duration,
    /// When nothing was to run any more.
    stopped: Option<Duration>,
    /// By the minute that each was due in.
    runs: BTreeMap<i64, Run>,
}

impl Schedule {
    /// A minute that nothing was run for, without a reason.
    fn missed(&self, now: Duration, forbids: bool) -> Option<i64> {
        let stopped = self.stopped.unwrap_or(now);
        let first = minute_of(self.begun) + 1;
        (first..=minute_of(stopped)).find(|minute| {
            let due = moment_of(*minute);
            // Until then whoever was killed or not heard has come back, and what was missed is made up for.
            let late = due + LATELY;
            let mut others = self.runs.values();
            let busy = forbids && others.any(|run| run.was_under_way(due, late));
            late <= stopped && !busy && !self.runs.contains_key(minute)
        })
    }
}

fn since_1970() -> Duration {
    let epoch = epoch().duration_since(SystemTime::UNIX_EPOCH);
    epoch.expect("histories begin after 1970")
}

fn minute_of(moment: Duration) -> i64 {
    ((since_1970() + moment).as_secs() / 60) as i64
}

fn moment_of(minute: i64) -> Duration {
    Duration::from_secs(minute.unsigned_abs() * 60).saturating_sub(since_1970())
}

/// All CronJobs, by uid. Names of Jobs end with the minute that they were due in.
#[derive(Default)]
pub struct Runs(BTreeMap<String, Schedule>);

fn forbids(cron_job: &Object) -> bool {
    cron_job.text("/spec/concurrencyPolicy") == "Forbid"
}

fn is_over(job: &Object) -> bool {
    job.condition("Complete") || job.condition("Failed")
}

impl Rule for Runs {
    fn see(&mut self, scene: &Scene, change: &Change<'_>) -> Result<(), String> {
        let object = change.object();
        if object.kind == "cronjobs" {
            let schedule = self.0.entry(object.uid().to_owned()).or_default();
            if change.before.is_none() {
                schedule.begun = scene.now;
            }
            let stops = object.json["spec"]["suspend"] == true || object.is_deleted();
            if stops || change.after.is_none() {
                schedule.stopped.get_or_insert(scene.now);
            }
            return Ok(());
        }
        if object.kind != "jobs" || object.owner().0 != "CronJob" {
            return Ok(());
        }
        let uid = object.owner_uid();
        let schedule = self.0.entry(uid.to_owned()).or_default();
        let cron_job = scene.of_uid("cronjobs", uid);
        if change.before.is_none() {
            let run = Run {
                begun: scene.now,
                ended: None,
            };
            schedule.runs.insert(object.ordinal(), run);
            let under_way =
                |job: &&Object| job.owner_uid() == uid && !is_over(job) && !job.is_deleted();
            let count = scene.of_kind("jobs").filter(under_way).count();
            if count > 1 {
                return Err(format!("{} is one of {count} at a time", object.name));
            }
        }
        let over = change.after.is_none_or(is_over);
        if let Some(run) = schedule.runs.get_mut(&object.ordinal())
            && over
        {
            run.ended.get_or_insert(scene.now);
        }
        let cut = change.after.is_none() && !is_over(object);
        match cron_job.filter(|cron_job| forbids(cron_job) && !cron_job.is_deleted()) {
            Some(_) if cut => Err(format!("{} was not let come to its end", object.name)),
            _ => Ok(()),
        }
    }

    fn at_end(&self, scene: &Scene) -> Result<(), String> {
        for (uid, schedule) in &self.0 {
            let cron_job = scene.of_uid("cronjobs", uid);
            // Of one that is gone nobody knows how it was meant.
            let Some(cron_job) = cron_job else { continue };
            if let Some(minute) = schedule.missed(scene.now, forbids(cron_job)) {
                let due = moment_of(minute).as_secs();
                return Err(format!(
                    "{} was due at {due} and did not run",
                    cron_job.name
                ));
            }
        }
        Ok(())
    }
}
