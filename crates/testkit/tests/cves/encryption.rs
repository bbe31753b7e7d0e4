//! Secrets at rest, below a whole API server.

use std::sync::Arc;

use serde_json::{Value, json};
use skiff_apiserver::encryption::{Encryption, generate};
use skiff_base::SystemClock;
use skiff_store::{MemoryStore, Store};
use skiff_testkit::{TestCluster, TestOptions};

use crate::asking::ask;

const SECRETS: &str = "/api/v1/namespaces/default/secrets";

async fn cluster(inner: Arc<dyn Store>, path: &std::path::Path) -> (TestCluster, Arc<Encryption>) {
    let encryption = Encryption::open(path, SystemClock::shared()).await.unwrap();
    let options = TestOptions {
        store: Some(encryption.over(inner)),
        ..TestOptions::default()
    };
    let cluster = TestCluster::start_with(options).await.unwrap();
    cluster.server.set_encryption(encryption.clone());
    (cluster, encryption)
}

#[tokio::test]
async fn a_secret_lies_encrypted_and_is_read_and_watched_in_plain() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("encryption.yaml");
    generate(&path).unwrap();
    let inner: Arc<dyn Store> = Arc::new(MemoryStore::new(SystemClock::shared()));
    let (first, _) = cluster(inner.clone(), &path).await;
    let secret = json!({"metadata": {"name": "s"}, "data": {"password": "aHVudGVyMg=="}});
    assert_eq!(ask(&first.server, "POST", SECRETS, &secret).await.code, 201);
    let read = ask(&first.server, "GET", &format!("{SECRETS}/s"), &Value::Null).await;
    assert_eq!(read.json()["data"], secret["data"]);
    let raw = inner
        .get("/registry/secrets/default/s", None)
        .await
        .unwrap()
        .unwrap();
    assert!(raw.value.starts_with(b"k8s:enc:aesgcm:v1:key1:"));

    // Another server over the same store, as after a restart.
    drop(first);
    let (second, encryption) = cluster(inner.clone(), &path).await;
    let list = ask(&second.server, "GET", SECRETS, &Value::Null).await;
    assert_eq!(list.json()["items"][0]["data"], secret["data"]);

    // A new key first: a write that changes nothing rewrites, a second one does not.
    let text = std::fs::read_to_string(&path).unwrap();
    let key = "- name: key2\n        secret: AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n      - name: key1";
    std::fs::write(&path, text.replace("- name: key1", key)).unwrap();
    assert!(encryption.reload().await.unwrap());
    let object = ask(&second.server, "GET", &format!("{SECRETS}/s"), &Value::Null)
        .await
        .json();
    assert_eq!(
        ask(&second.server, "PUT", &format!("{SECRETS}/s"), &object)
            .await
            .code,
        200
    );
    let raw = inner
        .get("/registry/secrets/default/s", None)
        .await
        .unwrap()
        .unwrap();
    assert!(raw.value.starts_with(b"k8s:enc:aesgcm:v1:key2:"));
    let object = ask(&second.server, "GET", &format!("{SECRETS}/s"), &Value::Null)
        .await
        .json();
    assert_eq!(
        ask(&second.server, "PUT", &format!("{SECRETS}/s"), &object)
            .await
            .code,
        200
    );
    let again = inner
        .get("/registry/secrets/default/s", None)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(again.mod_revision, raw.mod_revision);
}

#[tokio::test]
async fn a_secret_whose_key_is_lost_is_said_and_other_kinds_go_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("encryption.yaml");
    generate(&path).unwrap();
    let inner: Arc<dyn Store> = Arc::new(MemoryStore::new(SystemClock::shared()));
    let (first, _) = cluster(inner.clone(), &path).await;
    let secret = json!({"metadata": {"name": "s"}});
    assert_eq!(ask(&first.server, "POST", SECRETS, &secret).await.code, 201);
    drop(first);
    std::fs::remove_file(&path).unwrap();
    generate(&path).unwrap();
    let (second, _) = cluster(inner, &path).await;
    let answer = ask(&second.server, "GET", SECRETS, &Value::Null).await;
    assert_eq!(answer.code, 500);
    assert!(
        answer.message().contains("unable to transform key \"/registry/secrets/default/s\": cipher: message authentication failed"),
        "{}",
        answer.message()
    );
    let answer = ask(&second.server, "GET", "/api/v1/configmaps", &Value::Null).await;
    assert_eq!(answer.code, 200);
}
