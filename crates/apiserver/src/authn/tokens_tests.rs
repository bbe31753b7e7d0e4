//! Tests of service accounts' tokens.

use super::*;
use skiff_base::SimulatedClock;
use skiff_store::MemoryStore;

async fn tokens() -> (Tokens, Arc<dyn Store>, Arc<SimulatedClock>) {
    let clock = SimulatedClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
    let object = |uid: &str| json!({"metadata": {"uid": uid}}).to_string();
    store
        .create(
            "/registry/serviceaccounts/dev/robot",
            object("u1").into(),
            0,
        )
        .await
        .unwrap();
    store
        .create("/registry/pods/dev/web", object("p1").into(), 0)
        .await
        .unwrap();
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    (
        Tokens::new(&key, "https://issuer", store.clone(), clock.clone()).unwrap(),
        store,
        clock,
    )
}

fn bound(pod_uid: &str) -> Bound {
    let reference = |name: &str, uid: &str| Reference {
        name: name.into(),
        uid: uid.into(),
    };
    Bound {
        namespace: "dev".into(),
        serviceaccount: reference("robot", "u1"),
        pod: Some(reference("web", pod_uid)),
        secret: None,
        node: None,
        warnafter: None,
    }
}

#[tokio::test]
async fn a_token_is_good_until_it_expires_or_its_pod_goes() {
    let (tokens, store, clock) = tokens().await;
    let token = tokens
        .sign_bound(bound("p1"), &[], Duration::from_secs(600))
        .unwrap();
    let here = tokens.audiences().to_vec();
    let verified = tokens.verify(&token, &here).await.unwrap();
    assert_eq!(verified.user.name, "system:serviceaccount:dev:robot");
    assert_eq!(
        verified.user.extra["authentication.kubernetes.io/pod-name"],
        ["web"]
    );
    assert!(matches!(
        tokens.verify(&token, &["elsewhere".into()]).await,
        Err(TokenError::Invalid(_))
    ));
    clock.advance(Duration::from_secs(700));
    assert_eq!(
        tokens.verify(&token, &here).await,
        Err(invalid("service account token has expired"))
    );
    let token = tokens
        .sign_bound(bound("p1"), &[], Duration::from_secs(600))
        .unwrap();
    store.delete("/registry/pods/dev/web", None).await.unwrap();
    assert_eq!(
        tokens.verify(&token, &here).await,
        Err(invalid("service account token has been invalidated"))
    );
}

#[tokio::test]
async fn tokens_of_other_keys_and_for_other_uids_are_refused() {
    let (tokens, ..) = tokens().await;
    let (others, ..) = self::tokens().await;
    let here = tokens.audiences().to_vec();
    let foreign = others
        .sign_bound(bound("p1"), &[], Duration::from_secs(600))
        .unwrap();
    assert_eq!(
        tokens.verify(&foreign, &here).await,
        Err(invalid("invalid signature"))
    );
    let stale = tokens
        .sign_bound(bound("p0"), &[], Duration::from_secs(600))
        .unwrap();
    assert_eq!(
        tokens.verify(&stale, &here).await,
        Err(invalid(
            "pod UID (p1) does not match service account pod ref claim (p0)"
        ))
    );
    assert_eq!(
        tokens.verify("a.b.c", &here).await,
        Err(TokenError::Foreign)
    );
}

#[tokio::test]
async fn a_token_in_a_secret_lives_as_long_as_the_secret_holds_it() {
    let (tokens, store, _) = tokens().await;
    let account = Reference {
        name: "robot".into(),
        uid: "u1".into(),
    };
    let token = tokens
        .issue_for_secret("dev", "robot-token", &account)
        .unwrap();
    let here = tokens.audiences().to_vec();
    assert!(tokens.verify(&token, &here).await.is_err());
    let data = base64::engine::general_purpose::STANDARD.encode(&token);
    let secret = json!({"metadata": {"uid": "s1"}, "data": {"token": data}}).to_string();
    store
        .create("/registry/secrets/dev/robot-token", secret.into(), 0)
        .await
        .unwrap();
    assert_eq!(
        tokens.verify(&token, &here).await.unwrap().user.name,
        "system:serviceaccount:dev:robot"
    );
}
