//! When a CronJob is to start a Job, and which of its Jobs are to go. Pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use skiff_api::cron_schedule::{Schedule, time_zone};
use skiff_client::EventType;

use crate::job_plan::{Note, finished};
use crate::ownership::controller_reference;

const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Missing more runs than this is worth a warning.
const MANY: i64 = 100;
/// Looked at a little after it is due, so that it is.
const LATE: Duration = Duration::from_millis(100);

/// The name of what the CronJob starts at a time.
fn job_name(cron: &CronJob, at: Timestamp) -> String {
    let name = cron.metadata.name.as_deref().unwrap_or_default();
    format!("{name}-{}", at.as_second().div_euclid(60))
}

fn note(type_: EventType, reason: &str, message: String) -> Note {
    Note {
        type_,
        reason: reason.to_owned(),
        message,
    }
}

/// The finished Jobs that are more than the CronJob wants to keep, the oldest first.
pub(crate) fn outdated(cron: &CronJob, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let beyond = |ended: &str, limit: Option<i32>| {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else {
            return Vec::new();
        };
        let ended = jobs.iter().filter(|job| {
            job.metadata.deletion_timestamp.is_none()
                && finished(job).is_some_and(|condition| condition.type_ == ended)
        });
        let mut ended: Vec<_> = ended.cloned().collect();
        ended.sort_by_key(|job| {
            let status = job.status.as_ref();
            let start = status.and_then(|status| status.start_time.as_ref());
            let start = start.map(|time| time.0);
            (start.is_none(), start, job.metadata.name.clone())
        });
        ended.truncate(ended.len().saturating_sub(limit));
        ended
    };
    let spec = &cron.spec;
    let mut jobs = beyond("Complete", spec.successful_jobs_history_limit);
    jobs.extend(beyond("Failed", spec.failed_jobs_history_limit));
    jobs
}

/// Strikes a Job off the list of those that run.
pub(crate) fn strike(status: &mut CronJobStatus, uid: Option<&str>) {
    if let Some(active) = &mut status.active {
        active.retain(|found| found.uid.as_deref() != uid);
    }
}

/// Whether a Job is on the list of those that run.
pub(crate) fn is_listed(status: &CronJobStatus, uid: Option<&str>) -> bool {
    let mut active = status.active.iter().flatten();
    active.any(|found| found.uid.as_deref() == uid)
}

/// Brings the status up to date with the Jobs that are there.
pub(crate) fn follow(status: &mut CronJobStatus, jobs: &[Arc<Job>]) -> Vec<Note> {
    let mut notes = Vec::new();
    for job in jobs {
        let (uid, name) = (job.metadata.uid.as_deref(), job.metadata.name.as_deref());
        let name = name.unwrap_or_default();
        let listed = is_listed(status, uid);
        let Some(condition) = finished(job) else {
            if !listed {
                let text =
                    format!("Saw a job that the controller did not create or forgot: {name}");
                notes.push(note(EventType::Warning, "UnexpectedJob", text));
            }
            continue;
        };
        if listed {
            strike(status, uid);
            let text = format!("Saw completed job: {name}, condition: {}", condition.type_);
            notes.push(note(EventType::Normal, "SawCompletedJob", text));
        }
        let completed = job
            .status
            .as_ref()
            .filter(|_| condition.type_ == "Complete")
            .and_then(|status| status.completion_time.clone());
        let known = status.last_successful_time.as_ref().map(|time| time.0);
        if let Some(completed) = completed.filter(|time| known.is_none_or(|known| time.0 > known)) {
            status.last_successful_time = Some(completed);
        }
    }
    notes
}

/// What is to be started, and when to look again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    pub start: Option<Timestamp>,
    pub notes: Vec<Note>,
    pub wake: Option<Duration>,
}

/// A schedule and whose clocks it goes by.
struct Clockwork {
    schedule: Schedule,
    zone: TimeZone,
}

