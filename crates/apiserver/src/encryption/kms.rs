//! Keys from a key management service (KMS v2) behind a unix socket.
//!
//! The service encrypts a seed that is made here; each value has a key of its own, derived from the seed. The service is
//! asked once per seed, not once per value. A new seed is made when the service says that its key has changed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use prost::Message;
use sha2::{Digest as _, Sha256};
use skiff_base::SharedClock;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::EncryptionError;
use super::ciphers::{Cipher, SEED, random};
use super::configuration;
use super::rules::Opened;

/// A healthy service is asked for its state this often ...
const HEALTHY_INTERVAL: Duration = Duration::from_secs(60);
/// ... another one this often.
const AILING_INTERVAL: Duration = Duration::from_secs(10);
/// A seed writes for this long after the service was last well.
const SEED_LIFE: Duration = Duration::from_secs(180);
/// Decrypted seeds are kept this long after their last use.
const CACHE_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
const MAX_KEY_ID: usize = 1024;
const MAX_ENCRYPTED_SEED: usize = 1024;
const MAX_ANNOTATIONS: usize = 32 * 1024;
/// The kind of `encrypted_source` that we write: a seed for HKDF.
const HKDF_SEED: i32 = 1;

/// What is stored: `EncryptedObject` of upstream's kmsv2.
#[derive(Clone, PartialEq, Message)]
pub(super) struct EncryptedObject {
    #[prost(bytes = "vec", tag = "1")]
    pub data: Vec<u8>,
    #[prost(string, tag = "2")]
    pub key_id: String,
    #[prost(bytes = "vec", tag = "3")]
    pub encrypted_source: Vec<u8>,
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub annotations: BTreeMap<String, Vec<u8>>,
    /// 0: the source is an AES-GCM key; 1: a seed that keys are derived from.
    #[prost(int32, tag = "5")]
    pub source_type: i32,
}

/// The messages of the service `v2.KeyManagementService`.
#[derive(Clone, PartialEq, Message)]
pub struct StatusRequest {}

/// Its answer.
#[derive(Clone, PartialEq, Message)]
pub struct StatusResponse {
    /// `v2`.
    #[prost(string, tag = "1")]
    pub version: String,
    /// `ok`, or what is wrong.
    #[prost(string, tag = "2")]
    pub healthz: String,
    /// The key in use.
    #[prost(string, tag = "3")]
    pub key_id: String,
}

/// A seed to decrypt.
#[derive(Clone, PartialEq, Message)]
pub struct DecryptRequest {
    /// The encrypted seed.
    #[prost(bytes = "vec", tag = "1")]
    pub ciphertext: Vec<u8>,
    /// For logs on both sides.
    #[prost(string, tag = "2")]
    pub uid: String,
    /// The key that it was encrypted with.
    #[prost(string, tag = "3")]
    pub key_id: String,
    /// What the service said when it encrypted it.
    #[prost(btree_map = "string, bytes", tag = "4")]
    pub annotations: BTreeMap<String, Vec<u8>>,
}

/// Its answer.
#[derive(Clone, PartialEq, Message)]
pub struct DecryptResponse {
    /// The seed.
    #[prost(bytes = "vec", tag = "1")]
    pub plaintext: Vec<u8>,
}

/// A seed to encrypt.
#[derive(Clone, PartialEq, Message)]
pub struct EncryptRequest {
    /// The seed.
    #[prost(bytes = "vec", tag = "1")]
    pub plaintext: Vec<u8>,
    /// For logs on both sides.
    #[prost(string, tag = "2")]
    pub uid: String,
}

/// Its answer.
#[derive(Clone, PartialEq, Message)]
pub struct EncryptResponse {
    /// The encrypted seed.
    #[prost(bytes = "vec", tag = "1")]
    pub ciphertext: Vec<u8>,
    /// The key that was used.
    #[prost(string, tag = "2")]
    pub key_id: String,
    /// To be handed back when it is decrypted.
    #[prost(btree_map = "string, bytes", tag = "3")]
    pub annotations: BTreeMap<String, Vec<u8>>,
}

/// A seed that writes.
struct Seed {
    cipher: Arc<Cipher>,
    key_id: String,
    encrypted: Vec<u8>,
    annotations: BTreeMap<String, Vec<u8>>,
}

/// What the last question for the service's state brought.
#[derive(Default)]
struct Health {
    ailment: Option<String>,
    /// The current seed writes until then.
    good_until: Duration,
}

type CacheKey = [u8; 32];

/// A service and the seeds that it knows.
pub(super) struct KmsProvider {
    name: String,
    timeout: Duration,
    channel: Channel,
    clock: SharedClock,
    seed: ArcSwapOption<Seed>,
    health: Mutex<Health>,
    cache: Mutex<HashMap<CacheKey, (Arc<Cipher>, Duration)>>,
    probe: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl Drop for KmsProvider {
    fn drop(&mut self) {
        if let Some(probe) = self.probe.lock().take() {
            probe.abort();
        }
    }
}

fn cache_key(object: &EncryptedObject) -> CacheKey {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_be_bytes());
        hash.update(bytes);
    };
    part(&object.source_type.to_be_bytes());
    part(&object.encrypted_source);
    part(object.key_id.as_bytes());
    for (name, value) in &object.annotations {
        part(name.as_bytes());
        part(value);
    }
    hash.finalize().into()
}

