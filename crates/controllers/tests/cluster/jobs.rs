//! Jobs and CronJobs, with the test in the kubelets' place.

use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::running::{Running, make, start, until};

struct World {
    running: Running,
    jobs: Api<Job>,
    pods: Api<Pod>,
}

async fn world() -> World {
    let running = start().await;
    let client = running.cluster.client();
    let accounts: Api<ServiceAccount> = Api::default_namespaced(client.clone());
    until("the account", || async {
        accounts.get_opt("default").await.unwrap()
    })
    .await;
    World {
        running,
        jobs: Api::default_namespaced(client.clone()),
        pods: Api::default_namespaced(client),
    }
}

fn job(name: &str, spec: Value) -> Value {
    let mut job = json!({"metadata": {"name": name}, "spec": {"template": {"spec": {
        "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
    for (field, value) in spec.as_object().unwrap() {
        job["spec"][field] = value.clone();
    }
    job
}

impl World {
    async fn list(&self) -> Vec<Pod> {
        self.pods.list(&ListParams::default()).await.unwrap().items
    }

    /// Ends all pods that run; `phase` says how, by the pod.
    async fn end(&self, phase: impl Fn(&Pod) -> &'static str) {
        for pod in self.list().await {
            let known = pod.status.as_ref().and_then(|status| status.phase.clone());
            if matches!(known.as_deref(), Some("Succeeded" | "Failed")) {
                continue;
            }
            let name = pod.metadata.name.clone().unwrap();
            if pod.metadata.deletion_timestamp.is_some() {
                let now = DeleteParams::default().grace_period(0);
                let _ = self.pods.delete(&name, &now).await;
                continue;
            }
            let status = json!({"status": {"phase": phase(&pod)}});
            // The pod may be deleted in between.
            let _ = self
                .pods
                .patch_status(&name, &PatchParams::default(), &Patch::Strategic(status))
                .await;
        }
    }

    /// The Job's conditions once it has ended, while all pods end so.
    async fn ended(&self, name: &str, phase: impl Fn(&Pod) -> &'static str) -> Job {
        until(&format!("{name} ends"), || async {
            self.end(&phase).await;
            let job = self.jobs.get(name).await.unwrap();
            let ended = conditions(&job);
            ended
                .iter()
                .any(|found| found.starts_with("Complete=") || found.starts_with("Failed="))
                .then_some(job)
        })
        .await
    }
}

fn conditions(job: &Job) -> Vec<String> {
    let conditions = job
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let shown = conditions.map(|found| {
        let reason = found.reason.as_deref().unwrap_or_default();
        format!("{}={}:{reason}", found.type_, found.status)
    });
    shown.collect()
}

fn index(pod: &Pod) -> String {
    let annotations = pod.metadata.annotations.clone().unwrap_or_default();
    annotations["batch.kubernetes.io/job-completion-index"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_completes_and_every_pod_counts_once() {
    let world = world().await;
    make(
        &world.jobs,
        job("work", json!({"completions": 5, "parallelism": 2})),
    )
    .await;
    let done = world.ended("work", |_| "Succeeded").await;
    assert_eq!(
        conditions(&done),
        [
            "SuccessCriteriaMet=True:CompletionsReached",
            "Complete=True:CompletionsReached"
        ]
    );
    let status = done.status.unwrap();
    assert_eq!(
        (status.succeeded, status.failed, status.active),
        (Some(5), None, None)
    );
    assert_eq!((status.ready, status.terminating), (Some(0), Some(0)));
    assert!(status.completion_time.is_some() && status.start_time.is_some());
    let pods = world.list().await;
    assert_eq!(pods.len(), 5);
    assert!(pods.iter().all(|pod| pod.metadata.finalizers.is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_fail_and_succeed_each_for_itself() {
    let world = world().await;
    let spec = json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed", "backoffLimitPerIndex": 0});
    make(&world.jobs, job("work", spec)).await;
    let done = world
        .ended("work", |pod| {
            if index(pod) == "1" {
                "Failed"
            } else {
                "Succeeded"
            }
        })
        .await;
    assert_eq!(
        conditions(&done),
        [
            "FailureTarget=True:FailedIndexes",
            "Failed=True:FailedIndexes"
        ]
    );
    let status = done.status.unwrap();
    assert_eq!(status.completed_indexes.as_deref(), Some("0,2"));
    assert_eq!(status.failed_indexes.as_deref(), Some("1"));
    assert_eq!((status.succeeded, status.failed), (Some(2), Some(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_job_ends_its_other_pods() {
    let world = world().await;
    make(
        &world.jobs,
        job(
            "work",
            json!({"completions": 2, "parallelism": 2, "backoffLimit": 0}),
        ),
    )
    .await;
    until("two pods", || async {
        (world.list().await.len() == 2).then_some(())
    })
    .await;
    let first = world.list().await.remove(0).metadata.name.unwrap();
    let failed = json!({"status": {"phase": "Failed"}});
    world
        .pods
        .patch_status(&first, &PatchParams::default(), &Patch::Strategic(failed))
        .await
        .unwrap();
    let done = world.ended("work", |_| "Running").await;
    assert_eq!(
        conditions(&done),
        [
            "FailureTarget=True:BackoffLimitExceeded",
            "Failed=True:BackoffLimitExceeded"
        ]
    );
    assert_eq!(done.status.unwrap().failed, Some(2));
    assert_eq!(world.list().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_job_waits_and_goes_on() {
    let world = world().await;
    make(
        &world.jobs,
        job("work", json!({"parallelism": 2, "completions": 2})),
    )
    .await;
    until("two pods", || async {
        (world.list().await.len() == 2).then_some(())
    })
    .await;
    let suspend = |suspend: bool| {
        let (jobs, patch) = (world.jobs.clone(), json!({"spec": {"suspend": suspend}}));
        async move {
            jobs.patch("work", &PatchParams::default(), &Patch::Merge(patch))
                .await
                .unwrap();
        }
    };
    suspend(true).await;
    until("no pods", || async {
        world.end(|_| "Running").await;
        world.list().await.is_empty().then_some(())
    })
    .await;
    let job = until("suspended", || async {
        let job = world.jobs.get("work").await.unwrap();
        (conditions(&job) == ["Suspended=True:JobSuspended"]).then_some(job)
    })
    .await;
    assert!(job.status.unwrap().start_time.is_none());
    suspend(false).await;
    let done = world.ended("work", |_| "Succeeded").await;
    assert_eq!(conditions(&done)[0], "Suspended=False:JobResumed");
    let status = done.status.unwrap();
    assert_eq!((status.succeeded, status.failed), (Some(2), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_of_deleted_jobs_and_expired_jobs_go() {
    let world = world().await;
    make(&world.jobs, job("gone", json!({}))).await;
    until("a pod", || async {
        (!world.list().await.is_empty()).then_some(())
    })
    .await;
    world
        .jobs
        .delete("gone", &DeleteParams::background())
        .await
        .unwrap();
    until("no pod", || async {
        world.end(|_| "Running").await;
        world.list().await.is_empty().then_some(())
    })
    .await;
    make(
        &world.jobs,
        job("short", json!({"ttlSecondsAfterFinished": 0})),
    )
    .await;
    until("the Job is gone", || async {
        world.end(|_| "Succeeded").await;
        world
            .jobs
            .get_opt("short")
            .await
            .unwrap()
            .is_none()
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cron_job_starts_jobs_and_keeps_the_last() {
    let world = world().await;
    let crons: Api<CronJob> = Api::default_namespaced(world.running.cluster.client());
    let template = job("", json!({}));
    make(
        &crons,
        json!({"metadata": {"name": "tick"}, "spec": {"schedule": "@every 1s", "successfulJobsHistoryLimit": 0,
            "jobTemplate": {"spec": template["spec"]}}}),
    )
    .await;
    let started = until("a Job", || async {
        let mut jobs = world.jobs.list(&ListParams::default()).await.unwrap().items;
        jobs.pop()
    })
    .await;
    let annotations = started.metadata.annotations.unwrap();
    assert!(annotations.contains_key("batch.kubernetes.io/cronjob-scheduled-timestamp"));
    let name = started.metadata.name.unwrap();
    until("listed as active", || async {
        let status = crons.get("tick").await.unwrap().status?;
        status
            .active?
            .iter()
            .any(|job| job.name.as_deref() == Some(&name))
            .then_some(())
    })
    .await;
    // No more from now on; what has ended goes at once.
    let patch = json!({"spec": {"suspend": true}});
    crons
        .patch("tick", &PatchParams::default(), &Patch::Merge(patch))
        .await
        .unwrap();
    until("the Jobs are gone", || async {
        world.end(|_| "Succeeded").await;
        let jobs = world.jobs.list(&ListParams::default()).await.unwrap().items;
        jobs.is_empty().then_some(())
    })
    .await;
    until("the status says so", || async {
        let status = crons.get("tick").await.unwrap().status.unwrap();
        (status.active.is_none() && status.last_successful_time.is_some()).then_some(())
    })
    .await;
}
