//! List, then watch, for ever: keeps a [`WatchSink`] in step with one collection of the API server.
//!
//! A list is read in pages; a watch goes on from where the list or the watch before it ended. When the
//! server no longer knows that point (410), the list is read again.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, ObjectMeta};
use kube::core::{PartialObjectMeta, Resource, Status};
use kube::{Client, Error};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use skiff_base::{Backoff, Random, SharedClock, Shutdown};

use crate::failure::is_gone;

/// How many objects one page of a list holds.
const PAGE: usize = 500;
/// The delay after the first failure to list or watch; it doubles.
const FIRST_DELAY: Duration = Duration::from_millis(50);
/// The longest such delay, and half as much again by draw. Upstream waits up to a minute, and so long after a server's absence
/// some of its controllers go by what was before.
const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// A watch is closed by the server after this many seconds, and up to half as many more.
const WATCH_SECONDS: u64 = 190;

/// Which collection to watch, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchSpec {
    /// The path of the collection, for example `/api/v1/pods`.
    pub path: String,
    /// Whether to ask for metadata only.
    pub metadata_only: bool,
    /// A label selector; empty for all objects.
    pub label_selector: String,
    /// A field selector; empty for all objects.
    pub field_selector: String,
}

impl WatchSpec {
    /// The collection at `path`, whole.
    #[must_use]
    pub fn path(path: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            metadata_only: false,
            label_selector: String::new(),
            field_selector: String::new(),
        }
    }

    /// All objects of a kind, in all namespaces.
    #[must_use]
    pub fn all<K: Resource<DynamicType = ()>>() -> Self {
        Self {
            metadata_only: K::metadata_api(),
            ..Self::path(K::url_path(&(), None))
        }
    }

    /// The objects of a kind in one namespace.
    #[must_use]
    pub fn in_namespace<K: Resource<DynamicType = ()>>(namespace: &str) -> Self {
        Self {
            metadata_only: K::metadata_api(),
            ..Self::path(K::url_path(&(), Some(namespace)))
        }
    }

    /// Only objects that this label selector matches.
    #[must_use]
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.label_selector = selector.into();
        self
    }

    /// Only objects that this field selector matches, for example `spec.nodeName=n1`.
    #[must_use]
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.field_selector = selector.into();
        self
    }

    /// Metadata only.
    #[must_use]
    pub fn metadata(mut self) -> Self {
        self.metadata_only = true;
        self
    }

    fn uri(&self, parameters: &[(&str, &str)]) -> String {
        let selectors = [
            ("labelSelector", self.label_selector.as_str()),
            ("fieldSelector", self.field_selector.as_str()),
        ];
        let mut uri = self.path.clone();
        let mut separator = '?';
        for (name, value) in parameters.iter().copied().chain(selectors) {
            if value.is_empty() {
                continue;
            }
            uri.push(separator);
            uri.push_str(name);
            uri.push('=');
            escape(value, &mut uri);
            separator = '&';
        }
        uri
    }
}

fn escape(value: &str, into: &mut String) {
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                into.push(byte as char);
            }
            other => into.push_str(&format!("%{other:02X}")),
        }
    }
}

/// An object that can be watched: it has metadata and comes as JSON.
pub trait Watched: DeserializeOwned + Send + Sync + 'static {
    /// The metadata.
    fn metadata(&self) -> &ObjectMeta;
    /// The metadata, to leave out what nobody reads.
    fn metadata_mut(&mut self) -> &mut ObjectMeta;
}

impl<K: Resource + DeserializeOwned + Send + Sync + 'static> Watched for K {
    fn metadata(&self) -> &ObjectMeta {
        self.meta()
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        self.meta_mut()
    }
}

/// The metadata of an object of any kind.
pub type Metadata = PartialObjectMeta<kube::core::DynamicObject>;

/// One change of one object.
#[derive(Clone, Debug)]
pub enum Change<K> {
    /// The object is now so.
    Applied(K),
    /// The object is gone; this was its last state.
    Deleted(K),
}

/// Where a watch puts what it learns. Called by one task, in the order of the server's revisions.
pub trait WatchSink<K>: Send + Sync + 'static {
    /// The whole collection, as it is at `resource_version`.
    fn replace(&self, items: Vec<K>, resource_version: &str);
    /// One change.
    fn apply(&self, change: Change<K>);
    /// Nothing up to `resource_version` is still to come.
    fn progress(&self, resource_version: &str);
}

#[derive(Deserialize)]
struct List<'a> {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default, borrow)]
    items: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct WireEvent<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct OnlyMetadata {
    #[serde(default)]
    metadata: ObjectMeta,
}

/// Leaves out of an object what its readers do not read.
pub type Trim<K> = fn(&mut K);

/// A watch's way to the server.
pub struct Reflector<K> {
    client: Client,
    spec: WatchSpec,
    sink: Arc<dyn WatchSink<K>>,
    clock: SharedClock,
    random: Random,
    trim: Trim<K>,
}