/// What an object must keep to, of the service's making or from the store.
fn check(object: &EncryptedObject) -> Result<(), EncryptionError> {
    let refuse = |text: String| Err(EncryptionError::new(text));
    if !matches!(object.source_type, 0 | 1) {
        return refuse(format!(
            "unknown encryptedDEKSourceType: {}",
            object.source_type
        ));
    }
    if object.data.is_empty() {
        return refuse("encrypted data is empty".to_owned());
    }
    if object.encrypted_source.is_empty() || object.encrypted_source.len() > MAX_ENCRYPTED_SEED {
        return refuse(format!(
            "encrypted DEK source is {} bytes long, which is not between 1 and {MAX_ENCRYPTED_SEED}",
            object.encrypted_source.len()
        ));
    }
    check_key_id(&object.key_id)?;
    let mut size = 0;
    for (name, value) in &object.annotations {
        size += name.len() + value.len();
        let errors = skiff_api::validation::names::dns_subdomain(name);
        if !errors.is_empty() || !name.contains('.') {
            return refuse(format!(
                "the annotation {name:?} is no fully qualified domain name"
            ));
        }
    }
    if size > MAX_ANNOTATIONS {
        return refuse(format!(
            "total size of annotations is {size}, which exceeds the max size of {MAX_ANNOTATIONS}"
        ));
    }
    Ok(())
}

fn check_key_id(key_id: &str) -> Result<(), EncryptionError> {
    match key_id.len() {
        0 => Err(EncryptionError::new("keyID is empty")),
        1..=MAX_KEY_ID => Ok(()),
        length => Err(EncryptionError::new(format!(
            "keyID is {length} bytes, which exceeds the max size of {MAX_KEY_ID}"
        ))),
    }
}

impl KmsProvider {
    /// Starts to speak with a service. One that is not well yet is no error: reads and writes are, until it is.
    pub async fn start(
        settings: &configuration::Kms,
        clock: SharedClock,
    ) -> Result<Arc<Self>, EncryptionError> {
        let bad = || EncryptionError::new("bad KMS configuration");
        let socket = settings.socket().ok_or_else(bad)?;
        // The address is never resolved: the connector knows the socket.
        let channel = Endpoint::from_static("http://kms.invalid").connect_with_connector_lazy(
            tower::service_fn(move |_: Uri| {
                let socket = socket.clone();
                async move { UnixStream::connect(socket).await.map(TokioIo::new) }
            }),
        );
        let provider = Arc::new(Self {
            name: settings.name.clone(),
            timeout: settings.timeout().ok_or_else(bad)?,
            channel,
            clock,
            seed: ArcSwapOption::empty(),
            health: Mutex::default(),
            cache: Mutex::default(),
            probe: Mutex::default(),
        });
        provider.look().await;
        let weak = Arc::downgrade(&provider);
        let clock = provider.clock.clone();
        let probe = tokio::spawn(async move {
            loop {
                let Some(provider) = weak.upgrade() else {
                    return;
                };
                let well = provider.health.lock().ailment.is_none();
                drop(provider);
                clock
                    .sleep(if well {
                        HEALTHY_INTERVAL
                    } else {
                        AILING_INTERVAL
                    })
                    .await;
                let Some(provider) = weak.upgrade() else {
                    return;
                };
                provider.look().await;
            }
        });
        *provider.probe.lock() = Some(probe);
        Ok(provider)
    }

    /// Asks for the service's state, and makes a new seed when its key has changed.
    async fn look(&self) {
        let outcome = self.renew().await;
        let now = self.clock.monotonic();
        let mut health = self.health.lock();
        match outcome {
            Ok(()) => {
                *health = Health {
                    ailment: None,
                    good_until: now + SEED_LIFE,
                }
            }
            Err(error) => {
                let text = format!(
                    "kmsv2 Provider {} is not healthy, error: {error}",
                    self.name
                );
                if health.ailment.as_ref() != Some(&text) {
                    tracing::warn!("{text}");
                }
                health.ailment = Some(text);
            }
        }
        drop(health);
        let mut cache = self.cache.lock();
        cache.retain(|_, (_, until)| *until > now);
    }

