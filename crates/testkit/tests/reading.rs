//! Lists and watches as the API concepts say: which state, in pages, from where, in which form, and who is too slow.

use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use skiff_apiserver::UserInfo;
use skiff_testkit::TestCluster;
use tower::ServiceExt as _;

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

type Answer = Response<axum::body::Body>;

async fn send(cluster: &TestCluster, request: http::request::Builder, body: String) -> Answer {
    let request = request
        .body(http_body_util::Full::new(Bytes::from(body)))
        .unwrap();
    let user = UserInfo::new("admin", &["system:masters"]);
    let service = cluster.server.in_process(user);
    service.oneshot(request).await.unwrap()
}

async fn get(cluster: &TestCluster, path: &str, accept: &str) -> Answer {
    let request = Request::get(path).header(ACCEPT, accept);
    send(cluster, request, String::new()).await
}

async fn change(cluster: &TestCluster, method: &str, path: &str, object: &Value) -> Value {
    let kind = match method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(CONTENT_TYPE, kind);
    let answer = send(cluster, request, object.to_string()).await;
    assert!(
        answer.status().is_success(),
        "{method} {path}: {}",
        answer.status()
    );
    value(answer).await
}

async fn make_map(cluster: &TestCluster, name: &str) -> Value {
    let map = json!({"metadata": {"name": name, "labels": {"app": "x"}}, "data": {"a": "b"}});
    change(cluster, "POST", MAPS, &map).await
}

async fn bytes(answer: Answer) -> Bytes {
    answer.into_body().collect().await.unwrap().to_bytes()
}

async fn value(answer: Answer) -> Value {
    serde_json::from_slice(&bytes(answer).await).unwrap()
}

async fn json(cluster: &TestCluster, path: &str) -> Value {
    value(get(cluster, path, "application/json").await).await
}

