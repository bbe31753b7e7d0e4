//! CronJobs: start a Job whenever the schedule says so, and keep only the last ones.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, DeleteParams, PostParams};
use kube::{Client, Error};
use skiff_base::SharedClock;
use skiff_client::failure::message;
use skiff_client::{
    ApiFailure, Event, EventRecorder, EventType, ObjectKey, Outcome, ReconcileError, Reconciler,
    SharedCache, is_already_exists, is_not_found,
};

use crate::Context;
use crate::cron_plan::{due, follow, is_listed, job, outdated, strike, wait_of_changed};
use crate::deletion::delete_seen;
use crate::gate::WriteGate;
use crate::ownership::{controller_of, is_controlled_by};

/// The name of this controller.
pub const NAME: &str = "cronjob-controller";

const WORKERS: usize = 5;
/// How long to wait for a cache to show a write before looking again.
const CATCH_UP: std::time::Duration = std::time::Duration::from_secs(1);

/// Runs the controller.
pub async fn run(context: Context) {
    let (crons, jobs) = (context.caches.of::<CronJob>(), context.caches.of::<Job>());
    jobs.index_owners();
    let queue = context.queue();
    crons.wait_synced().await;
    jobs.wait_synced().await;
    let _crons = {
        let (queue, clock) = (queue.clone(), context.clock.clone());
        crons.on_event(move |event| {
            let cron = event.object();
            let key = ObjectKey::of(&cron.metadata);
            let timing = |cron: &CronJob| (cron.spec.schedule.clone(), cron.spec.time_zone.clone());
            match event {
                Event::Updated { old, .. } if timing(old) != timing(cron) => {
                    let now = Timestamp::try_from(clock.now()).unwrap_or_default();
                    if let Some(wait) = wait_of_changed(cron, now) {
                        queue.add_after(key, wait);
                    }
                }
                _ => queue.add(key),
            }
        })
    };
    let _jobs = {
        let queue = queue.clone();
        let owner = |job: &Job| {
            let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
            controller_of(&job.metadata)
                .filter(|owner| owner.kind == "CronJob")
                .map(|owner| ObjectKey::new(namespace, &owner.name))
        };
        jobs.on_event(move |event| {
            if let Event::Updated { old, .. } = event {
                owner(old).into_iter().for_each(|key| queue.add(key));
            }
            owner(event.object())
                .into_iter()
                .for_each(|key| queue.add(key));
        })
    };
    let reconciler = CronJobs {
        client: context.client(NAME),
        crons,
        jobs,
        wrote: WriteGate::default(),
        recorder: context.recorder(NAME, NAME),
        clock: context.clock.clone(),
    };
    context.run(reconciler, queue, WORKERS).await;
}

struct CronJobs {
    client: Client,
    crons: SharedCache<CronJob>,
    jobs: SharedCache<Job>,
    wrote: WriteGate,
    recorder: EventRecorder,
    clock: SharedClock,
}

#[async_trait]
impl Reconciler for CronJobs {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "cronjob"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(cron) = self.crons.get(key) else {
            self.wrote.forget(key);
            return Ok(Outcome::Done);
        };
        if !self.wrote.is_open(key, &self.crons) {
            return Ok(Outcome::After(CATCH_UP));
        }
        let jobs = self
            .jobs
            .owned_by(cron.metadata.uid.as_deref().unwrap_or_default())
            .into_iter()
            .filter(|job| is_controlled_by(&job.metadata, &cron.metadata));
        let jobs: Vec<Arc<Job>> = jobs.collect();
        let mut current = CronJob::clone(&cron);
        let mut status = current.status.take().unwrap_or_default();
        for old in outdated(&cron, &jobs) {
            // One that stays is tried again with the next look.
            let _ = self.delete(&cron, &old, &mut status).await;
        }
        for note in follow(&mut status, &jobs) {
            self.recorder
                .about(&*cron, note.type_, &note.reason, note.message);
        }
        self.strike_missing(key, &cron, &jobs, &mut status).await?;
        current.status = Some(status);
        let now = Timestamp::try_from(self.clock.now()).unwrap_or_default();
        let due = due(&current, now);
        for note in due.notes {
            self.recorder
                .about(&*cron, note.type_, &note.reason, note.message);
        }
        let started = match due.start {
            Some(at) => self.start(key, &mut current, at).await,
            None => Ok(()),
        };
        self.write_status(key, &cron, current).await?;
        started?;
        Ok(due.wake.map_or(Outcome::Done, Outcome::After))
    }
}