impl Clockwork {
    fn of(cron: &CronJob, notes: &mut Vec<Note>) -> Option<Self> {
        let spec = &cron.spec;
        let zone = match spec.time_zone.as_deref() {
            None => TimeZone::UTC,
            Some(name) => {
                let Some(zone) = time_zone(name) else {
                    let text = format!("invalid timeZone: {name:?}: unknown time zone {name}");
                    notes.push(note(EventType::Warning, "UnknownTimeZone", text));
                    return None;
                };
                zone
            }
        };
        let text = &spec.schedule;
        if text.contains("TZ") && spec.time_zone.is_none() {
            let text = format!(
                "CRON_TZ or TZ used in schedule {text:?} is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details"
            );
            notes.push(note(EventType::Warning, "UnsupportedSchedule", text));
        }
        match Schedule::parse(text) {
            Ok(schedule) => Some(Self { schedule, zone }),
            Err(error) => {
                let text = format!("unparseable schedule: {text:?} : {error}");
                notes.push(note(EventType::Warning, "UnparseableSchedule", text));
                None
            }
        }
    }

    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        self.schedule.next(after, &self.zone)
    }

    /// The last time up to `now` and after `earliest` at which it was due, and how often it was about.
    fn last(&self, earliest: Timestamp, now: Timestamp) -> Option<(Timestamp, i64)> {
        let first = self.next(earliest).filter(|first| *first <= now)?;
        let gap = self.next(first).map(|second| second.duration_since(first));
        let passed = now.duration_since(first).as_secs();
        let gap = gap.map_or(0, |gap| gap.as_secs());
        let missed = passed.checked_div(gap).unwrap_or(0).saturating_add(1);
        if self.schedule.period().is_some() {
            let ahead = SignedDuration::from_secs(gap.saturating_mul(missed - 1));
            return Some((first.checked_add(ahead).ok()?, missed));
        }
        // From ever earlier on until something is found.
        let mut back = SignedDuration::from_mins(1);
        let mut found = first;
        while let Ok(from) = now.checked_sub(back) {
            if from <= first {
                break;
            }
            if let Some(at) = self.next(from).filter(|at| *at <= now) {
                found = at;
                break;
            }
            back = back.saturating_add(back);
        }
        while let Some(at) = self.next(found).filter(|at| *at <= now) {
            found = at;
        }
        Some((found, missed))
    }

    /// How long until it is due again.
    fn wait(&self, cron: &CronJob, now: Timestamp) -> Option<Duration> {
        let start = beginning(cron);
        let last = self.last(start, now).map_or(start, |(last, _)| last);
        let next = self.next(last)?;
        let wait = Duration::try_from(next.duration_since(now)).unwrap_or_default();
        Some(wait + LATE)
    }
}

/// Since when runs are due.
fn beginning(cron: &CronJob) -> Timestamp {
    let status = cron.status.as_ref();
    let last = status.and_then(|status| status.last_schedule_time.as_ref());
    last.or(cron.metadata.creation_timestamp.as_ref())
        .map(|time| time.0)
        .unwrap_or_default()
}

/// How long until a CronJob whose schedule was changed is due; what it would have missed is not made up for.
pub(crate) fn wait_of_changed(cron: &CronJob, now: Timestamp) -> Option<Duration> {
    Clockwork::of(cron, &mut Vec::new())?.wait(cron, now)
}

/// Decides what is to be started now; `cron` carries the status as it is by now.
pub(crate) fn due(cron: &CronJob, now: Timestamp) -> Due {
    let mut due = Due::default();
    let spec = &cron.spec;
    if cron.metadata.deletion_timestamp.is_some() {
        return due;
    }
    if spec.suspend == Some(true) {
        return due;
    }
    let Some(clockwork) = Clockwork::of(cron, &mut due.notes) else {
        return due;
    };
    due.wake = clockwork.wait(cron, now);
    let mut earliest = beginning(cron);
    let deadline = spec
        .starting_deadline_seconds
        .map(SignedDuration::from_secs);
    if let Some(open) = deadline.and_then(|deadline| now.checked_sub(deadline).ok()) {
        earliest = earliest.max(open);
    }
    let Some((at, missed)) = clockwork.last(earliest, now) else {
        return due;
    };
    if missed > MANY {
        let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        due.notes.push(note(
            EventType::Warning,
            "TooManyMissedTimes",
            text.to_owned(),
        ));
    }
    let closes = deadline.and_then(|deadline| at.checked_add(deadline).ok());
    if closes.is_some_and(|closes| closes < now) {
        let at = at.strftime("%a, %d %b %Y %H:%M:%S +0000");
        let text = format!("Missed scheduled time to start a job: {at}");
        due.notes
            .push(note(EventType::Warning, "MissSchedule", text));
        return due;
    }
    let status = cron.status.as_ref();
    let active = || {
        status
            .iter()
            .flat_map(|status| status.active.iter().flatten())
    };
    let name = job_name(cron, at);
    let done = status.and_then(|status| status.last_schedule_time.as_ref());
    if done.is_some_and(|done| done.0 == at) || active().any(|job| job.name.as_ref() == Some(&name))
    {
        return due;
    }
    if spec.concurrency_policy.as_deref() == Some("Forbid") && active().next().is_some() {
        let text =
            "Not starting job because prior execution is running and concurrency policy is Forbid";
        due.notes
            .push(note(EventType::Normal, "JobAlreadyActive", text.to_owned()));
        return due;
    }
    due.start = Some(at);
    due
}

