//! What faces the outside, fed with nonsense for a while: nothing may panic, hang or answer that it cannot handle it.
//!
//! Each runs for `SKIFF_FUZZ_SECONDS` (10 when nothing is said; CI says 60) with a seed of its own (`SKIFF_FUZZ_SEED`), which a failure
//! names. Inputs are good ones, bent.

use std::time::{Duration, Instant};

use axum::body::Body;
use http::Request;
use serde_json::{Value, json};
use skiff_base::Random;
use skiff_testkit::TestCluster;

use crate::asking::{admin, ask, send};

/// One input may take so long, in an unoptimised build on a busy machine.
const SLOW: Duration = Duration::from_secs(10);

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

struct Fuzzer {
    random: Random,
    seed: u64,
    end: Instant,
    seeds: Vec<Vec<u8>>,
    words: &'static [&'static str],
}

const WORDS: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "&a",
    "*a",
    "---\n",
    "\n",
    "  ",
    "- ",
    "null",
    "-1",
    "1e999",
    "18446744073709551616",
    "\\u0000",
    "\u{0}",
    "\u{feff}",
    "%00",
    "%2f",
    "..",
    "//",
    "?",
    "=",
    "==",
    "!=",
    " in (",
    ")",
    "metadata",
    "name",
    "$patch",
    "Ki",
    "e3",
    "é",
    "~1",
    "~0",
    "/-",
];

impl Fuzzer {
    fn new<S: AsRef<[u8]>>(seeds: &[S]) -> Self {
        let seed =
            variable("SKIFF_FUZZ_SEED").unwrap_or_else(|| Random::from_system().below(u64::MAX));
        let seconds = variable("SKIFF_FUZZ_SECONDS").unwrap_or(10);
        eprintln!("SKIFF_FUZZ_SEED={seed}");
        Self {
            random: Random::seeded(seed),
            seed,
            end: Instant::now() + Duration::from_secs(seconds),
            seeds: seeds.iter().map(|seed| seed.as_ref().to_vec()).collect(),
            words: WORDS,
        }
    }

    fn below(&self, bound: usize) -> usize {
        self.random.below(bound as u64) as usize
    }

    fn pick<'a, T>(&self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// The next input; `None`: the time is over.
    fn next(&mut self) -> Option<Vec<u8>> {
        if Instant::now() >= self.end {
            return None;
        }
        let mut input = self.pick(&self.seeds).clone();
        for _ in 0..=self.below(6) {
            let at = self.below(input.len() + 1);
            let length = self.below(input.len() - at + 1).min(1 + self.below(40));
            match self.below(7) {
                0 if at < input.len() => input[at] ^= 1 << self.below(8),
                1 => drop(input.drain(at..at + length)),
                2 => {
                    let piece = input[at..at + length].repeat(1 + self.below(20));
                    input.splice(at..at, piece);
                }
                3 => drop(input.splice(at..at, self.pick(self.words).bytes())),
                4 => {
                    let other = self.pick(&self.seeds).clone();
                    let from = self.below(other.len() + 1);
                    input.splice(at.., other[from..].iter().copied());
                }
                5 => input.insert(at, self.below(256) as u8),
                _ => drop(input.splice(at..at + length, self.pick(self.words).bytes())),
            }
        }
        input.truncate(64 << 10);
        Some(input)
    }

    /// Feeds a function until the time is over.
    fn feed(&mut self, mut eat: impl FnMut(&[u8])) {
        let mut count = 0;
        while let Some(input) = self.next() {
            let start = Instant::now();
            eat(&input);
            assert!(
                start.elapsed() < SLOW,
                "seed {}: {:?}",
                self.seed,
                String::from_utf8_lossy(&input)
            );
            count += 1;
        }
        eprintln!("{count} inputs");
    }

    /// Feeds a server until the time is over.
    async fn feed_server(
        &mut self,
        cluster: &TestCluster,
        mut make: impl FnMut(&Self, Vec<u8>) -> Option<Request<Body>>,
    ) {
        let mut count = 0;
        while let Some(input) = self.next() {
            let shown = String::from_utf8_lossy(&input).into_owned();
            let Some(request) = make(self, input) else {
                continue;
            };
            let start = Instant::now();
            let what = format!(
                "seed {}: {} {} {shown:?}",
                self.seed,
                request.method(),
                request.uri()
            );
            let strategic = request
                .headers()
                .get("content-type")
                .is_some_and(|media| media == "application/strategic-merge-patch+json");
            let answer = tokio::time::timeout(SLOW, send(&cluster.server, admin(), request)).await;
            let answer = answer.unwrap_or_else(|_| panic!("no answer: {what}"));
            assert!(
                !answer.text.contains("a request that it cannot handle"),
                "a panic: {what}"
            );
            // Upstream answers patches that do not fit, and versions that are no numbers, with 500, too.
            let message = answer.message();
            let as_upstream = strategic && message.starts_with("Internal error occurred: ")
                || message.starts_with("failed to create typed patch object")
                || message.starts_with("resourceVersion: Invalid value: ");
            assert!(answer.code != 500 || as_upstream, "{message}: {what}");
            assert!(start.elapsed() < SLOW, "{what}");
            count += 1;
        }
        eprintln!("{count} requests");
    }
}

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: "web"}, annotations: {a: "b"}}
spec:
  containers:
  - name: c
    image: "x:1"
    ports: [{containerPort: 80, protocol: TCP}]
    resources: {requests: {cpu: 100m, memory: 1Gi}, limits: {cpu: "1.5"}}
    env: [{name: A, value: "1"}]
  restartPolicy: Always
  tolerations:
  - {key: k, operator: Exists, effect: NoSchedule}
