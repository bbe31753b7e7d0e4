//! The reflector against a scripted server: paging, resumption, bookmarks, 410 and broken connections.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use skiff_base::{Random, Shutdown, SystemClock};
use skiff_client::{SharedCache, WatchSpec};

/// An answer of the server: a code and the body, in pieces; whether the connection then stays open.
struct Answer {
    code: u16,
    pieces: Vec<String>,
    open: bool,
}

fn answer(code: u16, body: &Value) -> Answer {
    Answer {
        code,
        pieces: vec![body.to_string()],
        open: false,
    }
}

fn events(pieces: Vec<String>) -> Answer {
    Answer {
        code: 200,
        pieces,
        open: false,
    }
}

fn object(name: &str, revision: u64) -> Value {
    json!({"metadata": {"namespace": "a", "name": name, "uid": name, "resourceVersion": revision.to_string(),
        "managedFields": [{"manager": "someone"}]}})
}

fn event(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}

fn list(items: &[Value], revision: u64, next: &str) -> Answer {
    let metadata = json!({"resourceVersion": revision.to_string(), "continue": next});
    answer(200, &json!({"metadata": metadata, "items": items}))
}

type Script = Arc<Mutex<VecDeque<Answer>>>;
type Requests = Arc<Mutex<Vec<String>>>;

/// A client whose server answers by the script, then hangs; and what was asked.
fn scripted(answers: Vec<Answer>) -> (Client, Requests, Script) {
    let script: Script = Arc::new(Mutex::new(answers.into()));
    let requests = Requests::default();
    let (log, rest) = (requests.clone(), script.clone());
    let service = tower::service_fn(move |request: Request<Body>| {
        log.lock().push(request.uri().to_string());
        let next = rest.lock().pop_front();
        async move {
            let Some(answer) = next else {
                return std::future::pending().await;
            };
            let frames = answer
                .pieces
                .into_iter()
                .map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from(piece))));
            // After the pieces the connection ends, or stays open in silence.
            let rest = if answer.open {
                stream::pending().left_stream()
            } else {
                stream::empty().right_stream()
            };
            let body = StreamBody::new(stream::iter(frames).chain(rest));
            let response = Response::builder().status(answer.code).body(body);
            Ok::<_, tower::BoxError>(response?)
        }
    });
    (Client::new(service, "default"), requests, script)
}

async fn names(cache: &SharedCache<ConfigMap>, expected: &str) {
    loop {
        let names: Vec<_> = cache
            .list()
            .iter()
            .map(|object| object.metadata.name.clone().unwrap_or_default())
            .collect();
        if names.join(" ") == expected {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn follows_pages_events_bookmarks_and_starts_anew_when_told_gone() {
    let added = event("ADDED", &object("z", 7));
    let (head, tail) = added.split_at(20);
    let gone = json!({"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"});
    let (client, requests, script) = scripted(vec![
        list(&[object("x", 1)], 5, "more"),
        list(&[object("y", 2)], 5, ""),
        // One event in two pieces, then the connection ends.
        events(vec![head.to_owned(), tail.to_owned()]),
        events(vec![
            event("DELETED", &object("x", 9)),
            event("BOOKMARK", &json!({"metadata": {"resourceVersion": "20"}})),
        ]),
        answer(
            500,
            &json!({"kind": "Status", "message": "hiccup", "code": 500}),
        ),
        events(vec![event("ERROR", &gone)]),
        list(&[object("w", 30)], 30, ""),
        Answer {
            code: 200,
            pieces: vec![event("MODIFIED", &object("w", 31))],
            open: true,
        },
    ]);
    let shutdown = Shutdown::new();
    let cache: SharedCache<ConfigMap> = SharedCache::start(
        client,
        WatchSpec::all::<ConfigMap>(),
        SystemClock::shared(),
        Random::seeded(1),
        shutdown.clone(),
    );
    cache.wait_synced().await;
    names(&cache, "w").await;
    while cache.revision() < 31 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let object = cache.get_named("a", "w").unwrap();
    assert_eq!(object.metadata.managed_fields, None);
    assert!(script.lock().is_empty());
    let asked: Vec<String> = requests
        .lock()
        .iter()
        .map(|uri| {
            let query = uri.split_once('?').map_or("", |(_, query)| query);
            query
                .split('&')
                .filter(|part| {
                    part.starts_with("resourceVersion=") || part.starts_with("continue=")
                })
                .collect()
        })
        .collect();
    assert_eq!(
        asked,
        [
            "",
            "continue=more",
            "resourceVersion=5",
            "resourceVersion=7",
            "resourceVersion=20",
            "resourceVersion=20",
            "",
            "resourceVersion=30"
        ]
    );
    shutdown.trigger();
}
