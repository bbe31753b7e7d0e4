use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::StreamExt as _;
use skiff_base::SystemClock;
use skiff_store::{Event, MemoryStore, StoreError, WatchItem};
use tonic::Status;
use tonic::body::Body;

use super::kms::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};
use super::*;

const SECRET: &str = "/registry/secrets/default/a";
const KEY1: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const KEY2: &str = "HwECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

struct Fixture {
    directory: tempfile::TempDir,
    inner: Arc<dyn Store>,
    encryption: Arc<Encryption>,
    store: Arc<dyn Store>,
}

fn configuration(rules: &str) -> String {
    format!(
        "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n{rules}"
    )
}

async fn fixture(rules: &str) -> Fixture {
    let clock = SystemClock::shared();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("encryption.yaml");
    std::fs::write(&path, configuration(rules)).unwrap();
    let inner: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
    let encryption = Encryption::open(&path, clock).await.unwrap();
    let store = encryption.over(inner.clone());
    Fixture {
        directory,
        inner,
        encryption,
        store,
    }
}

impl Fixture {
    async fn change(&self, rules: &str) {
        std::fs::write(
            self.directory.path().join("encryption.yaml"),
            configuration(rules),
        )
        .unwrap();
        assert!(self.encryption.reload().await.unwrap());
    }

    async fn raw(&self, key: &str) -> Bytes {
        self.inner.get(key, None).await.unwrap().unwrap().value
    }

    async fn read(&self, key: &str) -> Result<Bytes, StoreError> {
        Ok(self.store.get(key, None).await?.unwrap().value)
    }
}

fn keys(cipher: &str, keys: &[(&str, &str)]) -> String {
    let keys: Vec<String> = keys
        .iter()
        .map(|(name, secret)| format!("{{name: {name}, secret: {secret}}}"))
        .collect();
    format!("{{{cipher}: {{keys: [{}]}}}}", keys.join(", "))
}

fn secrets(providers: &str) -> String {
    format!("- resources: [secrets]\n  providers: [{providers}]\n")
}

#[tokio::test]
async fn what_is_written_is_ciphertext_and_what_is_read_is_plain() {
    for (cipher, prefix) in [
        ("aesgcm", "k8s:enc:aesgcm:v1:one:"),
        ("aescbc", "k8s:enc:aescbc:v1:one:"),
        ("secretbox", "k8s:enc:secretbox:v1:one:"),
    ] {
        let f = fixture(&secrets(&keys(cipher, &[("one", KEY1)]))).await;
        let mut watch = f.store.watch("", 0).await.unwrap();
        let revision = f
            .store
            .create(SECRET, "{\"hidden\":1}".into(), 0)
            .await
            .unwrap();
        let raw = f.raw(SECRET).await;
        assert!(raw.starts_with(prefix.as_bytes()), "{raw:?}");
        assert!(!raw.windows(6).any(|window| window == b"hidden"));
        assert_eq!(f.read(SECRET).await.unwrap(), "{\"hidden\":1}");
        let range = f
            .store
            .range("/registry/secrets/", None, 0, None)
            .await
            .unwrap();
        assert_eq!(range.items[0].value, "{\"hidden\":1}");
        let Some(Ok(WatchItem::Events(events))) = watch.next().await else {
            panic!("no event")
        };
        let Event::Put { current, .. } = &events[0] else {
            panic!("no put")
        };
        assert_eq!(current.value, "{\"hidden\":1}");
        match f.store.create(SECRET, "{}".into(), 0).await {
            Err(StoreError::Exists(kv)) => assert_eq!(kv.value, "{\"hidden\":1}"),
            other => panic!("{other:?}"),
        }
        match f.store.update(SECRET, "{}".into(), revision + 1, 0).await {
            Err(StoreError::Conflict(Some(kv))) => assert_eq!(kv.value, "{\"hidden\":1}"),
            other => panic!("{other:?}"),
        }
        f.store
            .update(SECRET, "{\"hidden\":2}".into(), revision, 0)
            .await
            .unwrap();
        assert_eq!(f.read(SECRET).await.unwrap(), "{\"hidden\":2}");
        // Other kinds are not touched.
        f.store
            .create("/registry/configmaps/default/a", "{}".into(), 0)
            .await
            .unwrap();
        assert_eq!(f.raw("/registry/configmaps/default/a").await, "{}");
    }
}