"#;

fn pod_json() -> String {
    let value = skiff_api::schema::body::parse_yaml(POD.as_bytes())
        .unwrap()
        .value;
    value.to_string()
}

#[test]
fn yaml_is_parsed_or_refused() {
    let seeds = [
        POD,
        "a: &x [1, 2]\nb: *x\n",
        "? - a\n: |+\n  text\n",
        "{a: 'b', \"c\": [~, 0x1f, 1_000, yes, 2001-01-01]}",
        "%YAML 1.1\n---\n!!str a: b\n...",
    ];
    Fuzzer::new(&seeds).feed(|input| {
        let _ = skiff_api::schema::body::parse_yaml(input);
    });
}

#[test]
fn protobuf_is_decoded_or_refused() {
    let object: Value = serde_json::from_str(&pod_json()).unwrap();
    let list = json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": [object]});
    let seeds: Vec<Vec<u8>> = [&object, &list]
        .iter()
        .filter_map(|value| skiff_api::protobuf::encode(value))
        .collect();
    assert!(!seeds.is_empty());
    Fuzzer::new(&seeds).feed(|input| {
        if let Ok(value) = skiff_api::protobuf::decode(input) {
            let _ = skiff_api::protobuf::encode(&value);
        }
    });
}

#[test]
fn selectors_and_quantities_are_parsed_or_refused() {
    let seeds = [
        "app=web,tier in (a, b),!c,d notin (e),x>1",
        "metadata.name=a,status.phase!=Running",
        "a\\=b=c",
        "1.5Gi",
        "100m",
        "12e-3",
        "-0.1Ei",
    ];
    Fuzzer::new(&seeds).feed(|input| {
        let text = String::from_utf8_lossy(input);
        let _ = skiff_apiserver::selector::LabelSelector::parse(&text);
        let _ = skiff_apiserver::selector::parse_fields(&text);
        let _ = skiff_api::validation::quantity::Amount::parse(&text);
    });
}

#[test]
fn spdy_frames_are_decoded_or_refused() {
    let seeds: [&[u8]; 4] = [
        &[
            0x80, 3, 0, 1, 1, 0, 0, 14, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0x78, 0xbb, 0, 0,
        ],
        &[0, 0, 0, 1, 1, 0, 0, 3, b'a', b'b', b'c'],
        &[
            0x80, 3, 0, 4, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0, 7,
        ],
        &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 9],
    ];
    Fuzzer::new(&seeds).feed(|input| {
        let mut decoder = skiff_streaming::spdy::FrameDecoder::default();
        let mut bytes = bytes::BytesMut::from(input);
        while let Ok(Some(_)) = decoder.decode(&mut bytes) {}
    });
}

#[tokio::test]
async fn objects_are_taken_or_refused() {
    let cluster = TestCluster::start().await.unwrap();
    let seeds = [
        pod_json(),
        POD.to_owned(),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "labels": {"a": "b"}}, "data": {"a": "b"}}).to_string(),
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "x"}]}}}}).to_string(),
    ];
    let paths = [
        "/api/v1/namespaces/default/pods",
        "/api/v1/namespaces/default/configmaps",
        "/apis/apps/v1/namespaces/default/deployments",
    ];
    let media = ["application/json", "application/yaml"];
    Fuzzer::new(&seeds)
        .feed_server(&cluster, |fuzzer, input| {
            let path = format!(
                "{}?dryRun=All&fieldValidation={}",
                fuzzer.pick(&paths),
                fuzzer.pick(&["Strict", "Warn", "Ignore"])
            );
            let request = Request::post(path).header("content-type", *fuzzer.pick(&media));
            request.body(Body::from(input)).ok()
        })
        .await;
}