    async fn renew(&self) -> Result<(), EncryptionError> {
        let status: StatusResponse = self.call("Status", StatusRequest {}).await?;
        if status.healthz != "ok" {
            let text = format!("got unexpected healthz status: {}", status.healthz);
            return Err(EncryptionError::new(text));
        }
        if !matches!(status.version.as_str(), "v2" | "v2beta1") {
            let text = format!("expected KMSv2 API version v2, got {}", status.version);
            return Err(EncryptionError::new(text));
        }
        check_key_id(&status.key_id)?;
        let current = self.seed.load();
        if current
            .as_ref()
            .is_some_and(|seed| seed.key_id == status.key_id)
        {
            return Ok(());
        }
        let plain = random::<SEED>()?;
        let request = EncryptRequest {
            plaintext: plain.to_vec(),
            uid: uuid::Uuid::new_v4().to_string(),
        };
        let answer: EncryptResponse = self.call("Encrypt", request).await?;
        if answer.key_id != status.key_id {
            return Err(EncryptionError::new(
                "failed to rotate DEK: the service encrypted with another key than its status names",
            ));
        }
        let object = EncryptedObject {
            data: vec![0],
            key_id: answer.key_id.clone(),
            encrypted_source: answer.ciphertext.clone(),
            annotations: answer.annotations.clone(),
            source_type: HKDF_SEED,
        };
        check(&object)?;
        let cipher = Arc::new(Cipher::derived(&plain)?);
        self.remember(cache_key(&object), cipher.clone());
        self.seed.store(Some(Arc::new(Seed {
            cipher,
            key_id: answer.key_id,
            encrypted: answer.ciphertext,
            annotations: answer.annotations,
        })));
        Ok(())
    }

    fn remember(&self, key: CacheKey, cipher: Arc<Cipher>) {
        let until = self.clock.monotonic() + CACHE_LIFE;
        self.cache.lock().insert(key, (cipher, until));
    }

    /// What is wrong with the service; `None`: nothing.
    pub fn ailment(&self) -> Option<String> {
        self.health.lock().ailment.clone()
    }

    /// Encrypts a value.
    pub async fn seal(
        &self,
        out: &mut Vec<u8>,
        place: &str,
        plain: &[u8],
    ) -> Result<(), EncryptionError> {
        let seed = self.seed.load_full();
        let Some(seed) = seed else {
            return Err(EncryptionError::new("got unexpected nil transformer"));
        };
        let now = self.clock.monotonic();
        if now > self.health.lock().good_until {
            return Err(EncryptionError::new(
                "encryptedDEKSource expired: the KMS plugin has not been healthy for too long",
            ));
        }
        let mut data = Vec::with_capacity(plain.len() + 64);
        seed.cipher.seal(&mut data, plain, place)?;
        let object = EncryptedObject {
            data,
            key_id: seed.key_id.clone(),
            encrypted_source: seed.encrypted.clone(),
            annotations: seed.annotations.clone(),
            source_type: HKDF_SEED,
        };
        object
            .encode(out)
            .map_err(|error| EncryptionError::new(error.to_string()))
    }

    /// Decrypts a value.
    pub async fn open(&self, place: &str, data: &[u8]) -> Result<Opened, EncryptionError> {
        let object = EncryptedObject::decode(data)
            .map_err(|error| EncryptionError::new(error.to_string()))?;
        check(&object)?;
        let key = cache_key(&object);
        let known = self
            .cache
            .lock()
            .get(&key)
            .map(|(cipher, _)| cipher.clone());
        let cipher = match known {
            Some(cipher) => cipher,
            None => {
                let request = DecryptRequest {
                    ciphertext: object.encrypted_source.clone(),
                    uid: uuid::Uuid::new_v4().to_string(),
                    key_id: object.key_id.clone(),
                    annotations: object.annotations.clone(),
                };
                let answer: Result<DecryptResponse, _> = self.call("Decrypt", request).await;
                let answer = answer.map_err(|error| {
                    EncryptionError::new(format!("failed to decrypt DEK, error: {error}"))
                })?;
                let cipher = Arc::new(match object.source_type {
                    HKDF_SEED => Cipher::derived(&answer.plaintext)?,
                    _ => Cipher::gcm(&answer.plaintext)?,
                });
                self.remember(key, cipher.clone());
                cipher
            }
        };
        let plain = cipher.open(&object.data, place)?;
        let seed = self.seed.load();
        let stale = object.source_type != HKDF_SEED
            || seed
                .as_ref()
                .is_none_or(|seed| seed.key_id != object.key_id);
        Ok(Opened { plain, stale })
    }

    async fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A, EncryptionError>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let path = match method {
            "Status" => "/v2.KeyManagementService/Status",
            "Encrypt" => "/v2.KeyManagementService/Encrypt",
            _ => "/v2.KeyManagementService/Decrypt",
        };
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        let exchange = async {
            client.ready().await.map_err(|error| chain(&error))?;
            let path = http::uri::PathAndQuery::from_static(path);
            let codec = tonic_prost::ProstCodec::<Q, A>::default();
            client
                .unary(tonic::Request::new(request), path, codec)
                .await
                .map(tonic::Response::into_inner)
                .map_err(|status| {
                    format!(
                        "rpc error: code = {:?} desc = {}",
                        status.code(),
                        status.message()
                    )
                })
        };
        tokio::select! {
            answer = exchange => answer.map_err(EncryptionError::new),
            () = self.clock.sleep(self.timeout) => Err(EncryptionError::new(
                "rpc error: code = DeadlineExceeded desc = context deadline exceeded",
            )),
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