/// The Job to start for a time.
pub(crate) fn job(cron: &CronJob, at: Timestamp) -> Job {
    let template = &cron.spec.job_template;
    let meta = template.metadata.clone().unwrap_or_default();
    let zone = cron.spec.time_zone.as_deref().and_then(time_zone);
    let local = at.to_zoned(zone.unwrap_or(TimeZone::UTC));
    let offset = if local.offset().is_zero() { "Z" } else { "%:z" };
    let local = local
        .strftime(&format!("%Y-%m-%dT%H:%M:%S{offset}"))
        .to_string();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED.to_owned(), local);
    Job {
        metadata: ObjectMeta {
            name: Some(job_name(cron, at)),
            namespace: cron.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            creation_timestamp: Some(Time(at)),
            owner_references: Some(vec![controller_reference(cron)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: &str = "2026-05-01T10:00:30Z";

    fn cron(spec: Value, status: Value) -> CronJob {
        let mut cron = json!({"metadata": {"name": "c", "namespace": "n", "uid": "c", "creationTimestamp": "2026-05-01T00:00:00Z"},
            "spec": {"schedule": "0 * * * *", "jobTemplate": {"metadata": {"labels": {"a": "b"}, "annotations": {"x": "y"}}, "spec": {"template": {}}}}, "status": status});
        for (field, value) in spec.as_object().unwrap() {
            cron["spec"][field] = value.clone();
        }
        serde_json::from_value(cron).unwrap()
    }

    fn ran(at: &str) -> Value {
        json!({"lastScheduleTime": at})
    }

    #[test]
    fn what_is_due() {
        let hour = "2026-05-01T09:00:00Z";
        let running = json!({"lastScheduleTime": hour, "active": [{"name": "c-1", "uid": "1"}]});
        for (spec, status, now, expected) in [
            (json!({}), ran(hour), NOW, "start 10:00:00 wake 3570"),
            (json!({}), ran(hour), "2026-05-01T09:59:59Z", "wake 1"),
            (json!({}), ran("2026-05-01T10:00:00Z"), NOW, "wake 3570"),
            (json!({"suspend": true}), ran(hour), NOW, ""),
            // Of several missed runs only the last one is made up for.
            (json!({}), json!({}), NOW, "start 10:00:00 wake 3570"),
            (
                json!({"schedule": "* * * * *"}),
                json!({}),
                NOW,
                "start 10:00:00 TooManyMissedTimes wake 30",
            ),
            (
                json!({"schedule": "* * * * *", "startingDeadlineSeconds": 200}),
                json!({}),
                NOW,
                "start 10:00:00 wake 30",
            ),
            (
                json!({"startingDeadlineSeconds": 20}),
                ran(hour),
                NOW,
                "wake 3570",
            ),
            (
                json!({"schedule": "@every 7m"}),
                ran("2026-05-01T09:50:00Z"),
                NOW,
                "start 09:57:00 wake 210",
            ),
            (
                json!({"schedule": "@every 7m"}),
                ran("2026-05-01T09:57:00Z"),
                NOW,
                "wake 210",
            ),
            (
                json!({"concurrencyPolicy": "Forbid"}),
                running.clone(),
                NOW,
                "JobAlreadyActive wake 3570",
            ),
            (
                json!({"concurrencyPolicy": "Allow"}),
                running.clone(),
                NOW,
                "start 10:00:00 wake 3570",
            ),
            (
                json!({"concurrencyPolicy": "Replace"}),
                running,
                NOW,
                "start 10:00:00 wake 3570",
            ),
            (
                json!({"schedule": "0 12 * * *", "timeZone": "Europe/Berlin"}),
                ran(hour),
                NOW,
                "start 10:00:00 wake 86370",
            ),
            (
                json!({"schedule": "x"}),
                ran(hour),
                NOW,
                "UnparseableSchedule",
            ),
            (
                json!({"timeZone": "Mars/Base"}),
                ran(hour),
                NOW,
                "UnknownTimeZone",
            ),
            (
                json!({"schedule": "TZ=UTC 0 * * * *"}),
                ran(hour),
                NOW,
                "start 10:00:00 UnsupportedSchedule wake 3570",
            ),
            // A day that never comes.
            (json!({"schedule": "0 0 31 2 *"}), ran(hour), NOW, ""),
        ] {
            let due = due(&cron(spec.clone(), status.clone()), now.parse().unwrap());
            let mut words = Vec::new();
            words.extend(
                due.start
                    .map(|at| format!("start {}", at.strftime("%H:%M:%S"))),
            );
            words.extend(due.notes.into_iter().map(|note| note.reason));
            words.extend(due.wake.map(|wake| format!("wake {}", wake.as_secs())));
            assert_eq!(words.join(" "), expected, "{spec} {status} {now}");
        }
    }

    #[test]
    fn the_job_tells_its_time() {
        let at: Timestamp = "2026-05-01T10:00:00Z".parse().unwrap();
        let made = job(&cron(json!({"timeZone": "Asia/Tokyo"}), json!({})), at);
        assert_eq!(made.metadata.name.as_deref(), Some("c-29627160"));
        assert_eq!(
            made.metadata.annotations.unwrap()[SCHEDULED],
            "2026-05-01T19:00:00+09:00"
        );
        let plain = job(&cron(json!({}), json!({})), at)
            .metadata
            .annotations
            .unwrap();
        assert_eq!(plain[SCHEDULED], "2026-05-01T10:00:00Z");
        assert_eq!(plain["x"], "y");
    }

    fn ended(name: &str, start: &str, type_: &str) -> Arc<Job> {
        let conditions = if type_.is_empty() {
            json!([])
        } else {
            json!([{"type": type_, "status": "True"}])
        };
        Arc::new(serde_json::from_value(json!({"metadata": {"name": name, "uid": name}, "status": {"startTime": start, "completionTime": start, "conditions": conditions}})).unwrap())
    }

    #[test]
    fn history() {
        let jobs = [
            ended("b", "2026-05-01T02:00:00Z", "Complete"),
            ended("a", "2026-05-01T01:00:00Z", "Complete"),
            ended("f", "2026-05-01T01:00:00Z", "Failed"),
            ended("r", "2026-05-01T01:00:00Z", ""),
        ];
        let names = |spec: Value| {
            let gone = outdated(&cron(spec, json!({})), &jobs);
            let names = gone.iter().filter_map(|job| job.metadata.name.clone());
            names.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(json!({})), "");
        assert_eq!(
            names(json!({"successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1})),
            "a"
        );
        assert_eq!(
            names(json!({"successfulJobsHistoryLimit": 0, "failedJobsHistoryLimit": 0})),
            "a b f"
        );
        let listed = json!({"active": [{"name": "a", "uid": "a"}, {"name": "f", "uid": "f"}, {"name": "x", "uid": "x"}]});
        let mut status: CronJobStatus = serde_json::from_value(listed).unwrap();
        let notes = follow(&mut status, &jobs);
        let notes: Vec<_> = notes.into_iter().map(|note| note.message).collect();
        assert_eq!(
            notes,
            [
                "Saw completed job: a, condition: Complete",
                "Saw completed job: f, condition: Failed",
                "Saw a job that the controller did not create or forgot: r",
            ]
        );
        assert!(is_listed(&status, Some("x")) && !is_listed(&status, Some("a")));
        assert_eq!(
            status.last_successful_time.unwrap().0.to_string(),
            "2026-05-01T02:00:00Z"
        );
    }
}