#[tokio::test]
async fn a_value_moved_to_another_key_is_not_read() {
    let f = fixture(&secrets(&keys("aesgcm", &[("one", KEY1)]))).await;
    f.store.create(SECRET, "{}".into(), 0).await.unwrap();
    let raw = f.raw(SECRET).await;
    f.inner
        .create("/registry/secrets/default/b", raw, 0)
        .await
        .unwrap();
    let error = f.read("/registry/secrets/default/b").await.unwrap_err();
    assert!(
        error.to_string().contains("message authentication failed"),
        "{error}"
    );
}

#[tokio::test]
async fn keys_are_rotated_while_running() {
    let f = fixture(&secrets("{identity: {}}")).await;
    f.store.create(SECRET, "{}".into(), 0).await.unwrap();
    assert_eq!(f.raw(SECRET).await, "{}");
    assert!(!f.store.wants_rewrite(SECRET).await.unwrap());

    let one = keys("aesgcm", &[("one", KEY1)]);
    f.change(&secrets(&format!("{one}, {{identity: {{}}}}")))
        .await;
    assert_eq!(f.read(SECRET).await.unwrap(), "{}");
    assert!(f.store.wants_rewrite(SECRET).await.unwrap());
    let revision = f
        .store
        .get(SECRET, None)
        .await
        .unwrap()
        .unwrap()
        .mod_revision;
    let revision = f
        .store
        .update(SECRET, "{}".into(), revision, 0)
        .await
        .unwrap();
    assert!(f.raw(SECRET).await.starts_with(b"k8s:enc:aesgcm:v1:one:"));
    assert!(!f.store.wants_rewrite(SECRET).await.unwrap());

    f.change(&secrets(&keys("aesgcm", &[("two", KEY2), ("one", KEY1)])))
        .await;
    assert!(f.store.wants_rewrite(SECRET).await.unwrap());
    f.store
        .update(SECRET, "{}".into(), revision, 0)
        .await
        .unwrap();
    assert!(f.raw(SECRET).await.starts_with(b"k8s:enc:aesgcm:v1:two:"));

    // The key is gone: it is said, and nothing is made up.
    f.change(&secrets(&one)).await;
    let error = f.read(SECRET).await.unwrap_err().to_string();
    assert!(
        error.contains("no matching key was found for the provided AES transformer"),
        "{error}"
    );
    assert!(
        error.contains("unable to transform key \"/registry/secrets/default/a\""),
        "{error}"
    );
}

#[tokio::test]
async fn the_same_name_with_another_key_is_tried_in_turn() {
    let f = fixture(&secrets(&keys("aescbc", &[("k", KEY1)]))).await;
    f.store
        .create(SECRET, "{\"a\":\"b\"}".into(), 0)
        .await
        .unwrap();
    let both = format!(
        "{}, {}",
        keys("aesgcm", &[("k", KEY2)]),
        keys("aescbc", &[("k", KEY1)])
    );
    f.change(&secrets(&both)).await;
    assert_eq!(f.read(SECRET).await.unwrap(), "{\"a\":\"b\"}");
}

#[tokio::test]
async fn plain_text_is_refused_where_identity_is_not_allowed() {
    let f = fixture(&secrets("{identity: {}}")).await;
    f.store.create(SECRET, "{}".into(), 0).await.unwrap();
    f.change(&secrets(&keys("aesgcm", &[("one", KEY1)]))).await;
    let error = f.read(SECRET).await.unwrap_err().to_string();
    assert!(error.ends_with("no matching prefix found"), "{error}");
}

#[tokio::test]
async fn rules_find_their_resources() {
    let gcm = keys("aesgcm", &[("k", KEY1)]);
    let rules = format!(
        "- resources: [deployments.apps]\n  providers: [{{identity: {{}}}}]\n- resources: ['*.apps', events, '*.example.com']\n  providers: [{gcm}]\n"
    );
    let f = fixture(&rules).await;
    for (key, encrypted) in [
        ("/registry/deployments/default/a", false),
        ("/registry/daemonsets/default/a", true),
        ("/registry/events/default/a", true),
        ("/registry/pods/default/a", false),
        ("/registry/example.com/widgets/default/a", true),
        ("/registry/other.com/widgets/default/a", false),
    ] {
        f.store.create(key, "{}".into(), 0).await.unwrap();
        assert_eq!(f.raw(key).await != "{}", encrypted, "{key}");
        assert_eq!(f.read(key).await.unwrap(), "{}");
    }
    let everything = format!("- resources: ['*.*']\n  providers: [{gcm}, {{identity: {{}}}}]\n");
    let f = fixture(&everything).await;
    for key in [
        "/registry/services/specs/default/a",
        "/registry/apiregistration.k8s.io/apiservices/a",
        "/registry/other.com/widgets/default/a",
    ] {
        f.store.create(key, "{}".into(), 0).await.unwrap();
        assert!(
            f.raw(key).await.starts_with(b"k8s:enc:aesgcm:v1:k:"),
            "{key}"
        );
    }
}

