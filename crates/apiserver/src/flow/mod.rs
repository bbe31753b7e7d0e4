//! Priority and fairness: which requests are answered now, which wait, and which are refused, when there are too many.
//!
//! Flow schemas say which priority level a request belongs to; each level has a share of the server's seats, and fair queues
//! for those that find none free. Names, numbers and headers are upstream's; what is decided is in pure modules
//! (`schemas`, `allocation`, `queues`), and `level` puts it to work.

mod allocation;
mod exposition;
mod inflight;
mod keeper;
mod level;
mod queues;
mod schemas;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::body::Body;
use http::header::{HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, Response};
use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use parking_lot::Mutex;
use skiff_base::{SharedClock, Shutdown};

pub(crate) use keeper::{follow, keep};

use crate::limits::Limits;
use crate::request::{RequestInfo, UserInfo};
use crate::server::ApiServer;
use inflight::{InFlight, Slot};
use level::{Level, SchemaCounters, Seats};
use schemas::{LevelSpec, Schemas};

const FLOW_SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const PRIORITY_LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");
/// Seats are lent anew this often, as upstream.
const BORROWING_INTERVAL: Duration = Duration::from_secs(10);
/// One seat for so many bytes of a list.
const BYTES_PER_SEAT: u64 = 100_000;
/// A list that is streamed from the cache holds no more than this at once.
const LIST_BYTES: u64 = 1_000_000;

/// The schemas and levels in force.
struct Digest {
    schemas: Schemas,
    /// In the order of their names.
    levels: Vec<(LevelSpec, Arc<Level>)>,
    /// The level of each schema, by place.
    ways: Vec<usize>,
}

#[derive(Default)]
struct Kept {
    levels: BTreeMap<String, Arc<Level>>,
    counters: BTreeMap<(String, String), Arc<SchemaCounters>>,
}

/// Who decides when requests are answered.
pub(crate) struct Flow {
    digest: ArcSwap<Digest>,
    kept: Mutex<Kept>,
    seats: u32,
    patience: Duration,
    clock: SharedClock,
    /// Set when priority and fairness is off.
    plain: Option<Arc<InFlight>>,
}

