//! WATCH: a cursor into the cache's ring of changes, written out as the connection takes it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream;
use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use serde_json::{Value, json};
use skiff_api::{ApiError, ApiResult};

use crate::cache::{CacheEvent, Entry, Form, ResourceCache, Since, Subscription, Trigger};
use crate::content::{self, Accepted, Encoding, Shape};
use crate::query::{Freshness, ListOptions, Reading};
use crate::read::selected_prefix;
use crate::registry::Resource;
use crate::selector::Filter;
use crate::server::Call;
use crate::table;

/// Bookmarks are sent this often.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
/// A watch without a time-out lasts at least this long, at most twice as long.
const MIN_TIMEOUT: Duration = Duration::from_secs(1800);
/// The last bookmark comes this long before the end.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// Changes are written together up to this size.
const BATCH: usize = 32 << 10;

struct Watcher {
    call: Arc<Call>,
    resource: Arc<Resource>,
    accepted: Accepted,
    /// How objects are shown when not as they are stored.
    form: Option<Form>,
    cache: Arc<ResourceCache>,
    subscription: Subscription,
    filter: Filter,
    prefix: String,
    cursor: u64,
    /// Changes up to this revision were seen by the client before.
    after: u64,
    initial: std::vec::IntoIter<Arc<Entry>>,
    /// The revision for the bookmark that ends the initial events, when one is wanted.
    initial_end: Option<u64>,
    bookmarks: bool,
    next_bookmark: Duration,
    end: Duration,
    /// When something was written last.
    written: Duration,
    header_sent: bool,
    over: bool,
}

/// Answers a watch.
pub(crate) async fn watch(call: Call, resource: Arc<Resource>) -> ApiResult<Response<Body>> {
    let accepted = negotiate(&call)?;
    if let Some(connection) = call.parts.extensions.get::<crate::connection::Connection>() {
        connection.watching.begin();
    }
    let options = ListOptions::parse(&call.query, Reading::Watch)?;
    let filter = filter(&call, &resource)?;
    let server = call.server.clone();
    let cache = server.hub_cache(&resource).await?;
    let prefix = selected_prefix(&resource, &call.info.namespace, &filter);
    let subscription = cache.subscribe(trigger(&resource, &prefix, &filter));
    let with_state = options.send_initial_events.unwrap_or(matches!(
        options.freshness,
        Freshness::Newest | Freshness::Any
    ));
    let (initial, cursor, after, initial_end) = if with_state {
        // The state that "any" is satisfied with is what the cache has.
        if let Err(error) = server.wait_fresh(options.freshness).await {
            return Ok(failed(accepted.encoding, &error));
        }
        let revision = server.hub.progress();
        let (items, cursor) = cache.snapshot(&prefix);
        let revision = revision.max(cache.revision());
        let end =
            (options.send_initial_events == Some(true) && options.bookmarks).then_some(revision);
        (items, cursor, 0, end)
    } else {
        let after = match options.freshness {
            Freshness::NotOlderThan(revision) | Freshness::Exact(revision) => revision,
            Freshness::Newest | Freshness::Any => {
                server.wait_fresh(options.freshness).await?;
                server.hub.progress().max(cache.revision())
            }
        };
        match cache.cursor_after(after) {
            Ok(cursor) => (Vec::new(), cursor, after, None),
            Err(oldest) => {
                let error = ApiError::gone(format!("too old resource version: {after} ({oldest})"));
                return Ok(failed(accepted.encoding, &error));
            }
        }
    };
    let initial = crate::crd::served(&server, &resource.kind, initial).await?;
    let now = server.clock.monotonic();
    let timeout = options.timeout_seconds.map_or_else(
        || MIN_TIMEOUT.mul_f64(1.0 + server.random.fraction()),
        Duration::from_secs,
    );
    let protobuf = accepted.encoding == Encoding::Protobuf;
    let form = (protobuf || !resource.is_storage()).then(|| Form {
        api_version: resource.kind.api_version(),
        protobuf,
    });
    let watcher = Watcher {
        call: Arc::new(call),
        resource,
        accepted,
        form,
        cache,
        subscription,
        filter,
        prefix,
        cursor,
        after,
        initial: initial.into_iter(),
        initial_end,
        bookmarks: options.bookmarks,
        next_bookmark: now + BOOKMARK_INTERVAL,
        end: now.saturating_add(timeout),
        written: Duration::ZERO,
        header_sent: false,
        over: false,
    };
    let body = stream::unfold(watcher, |mut watcher| async move {
        let piece = watcher.next().await?;
        Some((Ok::<_, std::convert::Infallible>(piece), watcher))
    });
    Ok(streaming(accepted.encoding, Body::from_stream(body)))
}

