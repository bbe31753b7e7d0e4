//! Jobs, CronJobs, disruption budgets, metrics and autoscaling, as kubectl sees them.

use crate::cluster::{Cluster, cannot_run, eventually, text};
use crate::image::BUSYBOX;

/// Everything is made at once; each has a check of its own below.
const WORK: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: {name: parallel}
spec:
  completions: 4
  parallelism: 2
  template: {spec: {restartPolicy: Never, containers: [{name: c, image: "BUSYBOX", command: ["true"]}]}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: indexed}
spec:
  completions: 3
  parallelism: 3
  completionMode: Indexed
  backoffLimitPerIndex: 0
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: "BUSYBOX", command: [sh, -c, "echo $JOB_COMPLETION_INDEX $(hostname); test $JOB_COMPLETION_INDEX != 1"]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: failing}
spec:
  backoffLimit: 0
  template: {spec: {restartPolicy: Never, containers: [{name: c, image: "BUSYBOX", command: ["false"]}]}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: refused}
spec:
  podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: In, values: [42]}}]}
  template: {spec: {restartPolicy: Never, containers: [{name: c, image: "BUSYBOX", command: [sh, -c, "exit 42"]}]}}
---
apiVersion: batch/v1
kind: Job
metadata: {name: leader}
spec:
  completions: 3
  parallelism: 3
  completionMode: Indexed
  successPolicy: {rules: [{succeededIndexes: "0"}]}
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: "BUSYBOX", command: [sh, -c, "test $JOB_COMPLETION_INDEX = 0 || sleep 1000"]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: late}
spec:
  activeDeadlineSeconds: 2
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: "BUSYBOX", command: [sleep, "1000"]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: shortlived}
spec:
  ttlSecondsAfterFinished: 1
  template: {spec: {restartPolicy: Never, containers: [{name: c, image: "BUSYBOX", command: ["true"]}]}}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: tick}
spec:
  schedule: "@every 2s"
  successfulJobsHistoryLimit: 1
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: "BUSYBOX", command: ["true"]}]}}}}
"#;

const BUSY: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: busy}
spec:
  selector: {matchLabels: {app: busy}}
  template:
    metadata: {labels: {app: busy}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: "BUSYBOX"
        command: [sh, -c, "while true; do true; done"]
        resources: {requests: {cpu: 10m, memory: 8Mi}, limits: {cpu: 50m}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: busy}
spec: {maxUnavailable: 0, selector: {matchLabels: {app: busy}}}
"#;

impl Cluster {
    fn job(&self, name: &str, path: &str) -> String {
        let path = format!("jsonpath={path}");
        self.ask(&["get", "job", name, "-o", &path])
    }

    /// `Type:reason` of the Job's conditions, once it has ended.
    fn job_end(&self, name: &str) -> String {
        let mut ends = String::new();
        eventually(&format!("{name} ends"), || {
            let path = "{range .status.conditions[*]}{.type}:{.reason} {end}";
            ends = self.job(name, path);
            ends.contains("Complete:") || ends.contains("Failed:")
        });
        ends.trim().to_owned()
    }

    fn counted(&self, name: &str) -> String {
        self.job(name, "{.status.succeeded}/{.status.failed}")
    }
}

#[test]
fn work_gets_done() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("batch");
    cluster.import_busybox();
    cluster.apply(&WORK.replace("BUSYBOX", BUSYBOX));

    let complete = "SuccessCriteriaMet:CompletionsReached Complete:CompletionsReached";
    assert_eq!(cluster.job_end("parallel"), complete);
    assert_eq!(cluster.counted("parallel"), "4/");
    let table = cluster.ask(&["get", "job", "parallel", "--no-headers"]);
    assert!(
        table.contains("Complete") && table.contains("4/4"),
        "{table}"
    );

    assert_eq!(
        cluster.job_end("indexed"),
        "FailureTarget:FailedIndexes Failed:FailedIndexes"
    );
    let indexes = cluster.job(
        "indexed",
        "{.status.completedIndexes} {.status.failedIndexes}",
    );
    assert_eq!(indexes, "0,2 1");
    let mut logs: Vec<String> = cluster
        .ask(&["logs", "-l", "batch.kubernetes.io/job-name=indexed"])
        .lines()
        .map(str::to_owned)
        .collect();
    logs.sort();
    assert_eq!(logs, ["0 indexed-0", "1 indexed-1", "2 indexed-2"]);

    let limit = "FailureTarget:BackoffLimitExceeded Failed:BackoffLimitExceeded";
    assert_eq!(cluster.job_end("failing"), limit);
    assert_eq!(cluster.counted("failing"), "/1");
    assert_eq!(
        cluster.job_end("refused"),
        "FailureTarget:PodFailurePolicy Failed:PodFailurePolicy"
    );
    assert_eq!(
        cluster.job_end("leader"),
        "SuccessCriteriaMet:SuccessPolicy Complete:SuccessPolicy"
    );
    assert_eq!(
        cluster.job_end("late"),
        "FailureTarget:DeadlineExceeded Failed:DeadlineExceeded"
    );
    let described = cluster.ask(&["describe", "job", "failing"]);
    assert!(
        described.contains("Job has reached the specified backoff limit"),
        "{described}"
    );
    eventually("the short-lived Job is gone", || {
        text(&cluster.kubectl(&["get", "job", "shortlived"])).contains("NotFound")
    });
    cron(&cluster);
    // Nothing that was counted holds a pod.
    let left = "jsonpath={range .items[*]}{.metadata.finalizers}{end}";
    assert_eq!(cluster.ask(&["get", "pods", "-o", left]), "");
}

