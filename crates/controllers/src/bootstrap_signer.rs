//! Signs the ConfigMap `kube-public/cluster-info` with each bootstrap token that may sign, so that a machine that has
//! such a token, and nothing else yet, can tell that it talks to the right cluster.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Client;
use kube::api::{Api, PostParams};
use ring::hmac;
use serde_json::json;
use skiff_base::SharedClock;
use skiff_client::{
    ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache, WatchSpec, is_conflict,
    is_not_found,
};

use crate::Context;
use crate::token_cleaner::{Life, life, tokens, value};

/// The name of this controller.
pub const NAME: &str = "bootstrap-signer";

const NAMESPACE: &str = "kube-public";
const CONFIG_MAP: &str = "cluster-info";
/// What is signed.
const CONTENT: &str = "kubeconfig";
/// The signature of a token lies under this and the token's id.
const SIGNATURE: &str = "jws-kubeconfig-";

struct Signer {
    client: Client,
    maps: SharedCache<ConfigMap>,
    tokens: SharedCache<Secret>,
    clock: SharedClock,
}

/// Runs the controller.
pub async fn run(context: Context) {
    let only = WatchSpec::in_namespace::<ConfigMap>(NAMESPACE)
        .fields(format!("metadata.name={CONFIG_MAP}"));
    let maps = context.caches.watch::<ConfigMap>(only);
    let tokens = context.caches.watch::<Secret>(tokens());
    let queue = context.queue();
    maps.wait_synced().await;
    tokens.wait_synced().await;
    let all = || ObjectKey::new(NAMESPACE, CONFIG_MAP);
    let _maps = {
        let queue = queue.clone();
        maps.on_event(move |_| queue.add(all()))
    };
    let _tokens = {
        let queue = queue.clone();
        tokens.on_event(move |_| queue.add(all()))
    };
    let reconciler = Signer {
        client: context.client(NAME),
        maps,
        tokens,
        clock: context.clock.clone(),
    };
    context.run(reconciler, queue, 1).await;
}

/// The id and the secret of a token that may sign now.
fn signing(secret: &Secret, now: Timestamp) -> Option<(&str, &str)> {
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    let (id, key) = (value(secret, "token-id"), value(secret, "token-secret"));
    let named = name.strip_prefix("bootstrap-token-") == Some(id);
    let good = id.len() == 6
        && id
            .bytes()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let may = value(secret, "usage-bootstrap-signing") == "true" && life(secret, now) != Life::Over;
    (named && good && !key.is_empty() && may).then_some((id, key))
}

/// A JWS of the content, without the content (RFC 7515, appendix F).
fn sign(content: &str, id: &str, key: &str) -> String {
    let header = json!({"alg": "HS256", "kid": id}).to_string();
    let header = URL_SAFE_NO_PAD.encode(header);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
    let signature = hmac::sign(&key, signed.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(signature))
}

/// The data with the signatures of these tokens and no others; none where that is so already, or nothing is there to
/// be signed.
fn plan(
    data: &BTreeMap<String, String>,
    tokens: &[(&str, &str)],
) -> Option<BTreeMap<String, String>> {
    let content = data.get(CONTENT)?;
    let mut wanted = data.clone();
    wanted.retain(|key, _| !key.starts_with(SIGNATURE));
    for (id, key) in tokens {
        wanted.insert(format!("{SIGNATURE}{id}"), sign(content, id, key));
    }
    (wanted != *data).then_some(wanted)
}

#[async_trait]
impl Reconciler for Signer {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "bootstrap_signer_queue"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(map) = self.maps.get(key) else {
            return Ok(Outcome::Done);
        };
        let now = Timestamp::try_from(self.clock.now()).unwrap_or(Timestamp::UNIX_EPOCH);
        let secrets = self.tokens.list();
        let tokens: Vec<_> = secrets
            .iter()
            .filter_map(|secret| signing(secret, now))
            .collect();
        let data = map.data.clone().unwrap_or_default();
        if let Some(data) = plan(&data, &tokens) {
            let map = ConfigMap {
                data: Some(data),
                ..(*map).clone()
            };
            let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), NAMESPACE);
            // Who changed or deleted it meanwhile brings it here again.
            match api.replace(CONFIG_MAP, &PostParams::default(), &map).await {
                Err(error) if !is_conflict(&error) && !is_not_found(&error) => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
        // A token signs no longer once it has expired, whether or not somebody deletes it then.
        let ends = secrets.iter().filter_map(|secret| match life(secret, now) {
            Life::Left(left) => Some(left),
            Life::ForEver | Life::Over => None,
        });
        let next: Option<Duration> = ends.min();
        Ok(next.map_or(Outcome::Done, Outcome::After))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, id: &str, signing: &str, expiration: &str) -> Secret {
        let entries = [
            ("token-id", id),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-signing", signing),
            ("expiration", expiration),
        ];
        let data = entries.map(|(key, value)| {
            let bytes = k8s_openapi::ByteString(value.as_bytes().to_vec());
            (key.to_owned(), bytes)
        });
        let mut secret = Secret {
            data: Some(data.into()),
            ..Secret::default()
        };
        secret.metadata.name = Some(name.to_owned());
        secret
    }

    #[test]
    fn only_live_tokens_that_may_sign_do() {
        let now: Timestamp = "2026-01-01T10:00:00Z".parse().unwrap();
        for (name, id, may, expiration, expected) in [
            ("bootstrap-token-abcdef", "abcdef", "true", "", true),
            (
                "bootstrap-token-abcdef",
                "abcdef",
                "true",
                "2026-02-01T00:00:00Z",
                true,
            ),
            (
                "bootstrap-token-abcdef",
                "abcdef",
                "true",
                "2025-02-01T00:00:00Z",
                false,
            ),
            ("bootstrap-token-abcdef", "abcdef", "false", "", false),
            ("bootstrap-token-abcdef", "ghijkl", "true", "", false),
            ("bootstrap-token-ABCDEF", "ABCDEF", "true", "", false),
            ("other", "abcdef", "true", "", false),
        ] {
            let secret = token(name, id, may, expiration);
            assert_eq!(
                signing(&secret, now).is_some(),
                expected,
                "{name} {id} {may}"
            );
        }
    }

    /// The signature was made with another program: `openssl dgst -sha256 -hmac` over the two encoded parts.
    #[test]
    fn a_signature_is_a_detached_jws() {
        let signature = sign("apiVersion: v1\n", "abcdef", "0123456789abcdef");
        assert_eq!(signature, SIGNATURE_OF_OPENSSL);
    }

    const SIGNATURE_OF_OPENSSL: &str =
        "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..K1chermAQEq0rdqy-ehj0VDfmA_ytv8Wzh9g26FldrE";

    #[test]
    fn signatures_come_and_go_with_their_tokens() {
        let data = BTreeMap::from([(CONTENT.to_owned(), "x".to_owned())]);
        let one = plan(&data, &[("abcdef", "k")]).unwrap();
        assert_eq!(one.len(), 2);
        assert_eq!(plan(&one, &[("abcdef", "k")]), None);
        let other = plan(&one, &[("ghijkl", "k")]).unwrap();
        let keys: Vec<&str> = other.keys().map(String::as_str).collect();
        assert_eq!(keys, ["jws-kubeconfig-ghijkl", CONTENT]);
        assert_eq!(plan(&other, &[]), Some(data));
        assert_eq!(plan(&BTreeMap::new(), &[("abcdef", "k")]), None);
    }
}