#[tokio::test]
async fn a_bad_file_leaves_the_old_rules() {
    let f = fixture(&secrets(&keys("aesgcm", &[("one", KEY1)]))).await;
    f.store.create(SECRET, "{}".into(), 0).await.unwrap();
    std::fs::write(f.directory.path().join("encryption.yaml"), "kind: Nonsense").unwrap();
    assert!(f.encryption.reload().await.is_err());
    assert_eq!(f.read(SECRET).await.unwrap(), "{}");
}

#[tokio::test]
async fn a_change_of_the_file_is_followed() {
    let f = fixture(&secrets("{identity: {}}")).await;
    let shutdown = Shutdown::new();
    tokio::spawn(f.encryption.clone().follow(shutdown.child()));
    let gcm = keys("aesgcm", &[("one", KEY1)]);
    let fresh = f.directory.path().join("fresh");
    let mut tries = 0;
    // The watcher may not be there yet when the file changes first: change it again.
    while f.encryption.rules.load().writers(SECRET).is_none() {
        std::fs::write(
            &fresh,
            configuration(&secrets(&format!("{gcm}, {{identity: {{}}}}"))),
        )
        .unwrap();
        std::fs::rename(&fresh, f.directory.path().join("encryption.yaml")).unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        tries += 1;
        assert!(tries < 500, "the change was not noticed");
    }
    shutdown.trigger();
}

#[tokio::test]
async fn the_generated_configuration_encrypts_secrets_and_keeps_its_key() {
    use std::os::unix::fs::PermissionsExt as _;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("encryption.yaml");
    generate(&path).unwrap();
    let first = std::fs::read_to_string(&path).unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    generate(&path).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), first);
    let clock = SystemClock::shared();
    let inner: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
    inner
        .create("/registry/secrets/default/old", "{}".into(), 0)
        .await
        .unwrap();
    let store = Encryption::open(&path, clock)
        .await
        .unwrap()
        .over(inner.clone());
    store.create(SECRET, "{}".into(), 0).await.unwrap();
    let raw = inner.get(SECRET, None).await.unwrap().unwrap().value;
    assert!(raw.starts_with(b"k8s:enc:aesgcm:v1:key1:"));
    let old = store
        .get("/registry/secrets/default/old", None)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(old.value, "{}");
}

/// A key management service that turns bytes round, and counts.
#[derive(Default)]
struct Service {
    key: AtomicUsize,
    decrypted: AtomicUsize,
    encrypted: AtomicUsize,
    ill: std::sync::atomic::AtomicBool,
}

fn turned(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| byte ^ 0x5a).collect()
}

/// One method of the service.
struct Method<F>(F);

impl<Q, A, F> tonic::server::UnaryService<Q> for Method<F>
where
    F: Fn(Q) -> Result<A, Status>,
{
    type Response = A;
    type Future = futures::future::Ready<Result<tonic::Response<A>, Status>>;

    fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
        futures::future::ready(self.0(request.into_inner()).map(tonic::Response::new))
    }
}

impl Service {
    fn name(&self) -> String {
        format!("key-{}", self.key.load(Ordering::Relaxed))
    }