impl<K: Watched> Reflector<K> {
    /// A reflector that has not started.
    pub fn new(
        client: Client,
        spec: WatchSpec,
        sink: Arc<dyn WatchSink<K>>,
        clock: SharedClock,
        random: Random,
    ) -> Self {
        Self {
            client,
            spec,
            sink,
            clock,
            random,
            trim: |_| {},
        }
    }

    /// The same, handing over objects that `trim` was called with.
    #[must_use]
    pub fn trimming(mut self, trim: Trim<K>) -> Self {
        self.trim = trim;
        self
    }

    /// Keeps the sink in step until `shutdown`.
    pub async fn run(self, shutdown: Shutdown) {
        tokio::select! {
            () = self.follow() => {}
            () = shutdown.triggered() => {}
        }
    }

    async fn follow(&self) {
        let mut backoff = Backoff::new(FIRST_DELAY, LONGEST_DELAY).with_jitter(0.5);
        let mut failures = 0_u32;
        let mut position: Option<String> = None;
        loop {
            let started = self.clock.monotonic();
            let outcome = match position.take() {
                None => self.list().await.map(|revision| {
                    position = Some(revision);
                    true
                }),
                Some(mut revision) => {
                    let outcome = self.watch(&mut revision).await;
                    let relist = matches!(&outcome, Err(error) if is_gone(error));
                    position = (!relist).then_some(revision);
                    outcome
                }
            };
            match outcome {
                Ok(progressed) => {
                    failures = 0;
                    let lasted = self.clock.monotonic().saturating_sub(started);
                    if progressed || lasted > Duration::from_secs(5) {
                        backoff.reset();
                        continue;
                    }
                }
                Err(error) if is_gone(&error) && failures == 0 => {
                    failures = 1;
                    continue;
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    if failures > 3 {
                        tracing::warn!(path = self.spec.path, %error, failures, "cannot list or watch");
                    } else {
                        tracing::debug!(path = self.spec.path, %error, "cannot list or watch");
                    }
                }
            }
            self.clock.sleep(backoff.next(&self.random)).await;
        }
    }

    /// Reads the whole list, hands it over, and answers with its resource version.
    async fn list(&self) -> Result<String, Error> {
        let page = PAGE.to_string();
        let (mut items, mut token) = (Vec::new(), String::new());
        loop {
            let uri = self.spec.uri(&[("limit", &page), ("continue", &token)]);
            let body = self.get(&uri, false).await?;
            let bytes = body.collect().await?.to_bytes();
            let list: List = serde_json::from_slice(&bytes).map_err(Error::SerdeError)?;
            for item in list.items {
                items.push(self.decode(item.get())?);
            }
            let next = list.metadata.continue_.unwrap_or_default();
            if next.is_empty() {
                let revision = list.metadata.resource_version.unwrap_or_default();
                self.sink.replace(items, &revision);
                return Ok(revision);
            }
            token = next;
        }
    }

    /// Follows changes from `revision`, which moves along, until the server ends the watch. Answers
    /// whether anything came.
    async fn watch(&self, revision: &mut String) -> Result<bool, Error> {
        let seconds = (WATCH_SECONDS + self.random.below(WATCH_SECONDS / 2)).to_string();
        let uri = self.spec.uri(&[
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", revision),
            ("timeoutSeconds", &seconds),
        ]);
        let mut body = self.get(&uri, true).await?;
        let mut buffer = BytesMut::new();
        let mut progressed = false;
        while let Some(frame) = body.frame().await {
            let frame = match frame {
                Ok(frame) => frame,
                // The connection broke: go on from where we are.
                Err(error) => {
                    tracing::debug!(path = self.spec.path, %error, "watch was cut off");
                    return Ok(progressed);
                }
            };
            let Ok(data) = frame.into_data() else {
                continue;
            };
            let searched = buffer.len();
            buffer.extend_from_slice(&data);
            let mut search_from = searched;
            while let Some(at) = buffer
                .get(search_from..)
                .and_then(|rest| rest.iter().position(|byte| *byte == b'\n'))
            {
                let line = buffer.split_to(search_from + at + 1).freeze();
                search_from = 0;
                progressed |= self.event(&line, revision)?;
            }
        }
        Ok(progressed)
    }

