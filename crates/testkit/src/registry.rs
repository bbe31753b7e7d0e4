//! An image registry in the test's own process, with credentials and faults on demand.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{
    AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE,
};
use axum::http::{Request, Response, StatusCode};
use base64::Engine as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// What is wrong with a registry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Every request is answered with 503.
    Unavailable,
    /// Blobs end in the middle.
    CutBlobs,
}

/// By repository and tag or digest: media type and content.
type Manifests = HashMap<(String, String), (&'static str, Vec<u8>)>;

#[derive(Default)]
struct Shared {
    blobs: Mutex<HashMap<String, Vec<u8>>>,
    manifests: Mutex<Manifests>,
    fault: Mutex<Fault>,
    /// The value of the header that is asked for.
    wanted: Mutex<Option<String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{:x}", Sha256::digest(bytes))
}

/// The registry. It serves plain HTTP on 127.0.0.1 until it is dropped.
pub struct FakeRegistry {
    address: SocketAddr,
    shared: Arc<Shared>,
    _runtime: tokio::runtime::Runtime,
}

impl FakeRegistry {
    /// An empty registry that lets everybody in.
    pub fn start() -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let shared = Arc::new(Shared::default());
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        let router = axum::Router::new()
            .fallback(answer)
            .with_state(shared.clone());
        runtime.spawn(async move { axum::serve(listener, router).await });
        Ok(Self {
            address,
            shared,
            _runtime: runtime,
        })
    }

    /// Host and port, as they begin an image's name.
    #[must_use]
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// From now on this is wrong.
    pub fn set_fault(&self, fault: Fault) {
        *locked(&self.shared.fault) = fault;
    }

    /// From now on only this user gets in.
    pub fn require(&self, user: &str, password: &str) {
        let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        *locked(&self.shared.wanted) = Some(format!("Basic {text}"));
    }

    /// Adds an image of one layer under a tag, as an index of two machines' images. The index's digest.
    pub fn push(&self, repository: &str, tag: &str, layer: Vec<u8>) -> anyhow::Result<String> {
        let ours = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let config = json!({
            "architecture": ours, "os": "linux",
            "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(&layer)]},
        });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": self.blob(CONFIG, serde_json::to_vec(&config)?),
            "layers": [self.blob(LAYER, layer)],
        });
        let manifest = serde_json::to_vec(&manifest)?;
        let entry = |digest: &str, size: usize, machine: &str| {
            json!({"mediaType": MANIFEST, "digest": digest, "size": size,
                "platform": {"os": "linux", "architecture": machine}})
        };
        let digest = digest_of(&manifest);
        let absent = digest_of(b"another machine's image");
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
            entry(&absent, 23, "s390x"), entry(&digest, manifest.len(), ours)]});
        let index = serde_json::to_vec(&index)?;
        let index_digest = digest_of(&index);
        let mut manifests = locked(&self.shared.manifests);
        let name = |reference: &str| (repository.to_owned(), reference.to_owned());
        manifests.insert(name(&digest), (MANIFEST, manifest));
        manifests.insert(name(&index_digest), (INDEX, index.clone()));
        manifests.insert(name(tag), (INDEX, index));
        Ok(index_digest)
    }

    fn blob(&self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = digest_of(&bytes);
        let descriptor = json!({"mediaType": media_type, "digest": digest, "size": bytes.len()});
        locked(&self.shared.blobs).insert(digest, bytes);
        descriptor
    }
}

fn plain(code: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    response
}

fn unknown(code: &str) -> Response<Body> {
    let errors = json!({"errors": [{"code": code, "message": "unknown to the registry"}]});
    plain(StatusCode::NOT_FOUND, errors.to_string())
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request<Body>) -> Response<Body> {
    let fault = *locked(&shared.fault);
    if fault == Fault::Unavailable {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "down for repairs");
    }
    let given = request.headers().get(AUTHORIZATION);
    let wanted = locked(&shared.wanted).clone();
    if wanted.is_some_and(|wanted| given.is_none_or(|given| given.as_bytes() != wanted.as_bytes()))
    {
        let errors =
            json!({"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]});
        let mut response = plain(StatusCode::UNAUTHORIZED, errors.to_string());
        let ask = HeaderValue::from_static("Basic realm=\"test\"");
        response.headers_mut().insert(WWW_AUTHENTICATE, ask);
        return response;
    }
    let path = request.uri().path().trim_start_matches("/v2/");
    if let Some((repository, reference)) = path.rsplit_once("/manifests/") {
        let name = (repository.to_owned(), reference.to_owned());
        let found = locked(&shared.manifests).get(&name).cloned();
        let Some((media_type, bytes)) = found else {
            return unknown("MANIFEST_UNKNOWN");
        };
        let digest = HeaderValue::from_str(&digest_of(&bytes));
        let mut response = plain(StatusCode::OK, bytes);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
        headers.extend(digest.ok().map(|digest| {
            (
                axum::http::HeaderName::from_static("docker-content-digest"),
                digest,
            )
        }));
        return response;
    }
    let Some((_, digest)) = path.rsplit_once("/blobs/") else {
        return plain(StatusCode::OK, "{}");
    };
    let Some(bytes) = locked(&shared.blobs).get(digest).cloned() else {
        return unknown("BLOB_UNKNOWN");
    };
    let length = HeaderValue::from(bytes.len());
    let body = if fault == Fault::CutBlobs {
        let half = Bytes::copy_from_slice(&bytes[..bytes.len() / 2]);
        let cut = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        Body::from_stream(futures::stream::iter([Ok(half), Err(cut)]))
    } else {
        Body::from(bytes)
    };
    let mut response = plain(StatusCode::OK, body);
    response.headers_mut().insert(CONTENT_LENGTH, length);
    response
}
