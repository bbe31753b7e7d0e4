//! List, then watch, for ever: keeps a [`WatchSink`] in step with one collection of the API server.
//!
//! A list is read in pages; a watch goes on from where the list or the watch before it ended. When the
//! server no longer knows that point (410), the list is read again.

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
struct List<K> {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default = "Vec::new")]
    items: Vec<K>,
}

#[derive(Deserialize)]
struct WireEvent<'a> {
    #[serde(rename = "type", borrow)]
    kind: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct OnlyMetadata {
    #[serde(default)]
    metadata: ObjectMeta,
}

/// A watch's way to the server.
pub struct Reflector<K> {
    client: Client,
    spec: WatchSpec,
    sink: Arc<dyn WatchSink<K>>,
    clock: SharedClock,
    random: Random,
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
        }
    }

    /// Keeps the sink in step until `shutdown`.
    pub async fn run(self, shutdown: Shutdown) {
        tokio::select! {
            () = self.follow() => {}
            () = shutdown.triggered() => {}
        }
    }

    async fn follow(&self) {
        let mut backoff =
            Backoff::new(Duration::from_millis(50), Duration::from_secs(30)).with_jitter(0.5);
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
            let list: List<K> = serde_json::from_slice(&bytes).map_err(Error::SerdeError)?;
            items.extend(list.items.into_iter().map(trim));
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
                let object: K = serde_json::from_str(json).map_err(Error::SerdeError)?;
                if let Some(at) = &object.metadata().resource_version {
                    revision.clone_from(at);
                }
                let object = trim(object);
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

/// Leaves out what no controller reads and what is often the larger half of an object.
fn trim<K: Watched>(mut object: K) -> K {
    object.metadata_mut().managed_fields = None;
    object
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;

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
}