#[tokio::test]
async fn patches_are_applied_or_refused() {
    let cluster = TestCluster::start().await.unwrap();
    let object: Value = serde_json::from_str(&pod_json()).unwrap();
    assert_eq!(
        ask(
            &cluster.server,
            "POST",
            "/api/v1/namespaces/default/pods",
            &object
        )
        .await
        .code,
        201
    );
    let seeds = [
        r#"[{"op":"add","path":"/metadata/labels/x","value":"y"},{"op":"remove","path":"/spec/containers/0/env"},{"op":"copy","from":"/spec","path":"/x"},{"op":"test","path":"/kind","value":"Pod"}]"#,
        r#"{"metadata":{"labels":{"a":null}},"spec":{"containers":[{"name":"c","image":"y"}]}}"#,
        r#"{"spec":{"$setElementOrder/containers":[{"name":"c"}],"containers":[{"$patch":"delete","name":"c"},{"name":"d","image":"z"}],"$retainKeys":["containers"]}}"#,
        r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"q"}]}}"#,
    ];
    let media = [
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
        "application/apply-patch+yaml",
    ];
    Fuzzer::new(&seeds)
        .feed_server(&cluster, |fuzzer, input| {
            let media = *fuzzer.pick(&media);
            let force = if media.contains("apply") {
                "&force=true"
            } else {
                ""
            };
            let path =
                format!("/api/v1/namespaces/default/pods/p?dryRun=All&fieldManager=f{force}");
            Request::patch(path)
                .header("content-type", media)
                .body(Body::from(input))
                .ok()
        })
        .await;
}

#[tokio::test]
async fn paths_and_queries_are_answered() {
    let cluster = TestCluster::start().await.unwrap();
    let seeds = [
        "/api/v1/namespaces/default/pods?limit=5&continue=abc&labelSelector=a%3Db&fieldSelector=metadata.name%3Dx",
        "/api/v1/pods?resourceVersion=0&resourceVersionMatch=NotOlderThan",
        "/apis/apps/v1/namespaces/default/deployments/d/scale",
        "/apis/apps/v1/watch/namespaces/default/deployments?timeoutSeconds=0",
        "/openapi/v3/apis/apps/v1?hash=x",
        "/healthz/etcd?verbose&exclude=ping",
        "/api/v1/namespaces/default/services/https:s:http/proxy/a/b?x=y",
        "/debug/api_priority_and_fairness/dump_queues",
        "/api/v1/nodes/n/proxy/metrics?timeout=1s",
    ];
    let methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    Fuzzer::new(&seeds)
        .feed_server(&cluster, |fuzzer, input| {
            let text = String::from_utf8_lossy(&input).replace("watch", "w");
            let uri: http::Uri = text.parse().ok()?;
            // A log that is followed, or a watch, has no end.
            // What was taken out may have left another behind ("watchatch").
            let endless = text.contains("watch") || text.contains("w=");
            if endless || uri.path().is_empty() || !uri.path().starts_with('/') {
                return None;
            }
            Request::builder()
                .method(*fuzzer.pick(&methods))
                .uri(uri)
                .body(Body::empty())
                .ok()
        })
        .await;
}

#[tokio::test]
async fn expressions_are_compiled_or_refused() {
    let cluster = TestCluster::start().await.unwrap();
    let seeds = [
        "object.spec.containers.all(c, c.image.matches('^x/[a-z]+$') && c.name in ['a', 'b'])",
        "has(object.metadata.labels) ? object.metadata.labels.map(k, k + '=').size() < 3 : oldObject == null",
        "quantity('1Gi').isGreaterThan(quantity('1M')) || ip('::1').isLoopback() || cidr('10.0.0.0/8').containsIP('10.1.2.3')",
        "[1, 2, 3].filter(x, x % 2 == 1).exists_one(x, x > 2u) && 'a%sb'.format([1.5e3]) != \"\\u00e9\" + r'\\'",
        "{'a': {'b': [null, true, b'x']}}['a'].b[0] == dyn(-9223372036854775808)",
    ];
    let path = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies?dryRun=All&fieldManager=f";
    Fuzzer::new(&seeds)
        .feed_server(&cluster, |fuzzer, input| {
            let text = String::from_utf8_lossy(&input).into_owned();
            let plain = json!([{"expression": "true", "messageExpression": "'x'"}]);
            let (variables, validations) = match fuzzer.below(2) {
                0 => (json!([]), json!([{"expression": text}])),
                _ => (json!([{"name": "v", "expression": text}]), plain),
            };
            let policy = json!({
                "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
                "metadata": {"name": "p"},
                "spec": {
                    "variables": variables, "validations": validations,
                    "matchConstraints": {"resourceRules": [{
                        "apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["pods"],
                    }]},
                },
            });
            let request = Request::post(path).header("content-type", "application/json");
            request.body(Body::from(policy.to_string())).ok()
        })
        .await;
}
