//! The ConfigMap from which aggregated servers learn whom to believe: `kube-system/extension-apiserver-authentication`.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use skiff_store::WatchItem;

use super::FrontProxy;
use crate::kubernetes_service::call;
use crate::request::UserInfo;
use crate::server::ApiServer;

const COLLECTION: &str = "/api/v1/namespaces/kube-system/configmaps";
const NAME: &str = "extension-apiserver-authentication";
const KEY: &str = "/registry/configmaps/kube-system/extension-apiserver-authentication";
const RETRY: Duration = Duration::from_millis(200);

fn data(proxy: &FrontProxy) -> Value {
    let list = |names: &[String]| json!(names).to_string();
    let headers = &proxy.headers;
    json!({
        "client-ca-file": proxy.client_authority_pem,
        "requestheader-allowed-names": list(&headers.allowed_names),
        "requestheader-client-ca-file": proxy.authority_pem,
        "requestheader-extra-headers-prefix": list(&headers.extra_headers_prefix),
        "requestheader-group-headers": list(&headers.group_headers),
        "requestheader-uid-headers": list(&headers.uid_headers),
        "requestheader-username-headers": list(&headers.username_headers),
    })
}

/// Makes it, and makes it again when someone changes it.
pub(super) async fn run(server: &Arc<ApiServer>) {
    let user = Arc::new(UserInfo::new("system:apiserver", &["system:masters"]));
    loop {
        let Some(proxy) = server.aggregation.front_proxy() else {
            server.clock.sleep(RETRY).await;
            continue;
        };
        let revision = server.store.revision().await.ok();
        let changes = match revision {
            Some(revision) => server.store.watch(KEY, revision).await.ok(),
            None => None,
        };
        let fine = reconcile(server, &user, &data(&proxy)).await;
        match changes {
            Some(mut changes) if fine => {
                while let Some(Ok(WatchItem::Progress(_))) = changes.next().await {}
            }
            // The namespace may not be there yet.
            _ => server.clock.sleep(RETRY).await,
        }
    }
}

async fn reconcile(server: &Arc<ApiServer>, user: &Arc<UserInfo>, data: &Value) -> bool {
    let path = format!("{COLLECTION}/{NAME}");
    let (code, mut have) = call(server, user, Method::GET, &path, None).await;
    let (code, _) = if code == StatusCode::NOT_FOUND {
        let object = json!({"metadata": {"name": NAME, "namespace": "kube-system"}, "data": data});
        call(server, user, Method::POST, COLLECTION, Some(&object)).await
    } else if code.is_success() && have["data"] != *data {
        have["data"] = data.clone();
        call(server, user, Method::PUT, &path, Some(&have)).await
    } else {
        return code.is_success();
    };
    code.is_success()
}
