//! GET and LIST: served from the watch cache's bytes, or from the store for states of the past.

use std::sync::Arc;

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Response;
use http::header::{CONTENT_LENGTH, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::json;
use skiff_api::{ApiError, ApiResult};
use skiff_store::StoreError;

use crate::cache::{CacheError, Entry};
use crate::content::{self, Accepted, Encoding, Shape};
use crate::list_body::{Compressed, PIECE, Pieces};
use crate::query::{Freshness, ListOptions, Reading, parse_revision};
use crate::registry::Resource;
use crate::selector::Filter;
use crate::server::{ApiServer, Call};
use crate::table;

impl From<CacheError> for ReadError {
    fn from(error: CacheError) -> Self {
        Self(match error {
            CacheError::TooLarge(current) => too_large(None, current),
            CacheError::Store(error) => store_error(&error),
        })
    }
}

/// An API error made of a cache's error.
pub(crate) struct ReadError(pub ApiError);

impl From<ReadError> for ApiError {
    fn from(error: ReadError) -> Self {
        error.0
    }
}

/// What a client is told of a failing store.
pub(crate) fn store_error(error: &StoreError) -> ApiError {
    match error {
        StoreError::Compacted(_) => {
            ApiError::gone("The resourceVersion for the provided list is too old.")
        }
        StoreError::Future(current) => too_large(None, *current),
        // What upstream says when its database is full, for those who look for it.
        StoreError::NoSpace => {
            tracing::warn!(
                "the disk of the database is full: writes are refused until there is room"
            );
            ApiError::new(500, "", "etcdserver: mvcc: database space exceeded")
        }
        other => {
            tracing::error!(error = %other, "the store failed");
            ApiError::internal(other)
        }
    }
}

fn too_large(wanted: Option<u64>, current: u64) -> ApiError {
    let text = match wanted {
        Some(wanted) => format!("Too large resource version: {wanted}, current: {current}"),
        None => format!("Too large resource version, current: {current}"),
    };
    ApiError {
        details: Some(json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        })),
        ..ApiError::new(504, "Timeout", format!("Timeout: {text}"))
    }
}

impl ApiServer {
    /// Waits until the caches are as fresh as asked for.
    pub(crate) async fn wait_fresh(&self, freshness: Freshness) -> ApiResult<()> {
        let waited = match freshness {
            Freshness::Newest => self.hub.wait_current().await,
            Freshness::Any | Freshness::Exact(_) => Ok(()),
            Freshness::NotOlderThan(revision) => match self.hub.wait_for(revision).await {
                Err(CacheError::TooLarge(current)) => {
                    return Err(too_large(Some(revision), current));
                }
                other => other,
            },
        };
        waited.map_err(|error| ReadError::from(error).0)
    }

