//! A cluster whose state lies in a real etcd.

use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use skiff_testkit::TestEtcd;

use crate::cluster::{Cluster, cannot_run, eventually, run, text};

/// All that etcd holds under a prefix, as key and value, over its JSON gateway.
fn stored(etcd: &TestEtcd, prefix: &str) -> Vec<(String, Vec<u8>)> {
    let mut end = prefix.as_bytes().to_vec();
    *end.last_mut().unwrap() += 1;
    let question = json!({"key": STANDARD.encode(prefix), "range_end": STANDARD.encode(end)});
    let output = run(Command::new("curl")
        .args(["-sS", "--max-time", "20", "-d", &question.to_string()])
        .arg(format!("{}/v3/kv/range", etcd.url())));
    let answer: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output)));
    let decode = |kv: &Value, field: &str| STANDARD.decode(kv[field].as_str().unwrap()).unwrap();
    let found = answer["kvs"].as_array().cloned().unwrap_or_default();
    found
        .iter()
        .map(|kv| {
            let key = String::from_utf8(decode(kv, "key")).unwrap();
            (key, decode(kv, "value"))
        })
        .collect()
}

#[test]
fn a_deployment_runs_on_an_etcd_and_survives_its_death() {
    if cannot_run() {
        return;
    }
    let Some(mut etcd) = TestEtcd::start() else {
        return;
    };
    let url = etcd.url();
    let cluster = Cluster::start_with("etcd", &["--store", "etcd", "--etcd-servers", &url]);
    cluster.ask(&[
        "create",
        "deployment",
        "web",
        "--image=skiff.local/demo",
        "--replicas=2",
    ]);
    cluster.ask(&["rollout", "status", "deployment/web", "--timeout=90s"]);

    // Upstream's keys and plain JSON, but for Secrets.
    let pods = stored(&etcd, "/registry/pods/default/");
    assert_eq!(pods.len(), 2);
    let pod: Value = serde_json::from_slice(&pods[0].1).unwrap();
    assert_eq!(pod["kind"], "Pod");
    cluster.ask(&[
        "create",
        "secret",
        "generic",
        "quiet",
        "--from-literal=word=xylophone",
    ]);
    let secrets = stored(&etcd, "/registry/secrets/default/quiet");
    assert_eq!(secrets.len(), 1);
    assert!(secrets[0].1.starts_with(b"k8s:enc:"));
    let hidden = STANDARD.encode("xylophone");
    for (key, value) in stored(&etcd, "/registry/") {
        for word in ["xylophone", hidden.trim_end_matches('=')] {
            let found = value
                .windows(word.len())
                .any(|part| part == word.as_bytes());
            assert!(!found, "{key} shows the secret");
        }
    }
    let word = cluster.ask(&["get", "secret", "quiet", "-o", "jsonpath={.data.word}"]);
    assert_eq!(word.trim(), hidden);

    // An etcd that is killed and comes back: the server says so, and goes on by itself.
    let ailing = |end: &str| {
        let answer = cluster.kubectl(&["get", "--raw", &format!("/{end}?verbose")]);
        !answer.status.success() && text(&answer).contains("[-]etcd failed: reason withheld")
    };
    assert!(!ailing("readyz"));
    etcd.kill();
    assert!(ailing("readyz") && ailing("livez"));
    etcd.restart();
    eventually("the server is ready again", || !ailing("readyz"));
    eventually("the Deployment is scaled after etcd's death", || {
        let scaled = cluster.kubectl(&["scale", "deployment/web", "--replicas=3"]);
        scaled.status.success()
    });
    cluster.ask(&["rollout", "status", "deployment/web", "--timeout=90s"]);
    let ready = cluster.ask(&[
        "get",
        "deployment",
        "web",
        "-o",
        "jsonpath={.status.readyReplicas}",
    ]);
    assert_eq!(ready.trim(), "3");
}

#[test]
fn a_second_server_stands_by_and_takes_over() {
    if cannot_run() {
        return;
    }
    let Some(etcd) = TestEtcd::start() else {
        return;
    };
    // Secrets of one are read by the other.
    let directory = tempfile::tempdir().unwrap();
    let encryption = directory.path().join("encryption.yaml");
    std::fs::write(
        &encryption,
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: [{resources: [secrets], providers: [{identity: {}}]}]\n",
    )
    .unwrap();
    let (url, encryption) = (etcd.url(), encryption.to_string_lossy());
    let server = |name: &str| {
        let place = ["--store", "etcd", "--etcd-servers", &url];
        let rest = [
            "--encryption-provider-config",
            &encryption,
            "--disable",
            "kubelet,proxy,dns",
        ];
        Cluster::start_with(name, &[&place[..], &rest[..]].concat())
    };
    let first = server("etca");
    let leases = ["kube-scheduler", "kube-controller-manager"];
    let holders = |cluster: &Cluster| {
        leases.map(|lease| {
            let path = "jsonpath={.spec.holderIdentity} {.spec.leaseDurationSeconds}";
            cluster.ask(&["get", "lease", "-n", "kube-system", lease, "-o", path])
        })
    };
    eventually("the first leads", || {
        let held = first.kubectl(&["get", "lease", "-n", "kube-system", leases[0], leases[1]]);
        held.status.success() && holders(&first).iter().all(|holder| holder.ends_with(" 15"))
    });
    let before = holders(&first);
    let second = server("etcb");
    let pods = |app: &str| {
        let path = "jsonpath={.items[*].status.conditions[?(@.type=='PodScheduled')].reason}";
        let selector = format!("app={app}");
        second.ask(&["get", "pods", "-l", &selector, "-o", path])
    };
    let deploy = |name: &str| {
        second.ask(&[
            "create",
            "deployment",
            name,
            "--image=skiff.local/demo",
            "--replicas=2",
        ]);
        eventually(
            &format!("{name} has pods that the scheduler has seen"),
            || pods(name) == "Unschedulable Unschedulable",
        );
    };
    deploy("one");
    assert_eq!(holders(&second), before, "the first still leads");
    // Whoever asks for the service finds both; they share this machine's address here, and so one entry.
    let endpoints = || {
        second.ask(&[
            "get",
            "endpointslice",
            "kubernetes",
            "-o",
            "jsonpath={.metadata.generation}",
        ])
    };
    let generation = endpoints();
    kill(Pid::from_raw(first.process()), Signal::SIGKILL).unwrap();
    eventually("the second leads", || {
        holders(&second)
            .iter()
            .zip(&before)
            .all(|(now, before)| now != before)
    });
    deploy("two");
    let events = second.ask(&[
        "get",
        "events",
        "-n",
        "kube-system",
        "--field-selector",
        "reason=LeaderElection",
        "-o",
        "jsonpath={.items[*].involvedObject.name}",
    ]);
    for lease in leases {
        assert!(events.matches(lease).count() >= 2, "{events}");
    }
    let changes = endpoints().parse::<i64>().unwrap() - generation.parse::<i64>().unwrap();
    assert!(
        changes < 4,
        "the servers quarrel about where they are: {changes}"
    );
}