impl CronJobs {
    fn jobs_api(&self, key: &ObjectKey) -> Api<Job> {
        Api::namespaced(self.client.clone(), key.namespace())
    }

    async fn delete(
        &self,
        cron: &CronJob,
        job: &Job,
        status: &mut CronJobStatus,
    ) -> Result<(), Error> {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let api = self.jobs_api(&ObjectKey::of(&cron.metadata));
        if let Err(error) = delete_seen(&api, &job.metadata, DeleteParams::background()).await {
            let text = format!("Deleted job: {}", message(&error));
            self.recorder
                .about(cron, EventType::Warning, "FailedDelete", text);
            return Err(error);
        }
        strike(status, job.metadata.uid.as_deref());
        let text = format!("Deleted job {name}");
        self.recorder
            .about(cron, EventType::Normal, "SuccessfulDelete", text);
        Ok(())
    }

    /// Strikes off what is listed as running but is gone.
    async fn strike_missing(
        &self,
        key: &ObjectKey,
        cron: &CronJob,
        jobs: &[Arc<Job>],
        status: &mut CronJobStatus,
    ) -> Result<(), Error> {
        for listed in status.active.clone().unwrap_or_default() {
            if jobs.iter().any(|job| job.metadata.uid == listed.uid) {
                continue;
            }
            let name = listed.name.as_deref().unwrap_or_default();
            let there = self.jobs_api(key).get_opt(name).await?;
            if there.is_none_or(|job| job.metadata.uid != listed.uid) {
                let text = format!("Active job went missing: {name}");
                self.recorder
                    .about(cron, EventType::Normal, "MissingJob", text);
                strike(status, listed.uid.as_deref());
            }
        }
        Ok(())
    }

    /// Starts what is due at `at`, after ending what it replaces.
    async fn start(&self, key: &ObjectKey, cron: &mut CronJob, at: Timestamp) -> Result<(), Error> {
        let api = self.jobs_api(key);
        let mut status = cron.status.clone().unwrap_or_default();
        if cron.spec.concurrency_policy.as_deref() == Some("Replace") {
            for running in status.active.clone().unwrap_or_default() {
                let job = match api.get(running.name.as_deref().unwrap_or_default()).await {
                    Ok(job) => job,
                    Err(error) => {
                        let text = format!("Get job: {}", message(&error));
                        self.recorder
                            .about(cron, EventType::Warning, "FailedGet", text);
                        return Err(error);
                    }
                };
                self.delete(cron, &job, &mut status).await?;
                cron.status = Some(status.clone());
            }
        }
        let wanted = job(cron, at);
        let started = match api.create(&PostParams::default(), &wanted).await {
            Ok(started) => {
                let name = started.metadata.name.as_deref().unwrap_or_default();
                let text = format!("Created job {name}");
                self.recorder
                    .about(cron, EventType::Normal, "SuccessfulCreate", text);
                started
            }
            Err(error) if is_already_exists(&error) => {
                // Made before a restart, or somebody else's.
                let name = wanted.metadata.name.as_deref().unwrap_or_default();
                let there = api.get(name).await?;
                if !is_controlled_by(&there.metadata, &cron.metadata)
                    || is_listed(&status, there.metadata.uid.as_deref())
                {
                    return Ok(());
                }
                there
            }
            Err(error) => {
                if !error.has_cause("NamespaceTerminating") {
                    let text = format!("Error creating job: {}", message(&error));
                    self.recorder
                        .about(cron, EventType::Warning, "FailedCreate", text);
                }
                return Err(error);
            }
        };
        status.active.get_or_insert_default().push(ObjectReference {
            api_version: Some("batch/v1".to_owned()),
            kind: Some("Job".to_owned()),
            namespace: started.metadata.namespace,
            name: started.metadata.name,
            uid: started.metadata.uid,
            resource_version: started.metadata.resource_version,
            field_path: None,
        });
        status.last_schedule_time = Some(Time(at));
        cron.status = Some(status);
        Ok(())
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        old: &CronJob,
        mut new: CronJob,
    ) -> Result<(), Error> {
        let status = new.status.get_or_insert_default();
        status.active = status.active.take().filter(|active| !active.is_empty());
        if *status == old.status.clone().unwrap_or_default() {
            return Ok(());
        }
        let api: Api<CronJob> = Api::namespaced(self.client.clone(), key.namespace());
        match api
            .replace_status(key.name(), &PostParams::default(), &new)
            .await
        {
            Ok(written) => {
                self.wrote.wrote(key, &written.metadata);
                Ok(())
            }
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