/// What a request holds while it is answered.
pub(crate) enum Permit {
    /// Seats of a level.
    Seats(#[allow(dead_code, reason = "held until it goes")] Seats),
    /// One of the requests in flight.
    Slot(#[allow(dead_code, reason = "held until it goes")] Slot),
    /// Nothing: long-running requests.
    Free,
}

/// What a request was found to be; its headers go on the answer.
#[derive(Clone)]
pub(crate) struct Marks {
    schema: HeaderValue,
    level: HeaderValue,
}

impl Marks {
    /// Puts upstream's headers on an answer.
    pub fn put(self, headers: &mut HeaderMap) {
        if !self.schema.is_empty() {
            headers.insert(FLOW_SCHEMA_UID, self.schema);
        }
        if !self.level.is_empty() {
            headers.insert(PRIORITY_LEVEL_UID, self.level);
        }
    }
}

impl Flow {
    /// With the objects that every cluster has, until others are known.
    pub fn new(limits: &Limits, clock: SharedClock) -> Self {
        let objects = crate::bootstrap::objects();
        let of_kind = |kind: &'static str| {
            let found = objects.iter().filter(move |object| object["kind"] == kind);
            found.cloned()
        };
        let schemas: Vec<FlowSchema> = of_kind("FlowSchema")
            .filter_map(|object| serde_json::from_value(object).ok())
            .collect();
        let levels: Vec<PriorityLevelConfiguration> = of_kind("PriorityLevelConfiguration")
            .filter_map(|object| serde_json::from_value(object).ok())
            .collect();
        let seats = limits
            .max_requests_inflight
            .saturating_add(limits.max_mutating_requests_inflight);
        let flow = Self {
            digest: ArcSwap::from_pointee(Digest {
                schemas: Schemas::new(&[], &[], &mut BTreeMap::new()),
                levels: Vec::new(),
                ways: Vec::new(),
            }),
            kept: Mutex::default(),
            seats,
            patience: limits.request_timeout / 4,
            clock,
            plain: (!limits.fairness).then(|| InFlight::new(limits)),
        };
        flow.configure(&schemas, &levels);
        flow
    }

    /// Puts schemas and levels in force. Requests under way keep their seats.
    pub fn configure(&self, schemas: &[FlowSchema], levels: &[PriorityLevelConfiguration]) {
        let mut specs: Vec<LevelSpec> = levels.iter().filter_map(LevelSpec::of).collect();
        specs.sort_by(|a, b| a.name.cmp(&b.name));
        let shares: Vec<_> = specs.iter().map(|spec| spec.share).collect();
        let bounds = allocation::bounds(self.seats, &shares);
        let mut kept = self.kept.lock();
        let made: Vec<(LevelSpec, Arc<Level>)> = specs
            .iter()
            .zip(bounds)
            .map(|(spec, bounds)| {
                let level = kept
                    .levels
                    .entry(spec.name.clone())
                    .or_insert_with(|| Level::new(spec, self.clock.clone()))
                    .clone();
                level.reconfigure(spec, bounds);
                (spec.clone(), level)
            })
            .collect();
        // A level that is gone serves those that wait in it, and is forgotten.
        kept.levels
            .retain(|name, _| specs.iter().any(|spec| spec.name == *name));
        let schemas = Schemas::new(schemas, &specs, &mut kept.counters);
        let known: Vec<(String, String)> = schemas
            .iter()
            .map(|schema| (schema.name.clone(), schema.level.clone()))
            .collect();
        kept.counters.retain(|key, _| known.contains(key));
        let ways = known
            .iter()
            .filter_map(|(_, level)| specs.iter().position(|spec| spec.name == *level))
            .collect();
        self.digest.store(Arc::new(Digest {
            schemas,
            levels: made,
            ways,
        }));
    }

    /// Lets a request in: at once, or after it has waited, or not at all.
    pub async fn admit(
        &self,
        server: &ApiServer,
        info: &RequestInfo,
        user: &UserInfo,
        query: &crate::query::Query,
    ) -> Result<(Permit, Option<Marks>), Response<Body>> {
        let long_running = crate::limits::is_long_running(info);
        if let Some(plain) = &self.plain {
            if long_running {
                return Ok((Permit::Free, None));
            }
            let slot = plain.take(info, user).ok_or_else(|| refused(1))?;
            return Ok((Permit::Slot(slot), None));
        }
        if long_running && info.verb != "watch" {
            return Ok((Permit::Free, None));
        }
        let digest = self.digest.load_full();
        let Some((at, schema)) = digest.schemas.find(info, user) else {
            return Ok((Permit::Free, None));
        };
        let Some((spec, level)) = digest.ways.get(at).and_then(|way| digest.levels.get(*way))
        else {
            return Ok((Permit::Free, None));
        };
        let marks = Marks {
            schema: schema.uid.clone(),
            level: spec.uid.clone(),
        };
        let width = if level.is_exempt() {
            1
        } else {
            width(server, info, query).min(level.widest())
        };
        let hash = || schema.hash(schema.flow(info, user));
        let (level, counters) = (level.clone(), schema.counters.clone());
        let acquired = level.acquire(&counters, width, self.patience, hash).await;
        match acquired {
            Ok(seats) => Ok((Permit::Seats(seats), Some(marks))),
            Err(_) => {
                let mut response = refused(level.retry_after());
                marks.put(response.headers_mut());
                Err(response)
            }
        }
    }

    /// Lends seats between levels, until `shutdown`.
    pub async fn lend(&self, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = self.clock.sleep(BORROWING_INTERVAL) => {}
                () = shutdown.triggered() => return,
            }
            let digest = self.digest.load_full();
            let states: Vec<_> = digest
                .levels
                .iter()
                .map(|(_, level)| (*level.bounds.read(), level.turn(), level.is_exempt()))
                .collect();
            for ((_, level), seats) in digest.levels.iter().zip(allocation::borrow(&states)) {
                if level.limit() != seats {
                    level.set_limit(seats);
                }
            }
        }
    }
}

