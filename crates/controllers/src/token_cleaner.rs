//! Deletes bootstrap tokens that have expired.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{Api, DeleteParams};
use skiff_base::SharedClock;
use skiff_client::{Event, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache, WatchSpec};

use crate::Context;
use crate::deletion::delete_seen;

/// The name of this controller.
pub const NAME: &str = "token-cleaner";

/// Where bootstrap tokens lie.
pub(crate) const NAMESPACE: &str = "kube-system";
const TYPE: &str = "bootstrap.kubernetes.io/token";

/// The secrets that are bootstrap tokens, and no others.
pub(crate) fn tokens() -> WatchSpec {
    WatchSpec::in_namespace::<Secret>(NAMESPACE).fields(format!("type={TYPE}"))
}

/// A value of a secret as text; empty where there is none.
pub(crate) fn value<'a>(secret: &'a Secret, key: &str) -> &'a str {
    let found = secret.data.as_ref().and_then(|data| data.get(key));
    let found = found.and_then(|bytes| std::str::from_utf8(&bytes.0).ok());
    found.unwrap_or_default()
}

/// How long a token lives on.
#[derive(Debug, PartialEq)]
pub(crate) enum Life {
    ForEver,
    Left(Duration),
    /// A time that cannot be read counts as past.
    Over,
}

/// Reads when a token expires.
pub(crate) fn life(secret: &Secret, now: Timestamp) -> Life {
    let expiration = value(secret, "expiration");
    if expiration.is_empty() {
        return Life::ForEver;
    }
    let end = expiration.parse::<Timestamp>().ok();
    let left = end.and_then(|end| Duration::try_from(now.duration_until(end)).ok());
    match left {
        Some(left) if !left.is_zero() => Life::Left(left),
        _ => Life::Over,
    }
}

struct Cleaner {
    client: Client,
    tokens: SharedCache<Secret>,
    clock: SharedClock,
}

/// Runs the controller.
pub async fn run(context: Context) {
    let tokens = context.caches.watch::<Secret>(tokens());
    let queue = context.queue();
    tokens.wait_synced().await;
    let _tokens = {
        let queue = queue.clone();
        tokens.on_event(move |event| {
            if !matches!(event, Event::Deleted(_)) {
                queue.add(ObjectKey::of(&event.object().metadata));
            }
        })
    };
    let reconciler = Cleaner {
        client: context.client(NAME),
        tokens,
        clock: context.clock.clone(),
    };
    context.run(reconciler, queue, 1).await;
}

#[async_trait]
impl Reconciler for Cleaner {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "token_cleaner"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(secret) = self.tokens.get(key) else {
            return Ok(Outcome::Done);
        };
        let now = Timestamp::try_from(self.clock.now()).unwrap_or(Timestamp::UNIX_EPOCH);
        match life(&secret, now) {
            Life::ForEver => return Ok(Outcome::Done),
            Life::Left(left) => return Ok(Outcome::After(left)),
            Life::Over => {}
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), NAMESPACE);
        delete_seen(&api, &secret.metadata, DeleteParams::default()).await?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tokens_live_as_long_as_they_say() {
        let now: Timestamp = "2026-01-01T10:00:00Z".parse().unwrap();
        let secret = |expiration: Option<&str>| -> Secret {
            let mut secret = Secret::default();
            if let Some(text) = expiration {
                let bytes = k8s_openapi::ByteString(text.as_bytes().to_vec());
                secret.data = Some([("expiration".to_owned(), bytes)].into());
            }
            secret
        };
        for (expiration, expected) in [
            (None, Life::ForEver),
            (Some(""), Life::ForEver),
            (
                Some("2026-01-01T10:00:30Z"),
                Life::Left(Duration::from_secs(30)),
            ),
            (
                Some("2026-01-01T12:00:30+02:00"),
                Life::Left(Duration::from_secs(30)),
            ),
            (Some("2026-01-01T10:00:00Z"), Life::Over),
            (Some("2025-01-01T10:00:00Z"), Life::Over),
            (Some("tomorrow"), Life::Over),
        ] {
            assert_eq!(life(&secret(expiration), now), expected, "{expiration:?}");
        }
        let binary: Secret =
            serde_json::from_value(json!({"data": {"expiration": "/////w=="}})).unwrap();
        assert_eq!(value(&binary, "expiration"), "");
    }
}