fn streaming(encoding: Encoding, body: Body) -> Response<Body> {
    let media = match encoding {
        Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        Encoding::Json | Encoding::Yaml => "application/json",
    };
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A watch that cannot begin, though what it asks for is well-formed: one `ERROR` event.
fn failed(encoding: Encoding, error: &ApiError) -> Response<Body> {
    let mut out = BytesMut::new();
    let status = serde_json::to_vec(&error.to_status()).unwrap_or_default();
    write_line(&mut out, encoding, "ERROR", &status);
    streaming(encoding, Body::from(out.freeze()))
}

/// How events are written: YAML has no form for streams.
fn negotiate(call: &Call) -> ApiResult<Accepted> {
    match content::negotiate(call, true) {
        Ok(accepted) if accepted.encoding != Encoding::Yaml => Ok(accepted),
        _ => Err(ApiError::new(
            406,
            "NotAcceptable",
            "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch",
        )),
    }
}

/// What the watch selects; the old path of a watch on one object names it.
fn filter(call: &Call, resource: &Resource) -> ApiResult<Filter> {
    let (labels, fields) = (
        call.query.get("labelSelector"),
        call.query.get("fieldSelector"),
    );
    if call.info.collection {
        return Filter::new(resource, labels, fields);
    }
    let name = call.info.name.as_str();
    if fields.is_empty() {
        return Filter::new(resource, labels, &format!("metadata.name={name}"));
    }
    let filter = Filter::new(resource, labels, fields)?;
    if filter.exact("metadata.name") != Some(name) {
        return Err(ApiError::bad_request(
            "fieldSelector metadata.name doesn't match requested name",
        ));
    }
    Ok(filter)
}

fn trigger(resource: &Resource, prefix: &str, filter: &Filter) -> Trigger {
    if let Some(name) = filter.exact("metadata.name") {
        let namespace = prefix
            .strip_prefix(&*resource.storage.storage)
            .unwrap_or_default()
            .trim_matches('/');
        if !resource.namespaced() || !namespace.is_empty() {
            return Trigger::Key(resource.key(namespace, name));
        }
    }
    if resource.is_storage()
        && resource.kind.as_custom().is_none()
        && let Some(field) = resource.kind.field_index("spec.nodeName")
        && let Some(value) = filter.exact("spec.nodeName")
    {
        return Trigger::Field(field, value.to_owned());
    }
    if prefix.len() > resource.storage.storage.len() + 1 {
        return Trigger::Key(prefix.to_owned());
    }
    Trigger::Any
}

impl Watcher {
    /// The next piece of the body; `None` ends it.
    async fn next(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        loop {
            if self.over {
                return None;
            }
            self.write_initial(&mut out);
            while self.initial.len() == 0 && out.len() < BATCH {
                match self.cache.since(self.cursor, 64) {
                    Since::Events(events, _) if events.is_empty() => break,
                    Since::Events(events, next) => {
                        self.cursor = next;
                        match self.served(events).await {
                            Ok(events) => events
                                .iter()
                                .for_each(|event| self.write_event(&mut out, event)),
                            Err(error) => {
                                let status =
                                    serde_json::to_vec(&error.to_status()).unwrap_or_default();
                                write_line(&mut out, self.accepted.encoding, "ERROR", &status);
                                self.over = true;
                                break;
                            }
                        }
                    }
                    // Too slow, or the cache was built anew: the client asks again from where it is.
                    Since::Lost => {
                        self.over = true;
                        break;
                    }
                }
            }
            if !out.is_empty() {
                self.written = self.call.server.clock.monotonic();
                return Some(out.freeze());
            }
            if self.over {
                return None;
            }
            self.wait(&mut out).await;
            if !out.is_empty() {
                return Some(out.freeze());
            }
        }
    }

    /// Waits for changes, the time of a bookmark, or the end.
    async fn wait(&mut self, out: &mut BytesMut) {
        let clock = self.call.server.clock.clone();
        let now = clock.monotonic();
        if now >= self.end {
            self.over = true;
            return;
        }
        let last = self.end.saturating_sub(LAST_BOOKMARK);
        let mut wake = self.end;
        if self.bookmarks {
            wake = wake.min(self.next_bookmark);
            if now < last {
                wake = wake.min(last);
            }
        }
        tokio::select! {
            () = self.subscription.changed() => {
                let quiet = clock.monotonic().saturating_sub(self.written);
                let gathering = self.subscription.gathering().saturating_sub(quiet);
                if !gathering.is_zero() {
                    clock.sleep(gathering).await;
                }
            }
            () = self.call.server.shutdown.triggered() => self.over = true,
            () = clock.sleep(wake.saturating_sub(now)) => {
                let now = clock.monotonic();
                if now >= self.end {
                    self.over = true;
                } else if self.bookmarks {
                    self.next_bookmark = now + BOOKMARK_INTERVAL;
                    // All changes up to the progress have been applied before it was announced.
                    let progress = self.call.server.hub.progress();
                    if matches!(self.cache.since(self.cursor, 1), Since::Events(events, _) if events.is_empty()) {
                        self.write_bookmark(out, progress.max(self.after), false);
                    }
                }
            }
        }
    }

    fn write_initial(&mut self, out: &mut BytesMut) {
        while out.len() < BATCH {
            let Some(entry) = self.initial.next() else {
                break;
            };
            if self.filter.matches(&entry) {
                self.write(out, "ADDED", &entry.bytes, entry.revision, None);
            }
        }
        if self.initial.len() == 0
            && let Some(revision) = self.initial_end.take()
        {
            self.write_bookmark(out, revision, true);
        }
    }

    /// Changes in the version that the client asked for.
    async fn served(&self, events: Vec<Arc<CacheEvent>>) -> ApiResult<Vec<Arc<CacheEvent>>> {
        if crate::crd::definition_of(&self.resource.kind).is_none() {
            return Ok(events);
        }
        let sides = events
            .iter()
            .flat_map(|event| [&event.current, &event.previous]);
        let entries: Vec<Arc<Entry>> = sides.flatten().cloned().collect();
        let server = &self.call.server;
        let converted = crate::crd::served(server, &self.resource.kind, entries).await?;
        let mut converted = converted.into_iter();
        let mut take = |side: &Option<Arc<Entry>>| side.as_ref().and_then(|_| converted.next());
        let made = events.iter().map(|event| {
            let (current, previous) = (take(&event.current), take(&event.previous));
            Arc::new(event.with(current, previous))
        });
        Ok(made.collect())
    }

    fn write_event(&mut self, out: &mut BytesMut, event: &CacheEvent) {
        if event.revision <= self.after || !event.key().starts_with(&self.prefix) {
            return;
        }
        let selected = |entry: &Option<Arc<Entry>>| {
            entry
                .as_ref()
                .is_some_and(|entry| self.filter.matches(entry))
        };
        let (is, was) = (selected(&event.current), selected(&event.previous));
        match (&event.current, &event.previous) {
            (Some(entry), _) if is => {
                let kind = if was { "MODIFIED" } else { "ADDED" };
                self.write(out, kind, &entry.bytes, event.revision, Some(event));
            }
            (current, Some(entry)) if was => {
                let bytes = entry.bytes_at(event.revision);
                // An object that is there still left only this watcher's selection.
                let shared = current.is_none().then_some(event);
                self.write(out, "DELETED", &bytes, event.revision, shared);
            }
            _ => {}
        }
    }

    /// Writes one event. `shared`: the change, when its watchers are all shown these bytes.
    fn write(
        &mut self,
        out: &mut BytesMut,
        kind: &str,
        bytes: &Bytes,
        revision: u64,
        shared: Option<&CacheEvent>,
    ) {
        match self.accepted.shape {
            Shape::Object => {
                let Some(form) = &self.form else {
                    write_line(out, self.accepted.encoding, kind, bytes);
                    return;
                };
                let make = || {
                    let bytes = self.resource.served_bytes(bytes);
                    match form.protobuf {
                        true => content::protobuf(&bytes).map(Bytes::from),
                        false => Some(bytes),
                    }
                };
                let shown = match shared {
                    Some(event) => event.shown(form, make),
                    None => make(),
                };
                match shown {
                    Some(bytes) if form.protobuf => {
                        out.put_slice(&skiff_api::protobuf::watch_frame(kind, &bytes));
                    }
                    Some(bytes) => write_line(out, Encoding::Json, kind, &bytes),
                    None => {}
                }
            }
            Shape::Metadata => write_line(
                out,
                self.accepted.encoding,
                kind,
                &table::partial_metadata(bytes),
            ),
            Shape::Table(version) => {
                match table::rows(&self.call, &self.resource, std::iter::once(bytes)) {
                    Ok(rows) => {
                        let metadata = json!({"resourceVersion": revision.to_string()});
                        let columns = !std::mem::replace(&mut self.header_sent, true);
                        let table = table::table(&self.resource, version, &metadata, rows, columns);
                        write_line(
                            out,
                            self.accepted.encoding,
                            kind,
                            &serde_json::to_vec(&table).unwrap_or_default(),
                        );
                    }
                    Err(error) => {
                        write_line(
                            out,
                            self.accepted.encoding,
                            "ERROR",
                            &serde_json::to_vec(&error.to_status()).unwrap_or_default(),
                        );
                        self.over = true;
                    }
                }
            }
        }
    }

    fn write_bookmark(&mut self, out: &mut BytesMut, revision: u64, initial_end: bool) {
        let mut metadata =
            json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.accepted.shape {
            Shape::Object => {
                json!({"kind": self.resource.kind.kind, "apiVersion": self.resource.kind.api_version(), "metadata": metadata})
            }
            Shape::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Shape::Table(version) => self.table_bookmark(version, revision, metadata, initial_end),
        };
        write_line(
            out,
            self.accepted.encoding,
            "BOOKMARK",
            &serde_json::to_vec(&object).unwrap_or_default(),
        );
    }
}

impl Watcher {
    /// A bookmark is a row of an object that is empty but for its metadata; what ends the initial state is shown in it
    /// whatever `includeObject` says.
    fn table_bookmark(
        &mut self,
        version: &str,
        revision: u64,
        metadata: Value,
        initial_end: bool,
    ) -> Value {
        let kind = &self.resource.kind;
        let object =
            json!({"kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata});
        let bytes = Bytes::from(object.to_string());
        let rows = table::rows(&self.call, &self.resource, std::iter::once(&bytes));
        let mut rows = rows.unwrap_or_default();
        if let Some(row) = rows.first_mut().filter(|_| initial_end)
            && row["object"].is_null()
        {
            row["object"] = json!({"kind": "PartialObjectMetadata", "apiVersion": version, "metadata": metadata});
        }
        let columns = !std::mem::replace(&mut self.header_sent, true);
        let head = json!({"resourceVersion": revision.to_string()});
        table::table(&self.resource, version, &head, rows, columns)
    }
}

fn write_line(out: &mut BytesMut, encoding: Encoding, kind: &str, object: &[u8]) {
    if encoding == Encoding::Protobuf {
        if let Some(object) = content::protobuf(object) {
            out.put_slice(&skiff_api::protobuf::watch_frame(kind, &object));
        }
        return;
    }
    out.reserve(object.len() + kind.len() + 24);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object);
    out.put_slice(b"}\n");
}