/// How many seats a request takes: one, and lists more by what they hold in memory.
fn width(server: &ApiServer, info: &RequestInfo, query: &crate::query::Query) -> u32 {
    let lists = match info.verb.as_str() {
        "list" => true,
        // A watch that begins with the state there is.
        "watch" => {
            query.get("sendInitialEvents") == "true"
                || matches!(query.get("resourceVersion"), "" | "0")
        }
        _ => false,
    };
    if !lists || !info.name.is_empty() {
        return 1;
    }
    let registry = server.registry.load();
    let Some(resource) = registry.get(&info.group, &info.version, &info.resource) else {
        return 1;
    };
    let Some((count, average)) = server.hub.estimate(&resource.storage) else {
        return 1;
    };
    let count = match query.get("limit").parse::<u64>() {
        Ok(limit) if limit > 0 && info.verb == "list" => limit.min(count),
        _ => count,
    };
    let bytes = count.saturating_mul(average).min(LIST_BYTES);
    u32::try_from(bytes.div_ceil(BYTES_PER_SEAT))
        .unwrap_or(1)
        .max(1)
}

/// 429 in upstream's words.
fn refused(retry_after: u64) -> Response<Body> {
    let text = bytes::Bytes::from_static(b"Too many requests, please try again later.\n");
    let mut response = crate::content::response(429, "text/plain; charset=utf-8", text);
    let headers = response.headers_mut();
    headers.insert(RETRY_AFTER, HeaderValue::from(retry_after));
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_base::SystemClock;

    /// Figures, for people: `cargo nextest run -p skiff-apiserver flow::tests --no-capture`.
    #[tokio::test]
    async fn letting_a_request_in_costs_little() {
        let clock = SystemClock::shared();
        let flow = Flow::new(&Limits::default(), clock.clone());
        let info = RequestInfo::resolve(&http::Method::GET, "/api/v1/namespaces/a/pods/b", None);
        let user = UserInfo::new("bob", &["system:authenticated"]);
        let digest = flow.digest.load();
        let (at, schema) = digest.schemas.find(&info, &user).unwrap();
        let (_, level) = &digest.levels[digest.ways[at]];
        let start = clock.monotonic();
        for _ in 0..10_000 {
            let (_, schema) = digest.schemas.find(&info, &user).unwrap();
            let seats = level
                .acquire(&schema.counters, 1, Duration::ZERO, || 0)
                .await;
            assert!(seats.is_ok());
        }
        let each = (clock.monotonic() - start) / 10_000;
        eprintln!("{} at {}: {each:?} a request", schema.name, level.name);
        assert_eq!(schema.counters.dispatched(), 10_000);
    }

    #[test]
    fn levels_keep_their_counters_when_others_change() {
        let flow = Flow::new(&Limits::default(), SystemClock::shared());
        let objects = crate::bootstrap::objects();
        let before = flow.digest.load_full();
        let schemas: Vec<FlowSchema> = objects
            .iter()
            .filter(|object| {
                object["kind"] == "FlowSchema" && object["metadata"]["name"] != "probes"
            })
            .map(|object| serde_json::from_value(object.clone()).unwrap())
            .collect();
        let levels: Vec<PriorityLevelConfiguration> = objects
            .iter()
            .filter(|object| {
                object["kind"] == "PriorityLevelConfiguration"
                    && object["metadata"]["name"] != "system"
            })
            .map(|object| serde_json::from_value(object.clone()).unwrap())
            .collect();
        flow.configure(&schemas, &levels);
        let after = flow.digest.load_full();
        // `probes` is gone, and `system-nodes` leads nowhere.
        assert_eq!(
            after.schemas.iter().count(),
            before.schemas.iter().count() - 2
        );
        assert_eq!(after.levels.len(), 7);
        let level = |digest: &Digest| {
            digest
                .levels
                .iter()
                .find(|(spec, _)| spec.name == "workload-low")
                .unwrap()
                .1
                .clone()
        };
        assert!(Arc::ptr_eq(&level(&before), &level(&after)));
        // Its share has grown.
        assert_eq!(level(&after).limit(), 280);
    }
}
