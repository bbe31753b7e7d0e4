//! Who may speak for others: front proxies, and nobody else.

use std::sync::Arc;

use axum::body::Body;
use http::Request;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use skiff_apiserver::PeerCertificates;
use skiff_apiserver::authn::{Authentication, RequestHeader, RequestHeaderSettings, Tokens};
use skiff_base::SystemClock;
use skiff_testkit::{TestCertificates, TestCluster};
use tower::ServiceExt as _;

/// The code, and whom the server takes the client for.
async fn who(cluster: &TestCluster, certificate: &str, headers: &[(&str, &str)]) -> (u16, String) {
    let mut request = Request::post("/apis/authentication.k8s.io/v1/selfsubjectreviews");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let mut request = request.body(Body::from(body.to_string())).unwrap();
    let leaf = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    request
        .extensions_mut()
        .insert(PeerCertificates::new(vec![leaf]));
    let answer = cluster.server.service().oneshot(request).await.unwrap();
    let code = answer.status().as_u16();
    let bytes = axum::body::to_bytes(answer.into_body(), usize::MAX)
        .await
        .unwrap();
    let review: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let name = review["status"]["userInfo"]["username"].as_str();
    (code, name.unwrap_or_default().to_owned())
}

#[tokio::test]
async fn only_a_front_proxys_certificate_speaks_for_users() {
    let cluster = TestCluster::start().await.unwrap();
    let (users, proxies) = (
        TestCertificates::new().unwrap(),
        TestCertificates::new().unwrap(),
    );
    let (store, clock) = (cluster.store.clone(), SystemClock::shared());
    let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let tokens = Tokens::new(&key, "https://issuer", store.clone(), clock.clone()).unwrap();
    let known = RequestHeader::new(
        &RequestHeaderSettings::default(),
        proxies.authority_pem(),
        users.authority_pem(),
    );
    let authentication = Authentication::new(Arc::new(tokens), store, clock, true);
    let authentication = authentication.with_front_proxies(known.unwrap());
    cluster.server.set_authenticator(Arc::new(authentication));

    let jane = [
        ("x-remote-user", "jane"),
        ("x-remote-group", "system:masters"),
    ];
    let certificate =
        |of: &TestCertificates, name: &str| of.client(name, &["system:masters"]).unwrap().0;
    let proxy = certificate(&proxies, "front-proxy-client");
    assert_eq!(who(&cluster, &proxy, &jane).await, (201, "jane".to_owned()));
    // Users' own certificates say who they are, whatever the headers say and whatever they are called.
    for name in ["bob", "front-proxy-client"] {
        let own = certificate(&users, name);
        assert_eq!(who(&cluster, &own, &jane).await, (201, name.to_owned()));
    }
    // A front proxy's is nobody's own, and only those that are named are believed.
    assert_eq!(who(&cluster, &proxy, &[]).await.0, 403, "anonymous");
    let other = certificate(&proxies, "other");
    assert_eq!(who(&cluster, &other, &jane).await.0, 401);
    assert_eq!(who(&cluster, &other, &[]).await.0, 401);
    // Nor does any other authority's.
    let strange = certificate(&TestCertificates::new().unwrap(), "front-proxy-client");
    assert_eq!(who(&cluster, &strange, &jane).await.0, 403, "anonymous");
}