    /// One object as of now; `None` when it does not exist.
    pub(crate) async fn lookup(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> ApiResult<Option<Arc<Entry>>> {
        let cache = self.hub_cache(resource).await?;
        self.wait_fresh(Freshness::Newest).await?;
        Ok(cache.get(&resource.key(namespace, name)))
    }

    /// The cache of a resource.
    pub(crate) async fn hub_cache(
        &self,
        resource: &Resource,
    ) -> ApiResult<Arc<crate::cache::ResourceCache>> {
        self.hub
            .cache(&resource.storage)
            .await
            .map_err(|error| ReadError::from(error).0)
    }
}

/// GET of one object.
pub(crate) async fn get(call: &Call, resource: &Resource) -> ApiResult<Response<Body>> {
    let accepted = content::negotiate(call, false)?;
    let freshness = match call.query.get("resourceVersion") {
        "" => Freshness::Newest,
        "0" => Freshness::Any,
        // Upstream lets its storage's error through here, which makes it a 500.
        text => match parse_revision(text) {
            Ok(0) => Freshness::Any,
            Ok(revision) => Freshness::NotOlderThan(revision),
            Err(error) => return Err(ApiError::new(500, "", error.to_string())),
        },
    };
    let cache = call.server.hub_cache(resource).await?;
    call.server.wait_fresh(freshness).await?;
    let entry = cache
        .get(&resource.key(&call.info.namespace, &call.info.name))
        .ok_or_else(|| {
            ApiError::not_found(&resource.kind.group, &resource.kind.plural, &call.info.name)
        })?;
    let entry = crate::crd::served_one(&call.server, &resource.kind, entry).await?;
    object_response(call, resource, accepted, 200, &entry)
}

/// One object as the client wants it.
pub(crate) fn object_response(
    call: &Call,
    resource: &Resource,
    accepted: Accepted,
    code: u16,
    entry: &Entry,
) -> ApiResult<Response<Body>> {
    let json = match accepted.shape {
        Shape::Object => resource.served_bytes(&entry.bytes),
        Shape::Metadata => table::partial_metadata(&entry.bytes).into(),
        Shape::Table(version) => {
            let rows = table::rows(call, resource, std::iter::once(&entry.bytes))?;
            let metadata = json!({"resourceVersion": entry.revision.to_string()});
            serde_json::to_vec(&table::table(resource, version, &metadata, rows, true))
                .unwrap_or_default()
                .into()
        }
    };
    Ok(content::json_response(call, accepted, code, json))
}

/// Where a list goes on: what the `continue` token says.
#[derive(Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default)]
struct Continue {
    v: String,
    rv: i64,
    start: String,
}

impl Continue {
    fn encode(revision: Option<u64>, start: &str) -> String {
        let rv = revision.map_or(-1, |revision| i64::try_from(revision).unwrap_or(-1));
        let token = Self {
            v: "meta.k8s.io/v1".to_owned(),
            rv,
            start: start.to_owned(),
        };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    fn decode(token: &str) -> ApiResult<Self> {
        let bad = |why: String| {
            ApiError::bad_request(format!(
                "invalid continue token: continue key is not valid: {why}"
            ))
        };
        let bytes = URL_SAFE_NO_PAD
            .decode(token)
            .map_err(|error| bad(error.to_string()))?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        if token.v != "meta.k8s.io/v1" {
            return Err(bad(format!(
                "server does not recognize this encoded version {}",
                token.v
            )));
        }
        if token.rv == 0 {
            let why = "incorrect encoded start resourceVersion (version meta.k8s.io/v1)";
            return Err(bad(why.to_owned()));
        }
        if token.start.is_empty() {
            let why = "encoded start key empty (version meta.k8s.io/v1)";
            return Err(bad(why.to_owned()));
        }
        // Nothing that leads out of the list's own keys.
        let key = token.start.strip_prefix('/').unwrap_or(&token.start);
        if key.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(bad(token.start));
        }
        Ok(Self {
            start: key.to_owned(),
            ..token
        })
    }
}

/// A page of a list.
struct Page {
    items: Vec<Arc<Entry>>,
    revision: u64,
    /// The key behind the last one looked at, when more may follow.
    next: Option<String>,
    /// How many follow, when that is known.
    remaining: Option<usize>,
}

/// LIST.
pub(crate) async fn list(call: &Call, resource: &Resource) -> ApiResult<Response<Body>> {
    let accepted = content::negotiate(call, true)?;
    let options = ListOptions::parse(&call.query, Reading::List)?;
    let filter = Filter::new(
        resource,
        call.query.get("labelSelector"),
        call.query.get("fieldSelector"),
    )?;
    // What is stored in another version has its fields where it says: they are looked at after it was converted.
    let later = filter.has_own_fields() && crate::crd::definition_of(&resource.kind).is_some();
    let first = match later {
        true => &Filter::new(resource, call.query.get("labelSelector"), "")?,
        false => &filter,
    };
    let mut page = match page(call, resource, &options, first).await {
        Err(Paging::Error(error)) => return Err(error),
        Err(Paging::Expired(token)) => return Ok(expired_continue(&token)),
        Ok(page) => page,
    };
    page.items = crate::crd::served(&call.server, &resource.kind, page.items).await?;
    if later {
        page.items.retain(|entry| filter.matches(entry));
    }
    let mut metadata = json!({"resourceVersion": page.revision.to_string()});
    if let Some(next) = &page.next {
        let start = next.strip_prefix(&resource.prefix("")).unwrap_or(next);
        metadata["continue"] = Continue::encode(Some(page.revision), start).into();
        if let Some(remaining) = page
            .remaining
            .filter(|remaining| *remaining > 0 && filter.is_empty())
        {
            metadata["remainingItemCount"] = remaining.into();
        }
    }
    match accepted.shape {
        Shape::Object => Ok(list_response(
            call, resource, accepted, &metadata, page.items,
        )),
        Shape::Metadata => {
            let items = page.items.iter();
            let items: Vec<Bytes> = items
                .map(|entry| table::partial_metadata(&entry.bytes).into())
                .collect();
            let head = list_head("PartialObjectMetadataList", "meta.k8s.io/v1", &metadata);
            Ok(content::json_response(
                call,
                accepted,
                200,
                Pieces::new(head, items).collect(),
            ))
        }
        Shape::Table(version) => {
            let rows = table::rows(call, resource, page.items.iter().map(|entry| &entry.bytes))?;
            let table = table::table(resource, version, &metadata, rows, true);
            Ok(content::value_response(call, accepted, 200, &table))
        }
    }
}

enum Paging {
    Error(ApiError),
    Expired(String),
}

impl From<ApiError> for Paging {
    fn from(error: ApiError) -> Self {
        Self::Error(error)
    }
}

async fn page(
    call: &Call,
    resource: &Resource,
    options: &ListOptions,
    filter: &Filter,
) -> Result<Page, Paging> {
    let server = &call.server;
    let cache = server.hub_cache(resource).await?;
    let prefix = selected_prefix(resource, &call.info.namespace, filter);
    if options.continue_token.is_empty() {
        if let Freshness::Exact(revision) = options.freshness {
            server.wait_fresh(Freshness::NotOlderThan(revision)).await?;
            let readable = readable(server, revision).await;
            readable.map_err(|error| Paging::Error(store_error(&error)))?;
            if cache.revision() > revision {
                return store_page(
                    call,
                    resource,
                    (&prefix, None),
                    revision,
                    options.limit,
                    filter,
                )
                .await
                .map_err(|error| Paging::Error(store_error(&error)));
            }
            let mut page = cache_page(&cache, &prefix, None, options.limit, filter, revision);
            page.revision = revision;
            return Ok(page);
        }
        server.wait_fresh(options.freshness).await?;
        let revision = server.hub.progress().max(cache.revision());
        return Ok(cache_page(
            &cache,
            &prefix,
            None,
            options.limit,
            filter,
            revision,
        ));
    }
    let token = Continue::decode(&options.continue_token)?;
    if !matches!(options.freshness, Freshness::Newest | Freshness::Any) {
        return Err(Paging::Error(ApiError::bad_request(
            "specifying resource version is not allowed when using continue",
        )));
    }
    let from = format!("{}{}", resource.prefix(""), token.start);
    let Ok(revision) = u64::try_from(token.rv) else {
        // An inconsistent continuation, after the client was told so.
        server.wait_fresh(Freshness::Newest).await?;
        let revision = server.hub.progress().max(cache.revision());
        return Ok(cache_page(
            &cache,
            &prefix,
            Some(&from),
            options.limit,
            filter,
            revision,
        ));
    };
    server.wait_fresh(Freshness::NotOlderThan(revision)).await?;
    let paged = match readable(server, revision).await {
        Err(error) => Err(error),
        Ok(()) if cache.revision() <= revision => Ok(cache_page(
            &cache,
            &prefix,
            Some(&from),
            options.limit,
            filter,
            revision,
        )),
        Ok(()) => {
            store_page(
                call,
                resource,
                (&prefix, Some(&from)),
                revision,
                options.limit,
                filter,
            )
            .await
        }
    };
    match paged {
        Ok(page) => Ok(page),
        Err(StoreError::Compacted(_)) => Err(Paging::Expired(Continue::encode(None, &token.start))),
        Err(error) => Err(Paging::Error(store_error(&error))),
    }
}

/// Whether the state at a revision is still kept. A cache that has not changed since could show it for ever, but states
/// expire alike for all resources.
async fn readable(server: &ApiServer, revision: u64) -> Result<(), StoreError> {
    server.store.get("", Some(revision)).await.map(|_| ())
}

/// The key prefix that holds all that a filter can select.
pub(crate) fn selected_prefix(resource: &Resource, namespace: &str, filter: &Filter) -> String {
    if namespace.is_empty()
        && resource.namespaced()
        && let Some(namespace) = filter
            .exact("metadata.namespace")
            .filter(|namespace| !namespace.is_empty())
    {
        return resource.prefix(namespace);
    }
    resource.prefix(namespace)
}

fn cache_page(
    cache: &crate::cache::ResourceCache,
    prefix: &str,
    from: Option<&str>,
    limit: usize,
    filter: &Filter,
    revision: u64,
) -> Page {
    if filter.is_empty() {
        let (items, more) = cache.list(prefix, from, limit);
        let next = items
            .last()
            .filter(|_| more > 0)
            .map(|last| format!("{}\0", last.key));
        return Page {
            items,
            revision,
            next,
            remaining: Some(more),
        };
    }
    let (all, _) = cache.list(prefix, from, 0);
    let mut items = Vec::new();
    let mut next = None;
    for entry in all {
        if limit > 0 && items.len() == limit {
            next = items
                .last()
                .map(|last: &Arc<Entry>| format!("{}\0", last.key));
            break;
        }
        if filter.matches(&entry) {
            items.push(entry);
        }
    }
    Page {
        items,
        revision,
        next,
        remaining: None,
    }
}

async fn store_page(
    call: &Call,
    resource: &Resource,
    (prefix, from): (&str, Option<&str>),
    revision: u64,
    limit: usize,
    filter: &Filter,
) -> Result<Page, StoreError> {
    let mut items: Vec<Arc<Entry>> = Vec::new();
    let mut from = from.map(str::to_owned);
    loop {
        let wanted = if limit == 0 { 0 } else { limit - items.len() };
        let range = call
            .server
            .store
            .range(prefix, from.as_deref(), wanted, Some(revision))
            .await?;
        let next = range
            .items
            .last()
            .filter(|_| range.more)
            .map(|last| format!("{}\0", last.key));
        let seen = range.items.len() as u64;
        for kv in range.items {
            let stored = resource.storage.normalized(&kv.value);
            let Some(entry) = Entry::new(kv.key, &stored, kv.mod_revision) else {
                continue;
            };
            if filter.matches(&entry) {
                items.push(Arc::new(entry));
            }
        }
        if next.is_none() || (limit > 0 && items.len() >= limit) {
            let remaining = usize::try_from(range.count.saturating_sub(seen)).ok();
            return Ok(Page {
                items,
                revision,
                next,
                remaining,
            });
        }
        from = next;
    }
}

fn expired_continue(token: &str) -> Response<Body> {
    let error = ApiError::gone(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    let mut status = error.to_status();
    status["metadata"] = json!({"continue": token});
    content::response(
        410,
        "application/json",
        serde_json::to_vec(&status).unwrap_or_default().into(),
    )
}

fn list_head(kind: &str, api_version: &str, metadata: &serde_json::Value) -> Bytes {
    format!(
        "{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{metadata},\"items\":["
    )
    .into()
}

/// A list's objects, as the client wants them.
pub(crate) fn list_response(
    call: &Call,
    resource: &Resource,
    accepted: Accepted,
    metadata: &serde_json::Value,
    items: Vec<Arc<Entry>>,
) -> Response<Body> {
    let kind: &str = &resource.kind.list_kind;
    let api_version = resource.kind.api_version();
    if accepted.encoding == Encoding::Protobuf {
        let values = items
            .iter()
            .map(|entry| resource.served_value(&entry.bytes));
        if let Some(bytes) = skiff_api::protobuf::encode_list(&api_version, kind, metadata, values)
        {
            return content::encoded_response(
                call,
                200,
                skiff_api::protobuf::MEDIA_TYPE,
                bytes.into(),
            );
        }
    }
    let head = list_head(kind, &api_version, metadata);
    let pieces = if resource.is_storage() {
        Pieces::new(head, items)
    } else {
        let made = items.iter();
        let made: Vec<Bytes> = made
            .map(|entry| resource.served_bytes(&entry.bytes))
            .collect();
        Pieces::new(head, made)
    };
    let plain = accepted.encoding == Encoding::Json && !accepted.pretty;
    if !plain || pieces.length <= PIECE as u64 {
        return content::json_response(call, accepted, 200, pieces.collect());
    }
    let length = pieces.length;
    let mut response = content::response(200, "application/json", Bytes::new());
    let headers = response.headers_mut();
    if length >= content::GZIP_FROM as u64 && content::accepts_gzip(call) {
        content::mark_gzip(headers);
        headers.remove(CONTENT_LENGTH);
        *response.body_mut() = Body::new(Compressed::new(pieces));
    } else {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        *response.body_mut() = Body::new(pieces);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn continue_tokens_survive_the_client() {
        let token = Continue::decode(&Continue::encode(Some(7), "default/a\0")).unwrap();
        assert_eq!((token.rv, token.start.as_str()), (7, "default/a\0"));
        let of = |token: &str| URL_SAFE_NO_PAD.encode(token);
        for (bad, why) in [
            (
                "e30".to_owned(),
                "server does not recognize this encoded version ",
            ),
            (
                of(r#"{"v":"v2","rv":7,"start":"a"}"#),
                "server does not recognize this encoded version v2",
            ),
            (
                Continue::encode(Some(0), "a"),
                "incorrect encoded start resourceVersion (version meta.k8s.io/v1)",
            ),
            (
                Continue::encode(Some(7), ""),
                "encoded start key empty (version meta.k8s.io/v1)",
            ),
            (Continue::encode(Some(7), "../a"), "../a"),
            (Continue::encode(Some(7), "a//b"), "a//b"),
        ] {
            let error = Continue::decode(&bad).unwrap_err();
            assert_eq!(error.code, 400);
            let wanted = format!("invalid continue token: continue key is not valid: {why}");
            assert!(error.message.starts_with(&wanted), "{}", error.message);
        }
    }
}
