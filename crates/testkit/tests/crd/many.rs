//! Many definitions: what they cost, printed.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use serde_json::{Value, json};
use skiff_testkit::TestCluster;

use crate::harness::{CRDS, definition, get, install, post, send, until, version};

/// So many without `SKIFF_MANY_DEFINITIONS`: large installations have 2,000, which take minutes in an unoptimised build.
const FEW: usize = 200;
/// Definitions of one group, as an operator brings them.
const IN_A_GROUP: usize = 20;

/// The memory of this process, in bytes.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// A schema of the size that operators' have.
fn schema() -> Value {
    let text = |what: &str| json!({"type": "string", "description": format!("{what} of the thing, which is described at some length here.")});
    let quantity = json!({"anyOf": [{"type": "integer"}, {"type": "string"}], "x-kubernetes-int-or-string": true});
    let mut fields = serde_json::Map::new();
    for at in 0..20 {
        fields.insert(format!("field{at}"), json!({"type": "object", "properties": {
            "name": text("The name"), "size": quantity, "mode": {"type": "string", "enum": ["a", "b", "c"]},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "items": {"type": "array", "items": {"type": "object", "properties": {"key": text("The key"), "value": text("The value")}}}}}));
    }
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": fields},
        "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}})
}

fn crd(at: usize) -> Value {
    let group = format!("group{}.example.com", at / IN_A_GROUP);
    definition(
        &group,
        &format!("things{at}"),
        &format!("Thing{at}"),
        json!([version(schema())]),
    )
}

async fn timed(cluster: &TestCluster, path: &str, accept: &str) -> (Duration, usize) {
    let start = Instant::now();
    let answer = send(
        cluster,
        "GET",
        path,
        &[("accept", accept), ("accept-encoding", "gzip")],
        &Value::Null,
    )
    .await;
    assert_eq!(answer.code, 200, "{path}: {}", answer.text);
    (start.elapsed(), answer.text.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_definitions_are_served_with_little_memory() {
    let count = std::env::var("SKIFF_MANY_DEFINITIONS").ok();
    let count = count.map_or(FEW, |count| count.parse().unwrap());
    let cluster = TestCluster::start().await.unwrap();
    install(&cluster, &crd(count)).await;
    get(&cluster, "/openapi/v2").await;
    let size = crd(0).to_string().len();
    let before = resident();
    let start = Instant::now();
    futures::stream::iter(0..count)
        .map(|at| {
            let cluster = &cluster;
            async move { post(cluster, CRDS, &crd(at)).await.ok() }
        })
        .buffer_unordered(8)
        .collect::<Vec<_>>()
        .await;
    let made = start.elapsed();
    let last = format!(
        "/apis/group{}.example.com/v1/things{}",
        (count - 1) / IN_A_GROUP,
        count - 1
    );
    until(&cluster, &last, |list| {
        list["kind"]
            .as_str()
            .is_some_and(|kind| kind.ends_with("List"))
    })
    .await;
    let served = start.elapsed();
    let installed = resident().saturating_sub(before);
    eprintln!(
        "{count} definitions of {size} bytes: made in {made:?}, served after {served:?}, {} KiB of memory each",
        (installed >> 10) / count
    );
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    for (path, accept) in [
        ("/apis", "application/json"),
        ("/apis", aggregated),
        ("/apis", aggregated),
        ("/openapi/v2", "application/json"),
        ("/openapi/v2", "application/json"),
        ("/openapi/v3", "application/json"),
        ("/openapi/v3/apis/group7.example.com/v1", "application/json"),
    ] {
        let (took, bytes) = timed(&cluster, path, accept).await;
        eprintln!("{path}: {took:?}, {bytes} bytes, {} MiB", resident() >> 20);
    }
    // A change is seen soon.
    let start = Instant::now();
    install(&cluster, &crd(count + 1)).await;
    let group = format!("group{}.example.com", (count + 1) / IN_A_GROUP);
    let kind = format!("Thing{}", count + 1);
    for _ in 0..1000 {
        let answer = get(&cluster, &format!("/openapi/v3/apis/{group}/v1")).await;
        if answer.text.contains(&kind) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    eprintln!("a change is in its document after {:?}", start.elapsed());
    let (took, _) = timed(&cluster, "/openapi/v2", "application/json").await;
    eprintln!("the whole document after a change: {took:?}");
    let all = resident().saturating_sub(before);
    eprintln!("in all {} KiB of memory each", (all >> 10) / count);
}
