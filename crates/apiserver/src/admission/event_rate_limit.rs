//! EventRateLimit: so many events a second, of the server, a namespace, a user, or about one thing.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Event as CoreEvent;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::Value;
use skiff_api::{ApiError, ApiResult, Object, ObjectExt};

use super::{Admission, AdmissionRequest, Operation, chain};

/// How many buckets a limit keeps when nothing is said.
const CACHE: usize = 4096;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Configuration {
    #[serde(default)]
    limits: Vec<Limit>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Limit {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    qps: i32,
    #[serde(default)]
    burst: i32,
    #[serde(default)]
    cache_size: i32,
}

const KINDS: [&str; 4] = ["Namespace", "Server", "SourceAndObject", "User"];

/// What is left to a key, and since when.
#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: Duration,
}

/// The buckets of one limit; at most as many as its cache holds, the one unused longest goes first.
struct Enforcer {
    limit: Limit,
    buckets: Mutex<HashMap<String, Bucket>>,
}

impl Enforcer {
    fn accept(&self, key: &str, now: Duration) -> bool {
        let burst = f64::from(self.limit.burst);
        let capacity = match (self.limit.kind.as_str(), self.limit.cache_size) {
            ("Server", _) => 1,
            (_, size) => usize::try_from(size)
                .ok()
                .filter(|size| *size > 0)
                .unwrap_or(CACHE),
        };
        let mut buckets = self.buckets.lock();
        let fresh = Bucket {
            tokens: burst,
            at: now,
        };
        let mut bucket = buckets.get(key).copied().unwrap_or(fresh);
        let passed = now.saturating_sub(bucket.at).as_secs_f64();
        bucket.tokens = (bucket.tokens + passed * f64::from(self.limit.qps)).min(burst);
        bucket.at = now;
        let allowed = bucket.tokens >= 1.0;
        if allowed {
            bucket.tokens -= 1.0;
        }
        if buckets.len() >= capacity && !buckets.contains_key(key) {
            let oldest = buckets.iter().min_by_key(|(_, bucket)| bucket.at);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                buckets.remove(&oldest);
            }
        }
        buckets.insert(key.to_owned(), bucket);
        allowed
    }
}

pub(crate) struct EventRateLimit {
    enforcers: Vec<Enforcer>,
}

impl EventRateLimit {
    pub fn new(configuration: &Value) -> Result<Self, String> {
        let versions = ["eventratelimit.admission.k8s.io/v1alpha1"];
        let read: Option<Configuration> =
            chain::configuration(configuration, &versions, "Configuration")?;
        let limits = read.map(|read| read.limits).unwrap_or_default();
        if limits.is_empty() {
            return Err("limits: Invalid value: null: must not be empty".to_owned());
        }
        for (index, limit) in limits.iter().enumerate() {
            let wrong = if KINDS.contains(&limit.kind.as_str()) {
                match (limit.burst > 0, limit.qps > 0, limit.cache_size >= 0) {
                    (false, _, _) => Some(format!(
                        "burst: Invalid value: {}: must be positive",
                        limit.burst
                    )),
                    (_, false, _) => Some(format!(
                        "qps: Invalid value: {}: must be positive",
                        limit.qps
                    )),
                    (_, _, false) if limit.kind != "Server" => Some(format!(
                        "cacheSize: Invalid value: {}: must not be negative",
                        limit.cache_size
                    )),
                    _ => None,
                }
            } else {
                Some(format!("type: Unsupported value: {:?}", limit.kind))
            };
            if let Some(wrong) = wrong {
                return Err(format!("limits[{index}].{wrong}"));
            }
        }
        let enforcers = limits.into_iter().map(|limit| Enforcer {
            limit,
            buckets: Mutex::default(),
        });
        Ok(Self {
            enforcers: enforcers.collect(),
        })
    }
}

/// Where an event comes from and what it is about.
fn source_and_object(object: Option<&dyn Object>) -> String {
    let value = object.map(|object| match object.downcast_ref::<CoreEvent>() {
        Some(event) => serde_json::to_value(event).unwrap_or_default(),
        None => object.to_value(),
    });
    let value = value.unwrap_or_default();
    let text = |pointers: [&str; 2]| {
        let found = pointers
            .iter()
            .find_map(|pointer| value.pointer(pointer)?.as_str());
        found.unwrap_or_default().to_owned()
    };
    [
        ["/source/component", "/deprecatedSource/component"],
        ["/source/host", "/deprecatedSource/host"],
        ["/involvedObject/kind", "/regarding/kind"],
        ["/involvedObject/namespace", "/regarding/namespace"],
        ["/involvedObject/name", "/regarding/name"],
        ["/involvedObject/uid", "/regarding/uid"],
        ["/involvedObject/apiVersion", "/regarding/apiVersion"],
    ]
    .map(text)
    .concat()
}

#[async_trait]
impl Admission for EventRateLimit {
    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&dyn Object>,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        if !matches!(request.operation, Operation::Create | Operation::Update)
            || request.resource.kind.kind != "Event"
            || request.dry_run
        {
            return Ok(());
        }
        let now = request.call.server.clock.monotonic();
        let mut reached: Vec<String> = Vec::new();
        for enforcer in &self.enforcers {
            let kind = enforcer.limit.kind.as_str();
            let key = match kind {
                "Namespace" => request.namespace.to_owned(),
                "User" => request.call.user.name.clone(),
                "SourceAndObject" => source_and_object(object),
                _ => String::new(),
            };
            if !enforcer.accept(&key, now) {
                reached.push(format!("limit reached on type {kind} for key {key}"));
            }
        }
        let all = match reached.as_slice() {
            [] => return Ok(()),
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        Err(ApiError::new(
            429,
            "TooManyRequests",
            format!("Too many requests: {all}"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn limits(limit: Value) -> Result<EventRateLimit, String> {
        EventRateLimit::new(
            &json!({"apiVersion": "eventratelimit.admission.k8s.io/v1alpha1",
            "kind": "Configuration", "limits": [limit]}),
        )
    }

    #[test]
    fn buckets_fill_with_time_and_the_oldest_goes() {
        let plugin = limits(json!({"type": "User", "qps": 1, "burst": 2, "cacheSize": 2})).unwrap();
        let enforcer = &plugin.enforcers[0];
        let at = |seconds: u64, key: &str| enforcer.accept(key, Duration::from_secs(seconds));
        assert_eq!([at(0, "a"), at(0, "a"), at(0, "a")], [true, true, false]);
        assert_eq!([at(1, "a"), at(1, "a")], [true, false]);
        assert!(at(2, "b") && at(3, "c"));
        // "a" was forgotten, so it starts anew.
        assert_eq!([at(3, "a"), at(3, "a"), at(3, "a")], [true, true, false]);
        for (limit, wrong) in [
            (json!({"type": "X", "qps": 1, "burst": 1}), "limits[0].type"),
            (
                json!({"type": "Server", "qps": 0, "burst": 1}),
                "limits[0].qps",
            ),
            (json!({"type": "Server", "qps": 1}), "limits[0].burst"),
        ] {
            let error = limits(limit).err().unwrap();
            assert!(error.starts_with(wrong), "{error}");
        }
    }
}
