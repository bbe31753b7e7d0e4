//! The record of one request while it is under way.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderValue, Response};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Audit;
use super::body::{Captured, capture};
use super::event::{Event, ObjectReference, ResponseStatus};
use super::policy::{Level, Stage, Verdict};
use crate::held::Held;
use crate::request::UserInfo;
use crate::seam::Notes;

/// A `Status` in an answer of success is looked for up to this size.
const SMALL: u64 = 8 << 10;

struct State {
    event: Event,
    /// What was read of the request's body, and its media type.
    body: Option<(Captured, String)>,
    started: bool,
    finished: bool,
}

/// The record of one request. The last holder's end is the end of a long-running request.
pub(crate) struct Scope {
    audit: Arc<Audit>,
    verdict: Verdict,
    long_running: bool,
    /// What others note while the request is under way.
    notes: Notes,
    state: Mutex<State>,
}

impl Scope {
    pub(super) fn new(
        audit: Arc<Audit>,
        verdict: Verdict,
        event: Event,
        long_running: bool,
        notes: Notes,
    ) -> Arc<Self> {
        Arc::new(Self {
            audit,
            verdict,
            long_running,
            notes,
            state: Mutex::new(State {
                event,
                body: None,
                started: false,
                finished: false,
            }),
        })
    }

    /// The user that the request acts as.
    pub fn impersonated(&self, user: Arc<UserInfo>) {
        self.state.lock().event.impersonated = Some(user);
    }

    /// Looks at a request's body as the handler reads it.
    pub fn watch_request(&self, parts: &http::request::Parts, body: Body) -> Body {
        let writes = matches!(
            parts.method,
            http::Method::POST | http::Method::PUT | http::Method::PATCH | http::Method::DELETE
        );
        let mut state = self.state.lock();
        if self.long_running || !writes || state.event.object.is_none() {
            return body;
        }
        let media = parts
            .headers
            .get(http::header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let media = media
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_owned();
        let (body, captured) = capture(body);
        state.body = Some((captured, media));
        body
    }

    /// Records how a request was answered.
    pub async fn answer(self: &Arc<Self>, response: Response<Body>) -> Response<Body> {
        self.take_request();
        let (mut parts, mut body) = response.into_parts();
        let code = parts.status.as_u16();
        let id = HeaderValue::from_str(&self.state.lock().event.audit_id);
        if let Ok(id) = id {
            parts.headers.insert("audit-id", id);
        }
        if self.long_running {
            self.state.lock().event.status = Some(ResponseStatus::of_code(code));
            self.stage(Stage::ResponseStarted).await;
            let body = Body::new(Held::new(body, self.clone()));
            return Response::from_parts(parts, body);
        }
        let size = http_body::Body::size_hint(&body).exact();
        let wanted = code >= 400
            || self.verdict.level == Level::RequestResponse
            || size.is_some_and(|size| size <= SMALL);
        let mut answer = None;
        if wanted {
            match body.collect().await {
                Ok(collected) => {
                    let bytes = collected.to_bytes();
                    answer = json(&parts.headers, &bytes);
                    body = Body::from(bytes);
                }
                // The client sees the same end.
                Err(error) => {
                    body = Body::from_stream(futures::stream::iter([Err::<Bytes, _>(error)]))
                }
            }
        }
        self.complete(code, answer).await;
        Response::from_parts(parts, body)
    }

    async fn complete(self: &Arc<Self>, code: u16, answer: Option<Bytes>) {
        // Failures and answers to deletions are; what is long is an object.
        let may_be = |bytes: &Bytes| {
            bytes.len() as u64 <= SMALL && bytes.windows(8).any(|window| window == b"\"Status\"")
        };
        let status = answer
            .as_ref()
            .filter(|bytes| code >= 400 || may_be(bytes))
            .and_then(|bytes| serde_json::from_slice::<Value>(bytes).ok())
            .filter(|object| object.get("kind").is_some_and(|kind| kind == "Status"));
        {
            let mut state = self.state.lock();
            state.event.status = Some(match &status {
                Some(status) => ResponseStatus::of_object(code, status),
                None => ResponseStatus::of_code(code),
            });
            let objects =
                state.event.object.is_some() && self.verdict.level == Level::RequestResponse;
            if let (true, Some(bytes)) = (objects, answer) {
                state.event.response_object = self.object(&bytes);
            }
            state.finished = true;
        }
        self.stage(Stage::ResponseComplete).await;
    }

    /// Takes over what was read of the request's body.
    fn take_request(&self) {
        let mut state = self.state.lock();
        let Some((captured, media)) = state.body.take() else {
            return;
        };
        let bytes = captured.take();
        let Some(json) = request_json(&bytes, &media) else {
            return;
        };
        let patch = state.event.verb == "patch";
        if !patch && let Ok(object) = serde_json::from_slice::<Value>(&json) {
            state
                .event
                .object
                .get_or_insert_with(ObjectReference::default)
                .complete(&object);
        }
        if self.verdict.level >= Level::Request {
            state.event.request_object = self.object(&json);
        }
    }

    fn object(&self, json: &[u8]) -> Option<Arc<RawValue>> {
        let text = std::str::from_utf8(json).ok()?;
        if !self.verdict.omit_managed_fields {
            let raw = RawValue::from_string(text.trim().to_owned());
            return raw
                .ok()
                .filter(|raw| !raw.get().contains('\n'))
                .map(Arc::from)
                .or_else(|| compact(text));
        }
        let mut value: Value = serde_json::from_str(text).ok()?;
        drop_managed_fields(&mut value);
        serde_json::value::to_raw_value(&value).ok().map(Arc::from)
    }

    /// Makes the event of a stage, unless the policy leaves it out; whether the request may go on.
    pub(super) async fn stage(&self, stage: Stage) -> bool {
        match self.take_event(stage) {
            Some(event) => self.audit.record(event).await,
            None => true,
        }
    }

    fn take_event(&self, stage: Stage) -> Option<Event> {
        let mut state = self.state.lock();
        state.started |= stage == Stage::ResponseStarted;
        if self.verdict.omit_stages.contains(stage) {
            return None;
        }
        state.event.stage = stage;
        state.event.annotations = self.notes.annotations.lock().clone();
        if stage != Stage::RequestReceived {
            state.event.staged = self.audit.now();
        }
        Some(state.event.clone())
    }

    /// Makes no further event.
    pub(super) fn forget(&self) {
        self.state.lock().finished = true;
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        if self.state.lock().finished {
            return;
        }
        let mut stages = Vec::new();
        {
            let mut state = self.state.lock();
            if std::thread::panicking() {
                state.event.status = Some(ResponseStatus {
                    code: 500,
                    status: "Failure".to_owned(),
                    reason: "InternalError".to_owned(),
                    message: "APIServer panic'd".to_owned(),
                    details: None,
                });
                stages.push(Stage::Panic);
            } else {
                if state.event.status.is_none() {
                    // The client went before there was an answer.
                    state.event.status = Some(ResponseStatus {
                        code: 200,
                        status: "Success".to_owned(),
                        message: "Connection closed early".to_owned(),
                        ..ResponseStatus::default()
                    });
                    if self.long_running && !state.started {
                        stages.push(Stage::ResponseStarted);
                    }
                }
                stages.push(Stage::ResponseComplete);
            }
        }
        let events: Vec<Event> = stages
            .into_iter()
            .filter_map(|stage| self.take_event(stage))
            .collect();
        let audit = self.audit.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                for event in events {
                    audit.record(event).await;
                }
            });
        }
    }
}