fn cron(cluster: &Cluster) {
    let cron = |path: &str| {
        let path = format!("jsonpath={path}");
        cluster.ask(&["get", "cronjob", "tick", "-o", &path])
    };
    eventually("a run succeeds", || {
        !cron("{.status.lastSuccessfulTime}").is_empty()
    });
    cluster.ask(&[
        "patch",
        "cronjob",
        "tick",
        "-p",
        r#"{"spec":{"suspend":true}}"#,
    ]);
    eventually("no run goes on", || cron("{.status.active}").is_empty());
    // The last one is kept, and of two that start in one second the one whose name comes last.
    cluster.ask(&["create", "job", "--from=cronjob/tick", "unplanned"]);
    let complete = "SuccessCriteriaMet:CompletionsReached Complete:CompletionsReached";
    assert_eq!(cluster.job_end("unplanned"), complete);
    let events = || cluster.ask(&["describe", "cronjob", "tick"]);
    eventually("the events tell of it", || {
        let events = events();
        events.contains("SuccessfulCreate") && events.contains("SawCompletedJob")
    });
    // Only the last one is kept.
    eventually("one is kept", || {
        let path = "jsonpath={range .items[?(@.metadata.ownerReferences[0].name==\"tick\")]}{.metadata.name} {end}";
        let kept = cluster.ask(&["get", "jobs", "-o", path]);
        kept.split_whitespace().count() == 1
    });
}

#[test]
fn budgets_metrics_and_autoscaling() {
    if cannot_run() {
        return;
    }
    let cluster = Cluster::start("busy");
    cluster.import_busybox();
    cluster.apply(&BUSY.replace("BUSYBOX", BUSYBOX));
    cluster.ask(&["rollout", "status", "deployment/busy", "--timeout=60s"]);

    // Held by the budget, until there is none.
    eventually("the budget is judged", || {
        let path = "jsonpath={.status.expectedPods} {.status.currentHealthy} {.status.conditions[0].reason}";
        cluster.ask(&["get", "pdb", "busy", "-o", path]) == "1 1 InsufficientPods"
    });
    let drain = |timeout: &str| {
        let node = cluster.ask(&["get", "nodes", "-o", "name"]);
        let mut words = vec![
            "drain",
            node.trim(),
            "--ignore-daemonsets",
            "--delete-emptydir-data",
        ];
        words.extend(["--force", "--pod-selector=app=busy", timeout]);
        cluster.kubectl(&words)
    };
    let held = drain("--timeout=3s");
    assert!(!held.status.success());
    let held = text(&held);
    assert!(
        held.contains("Cannot evict pod as it would violate the pod's disruption budget"),
        "{held}"
    );
    cluster.ask(&["delete", "pdb", "busy"]);
    let drained = drain("--timeout=60s");
    assert!(drained.status.success(), "{}", text(&drained));
    let node = cluster.ask(&["get", "nodes", "-o", "name"]);
    eventually("it is told why the new pod is pending", || {
        let pending = [
            "get",
            "pods",
            "--selector=app=busy",
            "--field-selector=status.phase=Pending",
            "--output=jsonpath={.items[*].metadata.name}",
        ];
        let pending = cluster.ask(&pending);
        let Some(name) = pending.split_whitespace().next() else {
            return false;
        };
        let why = text(&cluster.kubectl(&["get", "why", name]));
        why.contains("NodeUnschedulable") && why.contains("kubectl uncordon")
    });
    cluster.ask(&["uncordon", node.trim()]);
    cluster.ask(&["rollout", "status", "deployment/busy", "--timeout=60s"]);

    // What is used, without anything installed.
    let shown = cluster.ask(&["top", "nodes", "--no-headers"]);
    assert_eq!(shown.split_whitespace().count(), 5, "{shown}");
    eventually("top pods", || {
        let output = cluster.kubectl(&["top", "pods", "--no-headers", "-l", "app=busy"]);
        let shown = text(&output);
        let used = shown.split_whitespace().nth(1).unwrap_or_default();
        let cores: u32 = used.trim_end_matches('m').parse().unwrap_or(0);
        output.status.success() && cores >= 20
    });
    let available = "jsonpath={.status.conditions[?(@.type==\"Available\")].status}";
    let service = [
        "get",
        "apiservice",
        "v1beta1.metrics.k8s.io",
        "-o",
        available,
    ];
    assert_eq!(cluster.ask(&service), "True");

    // And what follows from it.
    let scale = [
        "autoscale",
        "deployment",
        "busy",
        "--cpu-percent=50",
        "--min=1",
        "--max=2",
    ];
    cluster.ask(&scale);
    eventually("it is scaled up", || {
        cluster.ask(&[
            "get",
            "deployment",
            "busy",
            "-o",
            "jsonpath={.spec.replicas}",
        ]) == "2"
    });
    eventually("it says why", || {
        let told = cluster.ask(&["describe", "hpa", "busy"]);
        told.contains("SuccessfulRescale")
            && told.contains("cpu resource utilization (percentage of request) above target")
    });
}