    async fn answer(
        self: Arc<Self>,
        request: http::Request<hyper::body::Incoming>,
    ) -> http::Response<Body> {
        let request = request.map(Body::new);
        match request.uri().path() {
            "/v2.KeyManagementService/Status" => {
                let method = Method(|_: StatusRequest| {
                    let healthz = if self.ill.load(Ordering::Relaxed) {
                        "ill"
                    } else {
                        "ok"
                    };
                    Ok(StatusResponse {
                        version: "v2".into(),
                        healthz: healthz.into(),
                        key_id: self.name(),
                    })
                });
                let mut grpc = tonic::server::Grpc::new(tonic_prost::ProstCodec::default());
                grpc.unary(method, request).await
            }
            "/v2.KeyManagementService/Encrypt" => {
                let method = Method(|request: EncryptRequest| {
                    self.encrypted.fetch_add(1, Ordering::Relaxed);
                    Ok(EncryptResponse {
                        ciphertext: turned(&request.plaintext),
                        key_id: self.name(),
                        annotations: [("local.kms.example.com".to_owned(), vec![1])].into(),
                    })
                });
                let mut grpc = tonic::server::Grpc::new(tonic_prost::ProstCodec::default());
                grpc.unary(method, request).await
            }
            _ => {
                let method = Method(|request: DecryptRequest| {
                    self.decrypted.fetch_add(1, Ordering::Relaxed);
                    if request.annotations.len() != 1 {
                        return Err(Status::invalid_argument("no annotations"));
                    }
                    Ok(DecryptResponse {
                        plaintext: turned(&request.ciphertext),
                    })
                });
                let mut grpc = tonic::server::Grpc::new(tonic_prost::ProstCodec::default());
                grpc.unary(method, request).await
            }
        }
    }

    fn serve(self: &Arc<Self>, socket: &Path) {
        let listener = tokio::net::UnixListener::bind(socket).unwrap();
        let service = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service.clone();
                let answering = hyper::service::service_fn(move |request| {
                    let service = service.clone();
                    async move { Ok::<_, std::convert::Infallible>(service.answer(request).await) }
                });
                tokio::spawn(async move {
                    let io = hyper_util::rt::TokioIo::new(stream);
                    let executor = hyper_util::rt::TokioExecutor::new();
                    let _ = hyper::server::conn::http2::Builder::new(executor)
                        .serve_connection(io, answering)
                        .await;
                });
            }
        });
    }
}

fn kms(name: &str, socket: &Path) -> String {
    format!(
        "{{kms: {{apiVersion: v2, name: {name}, endpoint: 'unix://{}'}}}}",
        socket.display()
    )
}

#[tokio::test]
async fn a_key_management_service_is_asked_once_per_seed() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("kms.sock");
    let service = Arc::new(Service::default());
    service.serve(&socket);
    let rules = secrets(&format!("{}, {{identity: {{}}}}", kms("local", &socket)));
    let f = fixture(&rules).await;
    assert_eq!(f.encryption.ailment(), None);
    for name in ["a", "b", "c"] {
        let key = format!("/registry/secrets/default/{name}");
        f.store.create(&key, "{}".into(), 0).await.unwrap();
        assert!(f.raw(&key).await.starts_with(b"k8s:enc:kms:v2:local:"));
        assert_eq!(f.read(&key).await.unwrap(), "{}");
    }
    let counts = |service: &Service| {
        (
            service.encrypted.load(Ordering::Relaxed),
            service.decrypted.load(Ordering::Relaxed),
        )
    };
    assert_eq!(counts(&service), (1, 0));

    // A new start: the seed of the old one is decrypted once for all values.
    let path = f.directory.path().join("encryption.yaml");
    let again = Encryption::open(&path, SystemClock::shared())
        .await
        .unwrap();
    let store = again.over(f.inner.clone());
    assert_eq!(
        store
            .range("/registry/secrets/", None, 0, None)
            .await
            .unwrap()
            .items
            .len(),
        3
    );
    assert_eq!(counts(&service), (2, 1));
    assert!(!store.wants_rewrite(SECRET).await.unwrap());

    // Another key: what is there is stale, and rewritten with the new one.
    service.key.store(7, Ordering::Relaxed);
    let again = Encryption::open(&path, SystemClock::shared())
        .await
        .unwrap();
    let store = again.over(f.inner.clone());
    assert!(store.wants_rewrite(SECRET).await.unwrap());
}

#[tokio::test]
async fn a_service_that_is_not_well_is_said() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("kms.sock");
    let f = fixture(&secrets(&kms("gone", &socket))).await;
    assert!(
        f.encryption
            .ailment()
            .unwrap()
            .contains("kmsv2 Provider gone is not healthy")
    );
    assert!(f.store.create(SECRET, "{}".into(), 0).await.is_err());
    assert_eq!(f.inner.revision().await.unwrap(), 0, "nothing is written");

    let service = Arc::new(Service::default());
    service.ill.store(true, Ordering::Relaxed);
    service.serve(&socket);
    let f = fixture(&secrets(&kms("ill", &socket))).await;
    assert!(
        f.encryption
            .ailment()
            .unwrap()
            .contains("got unexpected healthz status: ill")
    );
}