fn compact(text: &str) -> Option<Arc<RawValue>> {
    let value: Value = serde_json::from_str(text).ok()?;
    serde_json::value::to_raw_value(&value).ok().map(Arc::from)
}

/// A request's body as JSON.
fn request_json(bytes: &Bytes, media: &str) -> Option<Bytes> {
    if bytes.is_empty() {
        return None;
    }
    if media == skiff_api::protobuf::MEDIA_TYPE {
        let value = skiff_api::protobuf::decode(bytes).ok()?;
        return serde_json::to_vec(&value).ok().map(Bytes::from);
    }
    if media.contains("yaml") {
        let value = skiff_api::schema::body::parse_yaml(bytes).ok()?.value;
        return serde_json::to_vec(&value).ok().map(Bytes::from);
    }
    Some(bytes.clone())
}

/// An answer's body as JSON; `None`: it is no object.
fn json(headers: &http::HeaderMap, bytes: &Bytes) -> Option<Bytes> {
    use std::io::Read as _;
    let header = |name| {
        let value = headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok());
        value.unwrap_or_default()
    };
    let mut plain = bytes.clone();
    if header(http::header::CONTENT_ENCODING) == "gzip" {
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(&bytes[..])
            .read_to_end(&mut text)
            .ok()?;
        plain = text.into();
    }
    let media = header(http::header::CONTENT_TYPE);
    let media = media.split(';').next().unwrap_or_default();
    match media {
        "application/json" => Some(plain),
        "application/yaml" | skiff_api::protobuf::MEDIA_TYPE => request_json(&plain, media),
        _ => None,
    }
}

fn drop_managed_fields(value: &mut Value) {
    if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
    for list in ["items", "rows"] {
        let items = value.get_mut(list).and_then(Value::as_array_mut);
        for item in items.into_iter().flatten() {
            drop_managed_fields(item);
            if let Some(object) = item.get_mut("object") {
                drop_managed_fields(object);
            }
        }
    }
}
