//! How the controllers end.

use std::sync::Arc;
use std::time::Duration;

use skiff_base::{Random, Shutdown, SystemClock};
use skiff_controllers::ControllersConfig;

/// A server that never answers: the caches are never there.
fn silence() -> kube::Client {
    let service = tower::service_fn(|_: http::Request<kube::client::Body>| async {
        std::future::pending::<Result<http::Response<kube::client::Body>, std::convert::Infallible>>().await
    });
    kube::Client::new(service, "default")
}

#[tokio::test]
async fn controllers_that_still_wait_for_their_caches_stop() {
    let component = skiff_controllers::component(
        silence(),
        Arc::new(|_: &str| silence()),
        ControllersConfig::default(),
        SystemClock::shared(),
        Random::seeded(1),
    );
    let shutdown = Shutdown::new();
    let signal = shutdown.clone();
    let running = tokio::spawn(async move {
        component
            .run(signal)
            .await
            .map_err(|error| error.to_string())
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!running.is_finished());
    shutdown.trigger();
    let ended = tokio::time::timeout(Duration::from_secs(20), running).await;
    ended.expect("they do not end").unwrap().unwrap();
}
