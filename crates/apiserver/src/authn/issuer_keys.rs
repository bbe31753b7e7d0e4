//! The keys of an issuer of tokens: found by discovery, kept, and read anew when a token names a key that is not known.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use bytes::Bytes;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use skiff_base::SharedClock;
use tokio::sync::Mutex;

/// What a document of keys may be long.
const LIMIT: usize = 1 << 20;
const TIMEOUT: Duration = Duration::from_secs(30);
/// Discovery is tried this often while it fails.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(10);
/// Keys are not read more often, however many tokens name unknown ones.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);
const WELL_KNOWN: &str = "/.well-known/openid-configuration";

/// Reads documents over HTTPS; redirects are failures.
#[async_trait]
pub(crate) trait Fetch: Send + Sync + 'static {
    /// The document at a URL.
    async fn get(&self, url: &str) -> Result<Bytes, String>;
}

/// The usual way of reading them.
pub(crate) struct Https {
    /// PEM of the authorities that the issuer is verified with; empty: the system's.
    pub authority: Vec<u8>,
    pub clock: SharedClock,
}

#[async_trait]
impl Fetch for Https {
    async fn get(&self, url: &str) -> Result<Bytes, String> {
        let client = crate::webhook::Client::of_url(url, &self.authority, self.clock.clone())?;
        let answer = client.get(TIMEOUT, LIMIT).await;
        answer.map_err(|error| error.to_string())
    }
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct KeySet {
    #[serde(default)]
    keys: Vec<serde_json::Value>,
}

struct Key {
    id: Option<String>,
    algorithm: Option<Algorithm>,
    decoding: DecodingKey,
}

/// The keys as they were read last.
struct Keys {
    /// How many times they were read; the first is 1.
    reading: u64,
    keys: Vec<Key>,
}

/// When something was last tried.
#[derive(Default)]
struct Tried {
    discovery: Option<Duration>,
    keys: Option<Duration>,
    jwks_uri: Option<String>,
    failure: String,
}

/// The keys of one issuer.
pub(crate) struct IssuerKeys {
    issuer: String,
    discovery: String,
    fetch: Arc<dyn Fetch>,
    clock: SharedClock,
    keys: ArcSwapOption<Keys>,
    tried: Mutex<Tried>,
}

impl IssuerKeys {
    /// `discovery_url`: where the issuer describes itself; empty for the usual place.
    pub fn new(
        issuer: &str,
        discovery_url: &str,
        fetch: Arc<dyn Fetch>,
        clock: SharedClock,
    ) -> Self {
        let discovery = match discovery_url {
            "" => format!("{}{WELL_KNOWN}", issuer.trim_end_matches('/')),
            url => url.to_owned(),
        };
        Self {
            issuer: issuer.to_owned(),
            discovery,
            fetch,
            clock,
            keys: ArcSwapOption::empty(),
            tried: Mutex::default(),
        }
    }

    /// Asks `check` with each key that may have signed the token; the keys are read anew when none is good.
    pub async fn with_key<T>(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        check: impl Fn(&DecodingKey) -> Option<T>,
    ) -> Result<T, String> {
        let known = self.keys.load_full();
        if let Some(found) = known
            .as_ref()
            .and_then(|keys| keys.find(id, algorithm, &check))
        {
            return Ok(found);
        }
        let reading = known.map_or(0, |keys| keys.reading);
        self.refresh(reading).await?;
        let keys = self.keys.load_full();
        let found = keys.and_then(|keys| keys.find(id, algorithm, &check));
        found.ok_or_else(|| {
            "failed to verify signature: failed to verify id token signature".to_owned()
        })
    }

    /// Reads the keys, unless another did since the reading `seen` (0: none), or just now. Those who come meanwhile wait.
    pub async fn refresh(&self, seen: u64) -> Result<(), String> {
        let mut tried = self.tried.lock().await;
        let reading = self.keys.load().as_ref().map_or(0, |keys| keys.reading);
        if reading != seen {
            return Ok(());
        }
        let recent = |at: Option<Duration>, interval: Duration| {
            at.is_some_and(|at| self.clock.monotonic() < at + interval)
        };
        if tried.jwks_uri.is_none() {
            if recent(tried.discovery, DISCOVERY_INTERVAL) {
                return Err(format!("authenticator not initialized: {}", tried.failure));
            }
            tried.discovery = Some(self.clock.monotonic());
            match self.discover().await {
                Ok(uri) => tried.jwks_uri = Some(uri),
                Err(why) => {
                    tracing::warn!(
                        issuer = self.issuer,
                        why,
                        "reading an issuer's description failed"
                    );
                    tried.failure = why.clone();
                    return Err(format!("authenticator not initialized: {why}"));
                }
            }
        } else if recent(tried.keys, REFRESH_INTERVAL) {
            return Ok(());
        }
        let uri = tried.jwks_uri.clone().unwrap_or_default();
        tried.keys = Some(self.clock.monotonic());
        let keys = self.read(&uri).await;
        let keys = keys.map_err(|why| format!("fetching keys {why}"))?;
        self.keys.store(Some(Arc::new(Keys {
            reading: reading + 1,
            keys,
        })));
        Ok(())
    }

    async fn discover(&self) -> Result<String, String> {
        let document = self.fetch.get(&self.discovery).await?;
        let found: Discovery = serde_json::from_slice(&document)
            .map_err(|error| format!("failed to decode provider discovery object: {error}"))?;
        if found.issuer != self.issuer {
            return Err(format!(
                "issuer did not match the issuer returned by provider, expected {:?} got {:?}",
                self.issuer, found.issuer
            ));
        }
        match found.jwks_uri.starts_with("https://") {
            true => Ok(found.jwks_uri),
            false => Err("provider did not return an HTTPS URL of its keys".to_owned()),
        }
    }

    async fn read(&self, uri: &str) -> Result<Vec<Key>, String> {
        let document = self.fetch.get(uri).await?;
        let set: KeySet = serde_json::from_slice(&document)
            .map_err(|error| format!("failed to decode keys: {error}"))?;
        // Keys of kinds that are not known are passed over: others may be good.
        let keys = set.keys.into_iter().filter_map(|value| {
            let jwk: Jwk = serde_json::from_value(value).ok()?;
            if jwk
                .common
                .public_key_use
                .as_ref()
                .is_some_and(|of| *of != PublicKeyUse::Signature)
            {
                return None;
            }
            let algorithm = jwk.common.key_algorithm;
            Some(Key {
                id: jwk.common.key_id.clone(),
                algorithm: algorithm.and_then(|algorithm| algorithm.to_string().parse().ok()),
                decoding: DecodingKey::from_jwk(&jwk).ok()?,
            })
        });
        Ok(keys.collect())
    }
}

impl Keys {
    fn find<T>(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        check: &impl Fn(&DecodingKey) -> Option<T>,
    ) -> Option<T> {
        let mut keys = self.keys.iter().filter(|key| {
            let named = id.is_none() || key.id.as_deref() == id;
            named && key.algorithm.is_none_or(|of| of == algorithm)
        });
        keys.find_map(|key| check(&key.decoding))
    }
}
