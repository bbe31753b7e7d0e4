//! Since when the uses of service accounts' legacy tokens are noted: a ConfigMap says it to the controller that cleans them up.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use http::{Method, StatusCode};
use jiff::civil::Date;
use serde_json::{Value, json};
use skiff_store::WatchItem;

use crate::kubernetes_service::call;
use crate::request::UserInfo;
use crate::server::ApiServer;

const COLLECTION: &str = "/api/v1/namespaces/kube-system/configmaps";
const NAME: &str = "kube-apiserver-legacy-service-account-token-tracking";
const KEY: &str =
    "/registry/configmaps/kube-system/kube-apiserver-legacy-service-account-token-tracking";
const SINCE: &str = "since";
const RETRY: Duration = Duration::from_millis(200);
/// Servers of which some know the ConfigMap and some do not would make and delete it in turns: it is made no more often.
const BETWEEN_MAKINGS: Duration = Duration::from_secs(30 * 60);

/// Keeps it until the server stops.
pub(crate) async fn keep(server: Arc<ApiServer>) {
    tokio::select! {
        () = follow(&server) => {}
        () = server.shutdown.triggered() => {}
    }
}

async fn follow(server: &Arc<ApiServer>) {
    let user = Arc::new(UserInfo::new("system:apiserver", &["system:masters"]));
    let mut next_making = Duration::ZERO;
    loop {
        let changes = match server.store.revision().await {
            Ok(revision) => server.store.watch(KEY, revision).await.ok(),
            Err(_) => None,
        };
        let changed = async {
            match changes {
                Some(mut changes) => {
                    while let Some(Ok(WatchItem::Progress(_))) = changes.next().await {}
                }
                None => server.clock.sleep(RETRY).await,
            }
        };
        match reconcile(server, &user, &mut next_making).await {
            Outcome::Fine => changed.await,
            Outcome::Later(pause) => tokio::select! {
                () = changed => {}
                () = server.clock.sleep(pause) => {}
            },
        }
    }
}

enum Outcome {
    Fine,
    Later(Duration),
}

/// Whether the ConfigMap says a date.
fn is_dated(object: &Value) -> bool {
    let since = object["data"][SINCE].as_str();
    since.is_some_and(|since| since.len() == 10 && since.parse::<Date>().is_ok())
}

async fn reconcile(
    server: &Arc<ApiServer>,
    user: &Arc<UserInfo>,
    next_making: &mut Duration,
) -> Outcome {
    let path = format!("{COLLECTION}/{NAME}");
    let (code, mut have) = call(server, user, Method::GET, &path, None).await;
    let today = server.now().strftime("%Y-%m-%d").to_string();
    let written = if code == StatusCode::NOT_FOUND {
        let now = server.clock.monotonic();
        if now < *next_making {
            return Outcome::Later(*next_making - now);
        }
        let object =
            json!({"metadata": {"name": NAME, "namespace": "kube-system"}, "data": {SINCE: today}});
        let (code, _) = call(server, user, Method::POST, COLLECTION, Some(&object)).await;
        if code.is_success() {
            *next_making = now + BETWEEN_MAKINGS;
        }
        code
    } else if code.is_success() && !is_dated(&have) {
        if !have["data"].is_object() {
            have["data"] = json!({});
        }
        have["data"][SINCE] = today.into();
        call(server, user, Method::PUT, &path, Some(&have)).await.0
    } else {
        code
    };
    // The namespace may not be there yet; another server may have been faster.
    match written.is_success() || written == StatusCode::CONFLICT {
        true => Outcome::Fine,
        false => Outcome::Later(RETRY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_date_says_since_when() {
        for (since, dated) in [
            (json!("2026-11-21"), true),
            (json!("2026-11-31"), false),
            (json!("2026-11-21T00:00:00"), false),
            (json!("yesterday"), false),
            (Value::Null, false),
        ] {
            assert_eq!(
                is_dated(&json!({"data": {"since": since}})),
                dated,
                "{since}"
            );
        }
        assert!(!is_dated(&json!({})));
    }
}