    fn event(&self, line: &Bytes, revision: &mut String) -> Result<bool, Error> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(false);
        }
        let event: WireEvent = serde_json::from_slice(line).map_err(Error::SerdeError)?;
        let json = event.object.get();
        match &*event.kind {
            "ADDED" | "MODIFIED" | "DELETED" => {
                let object = self.decode(json)?;
                if let Some(at) = &object.metadata().resource_version {
                    revision.clone_from(at);
                }
                self.sink.apply(if event.kind == "DELETED" {
                    Change::Deleted(object)
                } else {
                    Change::Applied(object)
                });
                Ok(true)
            }
            "BOOKMARK" => {
                let object: OnlyMetadata = serde_json::from_str(json).map_err(Error::SerdeError)?;
                if let Some(at) = object.metadata.resource_version {
                    self.sink.progress(&at);
                    *revision = at;
                }
                Ok(true)
            }
            _ => {
                let status: Status = serde_json::from_str(json).map_err(Error::SerdeError)?;
                Err(Error::Api(status.boxed()))
            }
        }
    }

    /// An object without what no controller reads: the record of its owners, which is often its larger half, is not even
    /// decoded.
    fn decode(&self, json: &str) -> Result<K, Error> {
        let json = without_managed_fields(json);
        let mut object: K = serde_json::from_str(&json).map_err(Error::SerdeError)?;
        object.metadata_mut().managed_fields = None;
        (self.trim)(&mut object);
        Ok(object)
    }

    async fn get(&self, uri: &str, watch: bool) -> Result<kube::client::Body, Error> {
        let accept = match (self.spec.metadata_only, watch) {
            (false, _) => "application/json",
            (true, false) => "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1",
            (true, true) => "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
        };
        let request = http::Request::get(uri)
            .header(http::header::ACCEPT, accept)
            .body(kube::client::Body::empty())
            .map_err(Error::HttpError)?;
        let response = self.client.send(request).await?;
        let code = response.status();
        if code.is_success() {
            return Ok(response.into_body());
        }
        let bytes = response.into_body().collect().await?.to_bytes();
        let mut status = serde_json::from_slice::<Status>(&bytes).unwrap_or_else(|_| {
            Status::failure(&String::from_utf8_lossy(&bytes), "").with_code(code.as_u16())
        });
        status.code = code.as_u16();
        Err(Error::Api(status.boxed()))
    }
}

/// Valid JSON with the first list of managed fields emptied, which is that of the object itself: its metadata come before
/// all else that may have one.
fn without_managed_fields(json: &str) -> Cow<'_, str> {
    // Within a string the quotes would be escaped, and after a string value comes no colon: this is a key.
    const KEY: &str = "\"managedFields\":[";
    let Some(start) = json.find(KEY).map(|at| at + KEY.len()) else {
        return Cow::Borrowed(json);
    };
    let (mut depth, mut in_string, mut escaped) = (1_usize, false, false);
    for (at, byte) in json.bytes().enumerate().skip(start) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' if !in_string => depth += 1,
            b']' if !in_string => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            let (head, tail) = (json.get(..start), json.get(at..));
            return Cow::Owned([head.unwrap_or_default(), tail.unwrap_or_default()].concat());
        }
    }
    Cow::Borrowed(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use proptest::prelude::*;

    #[test]
    fn the_record_of_owners_is_left_out() {
        let table = [
            (
                r#"{"metadata":{"name":"a"},"spec":{}}"#,
                r#"{"metadata":{"name":"a"},"spec":{}}"#,
            ),
            (
                r#"{"metadata":{"managedFields":[{"fieldsV1":{"f:a":{"k:{\"b\":\"]\\\\\"}":[1,[2]]}}}],"name":"a"},"spec":{"template":{"metadata":{"managedFields":[{"manager":"m"}]}}}}"#,
                r#"{"metadata":{"managedFields":[],"name":"a"},"spec":{"template":{"metadata":{"managedFields":[{"manager":"m"}]}}}}"#,
            ),
            (
                r#"{"metadata":{"annotations":{"a":"\"managedFields\":[1]","managedFields":"[]"},"managedFields":[]}}"#,
                r#"{"metadata":{"annotations":{"a":"\"managedFields\":[1]","managedFields":"[]"},"managedFields":[]}}"#,
            ),
        ];
        for (json, expected) in table {
            assert_eq!(without_managed_fields(json), expected);
        }
    }

    #[test]
    fn uri_escapes_selectors_and_leaves_out_what_is_empty() {
        let spec = WatchSpec::in_namespace::<Pod>("kube-system")
            .labels("app in (a,b)")
            .fields("spec.nodeName=n1");
        assert_eq!(
            spec.uri(&[("limit", "5"), ("continue", "")]),
            "/api/v1/namespaces/kube-system/pods?limit=5&labelSelector=app%20in%20%28a%2Cb%29&fieldSelector=spec.nodeName%3Dn1"
        );
        assert_eq!(
            WatchSpec::path("/apis/apps/v1/deployments").uri(&[]),
            "/apis/apps/v1/deployments"
        );
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let text = prop_oneof![Just("managedFields".to_owned()), r#"["\\\[\]{}:a,]{0,6}"#];
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<i32>().prop_map(Into::into),
            text.clone().prop_map(Into::into)
        ];
        leaf.prop_recursive(3, 24, 4, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                proptest::collection::btree_map(text.clone(), inner, 0..4)
                    .prop_map(|map| { serde_json::Value::Object(map.into_iter().collect()) }),
            ]
        })
    }

    proptest! {
        /// Whatever the record and all else hold, the record is emptied and all else stays.
        #[test]
        fn only_the_record_is_left_out(record in proptest::collection::vec(json(), 0..3), rest in json()) {
            let object = |record: &[serde_json::Value]| {
                serde_json::json!({"metadata": {"managedFields": record, "name": "a"}, "spec": rest}).to_string()
            };
            let (whole, bare) = (object(&record), object(&[]));
            prop_assert_eq!(without_managed_fields(&whole), bare);
        }
    }
}