/// The events of a watch that ends by itself.
async fn events(cluster: &TestCluster, path: &str, accept: &str) -> Vec<Value> {
    let answer = get(cluster, path, accept).await;
    assert_eq!(answer.status(), 200, "{path}");
    let body = bytes(answer).await;
    body.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

/// The events of a protobuf watch: each one's type and object.
fn frames(mut rest: &[u8]) -> Vec<(String, Value)> {
    let mut events = Vec::new();
    while !rest.is_empty() {
        let (length, tail) = rest.split_first_chunk::<4>().unwrap();
        let (frame, tail) = tail.split_at(u32::from_be_bytes(*length) as usize);
        rest = tail;
        // Field 1 is the type; field 2 holds field 1, the object with its envelope.
        assert_eq!(frame[0], 0x0a);
        let kind = String::from_utf8(frame[2..2 + frame[1] as usize].to_vec()).unwrap();
        let at = frame.windows(4).position(|four| four == b"k8s\0").unwrap();
        events.push((kind, skiff_api::protobuf::decode(&frame[at..]).unwrap()));
    }
    events
}

#[tokio::test]
async fn options_that_make_no_sense_are_refused_in_upstreams_words() {
    let cluster = TestCluster::start().await.unwrap();
    let options = "ListOptions.meta.k8s.io \"\" is invalid: ";
    let bad =
        "resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax";
    let no_token = "invalid continue token: continue key is not valid: ";
    let both = "[resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided, resourceVersionMatch: Unsupported value: \"Newest\": supported values: \"Exact\", \"NotOlderThan\", \"\"]";
    let table = [
        ("resourceVersionMatch=Exact", 422, format!("{options}resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided")),
        ("resourceVersionMatch=Newest", 422, format!("{options}{both}")),
        ("resourceVersionMatch=Exact&resourceVersion=0", 422, format!("{options}resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"")),
        ("resourceVersionMatch=Exact&resourceVersion=1&continue=x", 422, format!("{options}resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided")),
        ("sendInitialEvents=true", 422, format!("{options}sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list")),
        ("resourceVersion=x", 400, format!("invalid resource version: {bad}")),
        ("resourceVersion=%2B5", 400, "invalid resource version: resourceVersion: Invalid value: \"+5\": strconv.ParseUint: parsing \"+5\": invalid syntax".to_owned()),
        ("resourceVersion=99999999999999999999", 400, "invalid resource version: resourceVersion: Invalid value: \"99999999999999999999\": strconv.ParseUint: parsing \"99999999999999999999\": value out of range".to_owned()),
        // {"v":"meta.k8s.io/v1","rv":5,"start":"../x"}
        ("continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NSwic3RhcnQiOiIuLi94In0", 400, format!("{no_token}../x")),
        // {"v":"meta.k8s.io/v1","rv":5,"start":"default/x"}
        ("continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6NSwic3RhcnQiOiJkZWZhdWx0L3gifQ&resourceVersion=3", 400, "specifying resource version is not allowed when using continue".to_owned()),
        ("watch=1&resourceVersionMatch=NotOlderThan", 422, format!("{options}resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")),
        ("watch=1&sendInitialEvents=true", 422, format!("{options}resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")),
        ("watch=1&resourceVersion=x", 500, bad.to_owned()),
    ];
    for (query, code, message) in table {
        let status = json(&cluster, &format!("{MAPS}?{query}")).await;
        assert_eq!(
            (status["code"].as_u64(), status["message"].as_str()),
            (Some(code), Some(message.as_str())),
            "{query}"
        );
    }
    make_map(&cluster, "m").await;
    let status = json(&cluster, &format!("{MAPS}/m?resourceVersion=x")).await;
    assert_eq!(
        (&status["code"], &status["message"]),
        (&json!(500), &json!(bad))
    );
}

#[tokio::test]
async fn a_list_shows_the_state_that_is_asked_for() {
    let cluster = TestCluster::start().await.unwrap();
    let first = make_map(&cluster, "a").await;
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    make_map(&cluster, "b").await;
    for (query, count) in [
        (String::new(), 2),
        ("resourceVersion=0".to_owned(), 2),
        (format!("resourceVersion={version}"), 2),
        (
            format!("resourceVersion={version}&resourceVersionMatch=NotOlderThan"),
            2,
        ),
        (
            format!("resourceVersion={version}&resourceVersionMatch=Exact"),
            1,
        ),
        // A limit without a match means exactly that version.
        (format!("resourceVersion={version}&limit=5"), 1),
        ("resourceVersion=0&limit=5".to_owned(), 2),
    ] {
        let list = json(&cluster, &format!("{MAPS}?{query}")).await;
        assert_eq!(
            list["items"].as_array().map(Vec::len),
            Some(count),
            "{query}: {list}"
        );
        if count == 1 {
            assert_eq!(list["metadata"]["resourceVersion"], version, "{query}");
        }
    }
}

#[tokio::test]
async fn a_list_goes_on_after_its_state_was_compacted_away() {
    let cluster = TestCluster::start().await.unwrap();
    for n in 0..9 {
        make_map(&cluster, &format!("m{n}")).await;
    }
    let page =
        async |token: &str| json(&cluster, &format!("{MAPS}?limit=3&continue={token}")).await;
    let names = |list: &Value| -> Vec<String> {
        let items = list["items"].as_array().unwrap().iter();
        items
            .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = page("").await;
    assert_eq!(first["metadata"]["remainingItemCount"], 6);
    let token = first["metadata"]["continue"].as_str().unwrap();
    // No change of these maps: the cache could go on, but the state is gone all the same.
    let namespace = json!({"metadata": {"name": "other"}});
    change(&cluster, "POST", "/api/v1/namespaces", &namespace).await;
    assert_eq!(names(&page(token).await), ["m3", "m4", "m5"]);
    let revision = cluster.store.revision().await.unwrap();
    cluster.store.compact(revision).await.unwrap();
    let expired = page(token).await;
    assert_eq!(
        (&expired["code"], &expired["reason"]),
        (&json!(410), &json!("Expired"))
    );
    let token = expired["metadata"]["continue"].as_str().unwrap();
    let second = page(token).await;
    assert_eq!(names(&second), ["m3", "m4", "m5"]);
    assert_eq!(second["metadata"]["remainingItemCount"], 3);
    let version = &second["metadata"]["resourceVersion"];
    assert_ne!(version, &first["metadata"]["resourceVersion"]);
    // From here on the list is consistent again.
    make_map(&cluster, "m9").await;
    let third = page(second["metadata"]["continue"].as_str().unwrap()).await;
    assert_eq!(names(&third), ["m6", "m7", "m8"]);
    assert_eq!(&third["metadata"]["resourceVersion"], version);
    assert_eq!(third["metadata"].get("continue"), None);
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    let gone = json(
        &cluster,
        &format!("{MAPS}?resourceVersion={version}&resourceVersionMatch=Exact"),
    )
    .await;
    assert_eq!(
        (&gone["code"], &gone["reason"]),
        (&json!(410), &json!("Expired"))
    );
}

#[tokio::test]
async fn a_watch_that_cannot_begin_says_so_in_an_event() {
    let cluster = TestCluster::start().await.unwrap();
    make_map(&cluster, "a").await;
    let old = format!("{MAPS}?watch=1&resourceVersion=1");
    let seen = events(&cluster, &old, "application/json").await;
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert_eq!(
        (
            &seen[0]["type"],
            &seen[0]["object"]["code"],
            &seen[0]["object"]["reason"]
        ),
        (&json!("ERROR"), &json!(410), &json!("Expired"))
    );
    let message = seen[0]["object"]["message"].as_str().unwrap();
    assert!(
        message.starts_with("too old resource version: 1 ("),
        "{message}"
    );
    let answer = get(&cluster, &old, PROTOBUF).await;
    assert_eq!(
        answer.headers()[CONTENT_TYPE],
        format!("{PROTOBUF};stream=watch")
    );
    let seen = frames(&bytes(answer).await);
    assert_eq!(
        (seen[0].0.as_str(), &seen[0].1["code"]),
        ("ERROR", &json!(410))
    );
    let ahead = format!(
        "{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=999999"
    );
    let seen = events(&cluster, &ahead, "application/json").await;
    assert_eq!(
        (&seen[0]["type"], &seen[0]["object"]["code"]),
        (&json!("ERROR"), &json!(504))
    );
    let answer = get(&cluster, &format!("{MAPS}?watch=1"), "application/yaml").await;
    assert_eq!(answer.status(), 406);
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark_in_every_form() {
    let cluster = TestCluster::start().await.unwrap();
    make_map(&cluster, "a").await;
    make_map(&cluster, "b").await;
    let path = format!(
        "{MAPS}?watch=1&timeoutSeconds=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan"
    );
    let end = "k8s.io/initial-events-end";
    let kinds = |events: &[Value]| -> Vec<String> {
        events
            .iter()
            .map(|event| event["type"].as_str().unwrap().to_owned())
            .collect()
    };
    for (accept, metadata) in [
        ("application/json", "/object/metadata"),
        (
            "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
            "/object/metadata",
        ),
        (
            "application/json;as=Table;v=v1;g=meta.k8s.io",
            "/object/rows/0/object/metadata",
        ),
    ] {
        let seen = events(&cluster, &path, accept).await;
        assert_eq!(
            kinds(&seen)[..3],
            ["ADDED", "ADDED", "BOOKMARK"],
            "{accept}"
        );
        let metadata = seen[2].pointer(metadata).unwrap();
        assert_eq!(metadata["annotations"][end], "true", "{accept}");
        assert_eq!(
            seen[0]["object"].get("rows").is_some(),
            accept.contains("Table")
        );
    }
    let seen = frames(&bytes(get(&cluster, &path, PROTOBUF).await).await);
    assert_eq!(seen[2].1["metadata"]["annotations"][end], "true");
    // Without bookmarks there is none, and without initial events only what comes later.
    let plain = path.replace("&allowWatchBookmarks=true", "");
    assert_eq!(
        kinds(&events(&cluster, &plain, "").await),
        ["ADDED", "ADDED"]
    );
    let none = plain.replace("sendInitialEvents=true", "sendInitialEvents=false");
    assert!(events(&cluster, &none, "").await.is_empty());
    // As old clients ask: any state first, and no end told.
    let old = format!("{MAPS}?watch=1&timeoutSeconds=1&resourceVersion=0");
    assert_eq!(kinds(&events(&cluster, &old, "").await), ["ADDED", "ADDED"]);
}

#[tokio::test]
async fn old_paths_watch_too() {
    let cluster = TestCluster::start().await.unwrap();
    make_map(&cluster, "a").await;
    make_map(&cluster, "b").await;
    let old = "/api/v1/watch/namespaces/default/configmaps";
    let count = async |path: &str| events(&cluster, path, "").await.len();
    assert_eq!(count(&format!("{old}?timeoutSeconds=1")).await, 2);
    assert_eq!(count("/api/v1/watch/configmaps?timeoutSeconds=1").await, 2);
    assert_eq!(count(&format!("{old}/a?timeoutSeconds=1")).await, 1);
    let named = format!("{old}/a?timeoutSeconds=1&fieldSelector=metadata.name%3Da");
    assert_eq!(count(&named).await, 1);
    let other = format!("{old}/a?fieldSelector=metadata.name%3Db");
    let status = json(&cluster, &other).await;
    assert_eq!(
        (&status["code"], &status["message"]),
        (
            &json!(400),
            &json!("fieldSelector metadata.name doesn't match requested name")
        )
    );
}

#[tokio::test]
async fn a_converted_kind_is_watched_in_protobuf() {
    let cluster = TestCluster::start().await.unwrap();
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let scaler = json!({"metadata": {"name": "h"}, "spec": {
        "maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"},
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}});
    let made = change(&cluster, "POST", path, &scaler).await;
    let version = made["metadata"]["resourceVersion"].as_str().unwrap();
    let patch = json!({"spec": {"maxReplicas": 5}});
    change(&cluster, "PATCH", &format!("{path}/h"), &patch).await;
    // Twice: the second is served with what the first had made.
    for _ in 0..2 {
        for (served, cpu) in [
            ("v1", "/spec/targetCPUUtilizationPercentage"),
            ("v2", "/spec/metrics/0/resource/target/averageUtilization"),
        ] {
            let path = path.replace("v2", served);
            let watch = format!("{path}?watch=1&timeoutSeconds=1&resourceVersion={version}");
            let seen = frames(&bytes(get(&cluster, &watch, PROTOBUF).await).await);
            assert_eq!((seen.len(), seen[0].0.as_str()), (1, "MODIFIED"));
            assert_eq!(seen[0].1["apiVersion"], format!("autoscaling/{served}"));
            assert_eq!(seen[0].1["spec"]["maxReplicas"], 5);
            assert_eq!(seen[0].1.pointer(cpu), Some(&json!(50)));
            let seen = events(&cluster, &watch, "").await;
            assert_eq!(
                seen[0]["object"]["apiVersion"],
                format!("autoscaling/{served}")
            );
        }
    }
}

#[tokio::test]
async fn long_lists_are_compressed_for_who_asks_and_short_ones_never() {
    let cluster = TestCluster::start().await.unwrap();
    for n in 0..20 {
        let map =
            json!({"metadata": {"name": format!("m{n:02}")}, "data": {"a": "b".repeat(10_000)}});
        change(&cluster, "POST", MAPS, &map).await;
    }
    let ask = async |path: &str, accept: &str, encoding: &str| {
        let request = Request::get(path)
            .header(ACCEPT, accept)
            .header(ACCEPT_ENCODING, encoding);
        send(&cluster, request, String::new()).await
    };
    for accept in ["application/json", PROTOBUF] {
        let plain = bytes(ask(MAPS, accept, "identity").await).await;
        let answer = ask(MAPS, accept, "gzip").await;
        assert_eq!(answer.headers()[CONTENT_ENCODING], "gzip");
        let packed = bytes(answer).await;
        assert!(packed.len() * 10 < plain.len());
        assert_eq!(packed[..2], [0x1f, 0x8b]);
        let short = ask(&format!("{MAPS}?limit=2"), accept, "gzip").await;
        assert!(!short.headers().contains_key(CONTENT_ENCODING));
    }
    let list = bytes(ask(MAPS, PROTOBUF, "").await).await;
    let list = skiff_api::protobuf::decode(&list).unwrap();
    assert_eq!(list["items"].as_array().map(Vec::len), Some(20));
    assert_eq!(list["items"][19]["metadata"]["name"], "m19");
    assert!(list["metadata"]["resourceVersion"].is_string());
}

/// What the process holds in memory, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

/// Reads a watch until `wanted` changes have come, or it ends; how many came.
async fn read(
    answer: Response<kube::client::Body>,
    wanted: usize,
    seen: &std::sync::atomic::AtomicUsize,
) -> usize {
    let mut body = answer.into_body().into_data_stream();
    let mut count = 0;
    while count < wanted {
        let Some(Ok(data)) = body.next().await else {
            break;
        };
        let lines = data.iter().filter(|byte| **byte == b'\n').count();
        count += lines;
        seen.fetch_add(lines, std::sync::atomic::Ordering::Relaxed);
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_that_never_read_cost_little_and_slow_nobody() {
    const EVENTS: usize = 10_000;
    const READERS: usize = 3;
    const STUCK: usize = 100;
    // What lies on the way to one that does not read: in hyper's server up to 16 pieces of 32 KiB, in its client, which is in this
    // process too, up to 408 KiB. All that they miss is 20 MiB each.
    const ON_THE_WAY: usize = 1 << 20;
    // The changes themselves, once for all (10 MiB were measured without the stuck ones).
    const SHARED: usize = 32 << 20;
    let cluster = TestCluster::start().await.unwrap();
    let made = make_map(&cluster, "m").await;
    let version = made["metadata"]["resourceVersion"].as_str().unwrap();
    let client = cluster.tls_client().await.unwrap();
    let watch = async || {
        let path = format!("{MAPS}?watch=1&resourceVersion={version}");
        let request = Request::get(path)
            .body(kube::client::Body::empty())
            .unwrap();
        client.send(request).await.unwrap()
    };
    let mut stuck = Vec::new();
    for _ in 0..STUCK {
        stuck.push(watch().await);
    }
    let seen = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let mut readers = Vec::new();
    for _ in 0..READERS {
        let (answer, seen) = (watch().await, seen.clone());
        readers.push(tokio::spawn(
            async move { read(answer, EVENTS, &seen).await },
        ));
    }
    let before = resident();
    // Past the API's handlers: what is measured is the watches.
    let key = "/registry/configmaps/default/m";
    let stored = cluster.store.get(key, None).await.unwrap().unwrap();
    let mut object: Value = serde_json::from_slice(&stored.value).unwrap();
    object["data"]["a"] = "v".repeat(2000).into();
    let object = Bytes::from(object.to_string());
    let mut revision = stored.mod_revision;
    for number in 1..=EVENTS {
        revision = cluster
            .store
            .update(key, object.clone(), revision, Default::default())
            .await
            .unwrap();
        // Who reads keeps up with 1,000 changes at a time.
        if number % 1000 == 0 {
            let all = async {
                while seen.load(std::sync::atomic::Ordering::Relaxed) < number * READERS {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), all)
                .await
                .unwrap();
        }
    }
    for reader in readers {
        assert_eq!(reader.await.unwrap(), EVENTS);
    }
    let grown = resident().saturating_sub(before);
    assert!(
        grown < STUCK * ON_THE_WAY + SHARED,
        "{} MiB more",
        grown >> 20
    );
    // They were cut off: what was on its way comes, then the end.
    let none = std::sync::atomic::AtomicUsize::new(0);
    for answer in stuck {
        let reading = read(answer, usize::MAX, &none);
        let count = tokio::time::timeout(Duration::from_secs(60), reading)
            .await
            .unwrap();
        assert!(count < EVENTS, "{count}");
    }
}
