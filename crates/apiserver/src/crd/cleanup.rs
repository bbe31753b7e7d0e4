//! The end of a definition: its instances are deleted first.

use std::sync::Arc;

use http::Method;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use skiff_api::apiextensions::naming::{self, CLEANUP_FINALIZER, Cleanup};

use super::definitions::put_status;
use crate::cache::Trigger;
use crate::kubernetes_service::call;
use crate::request::UserInfo;
use crate::server::ApiServer;

/// Deletes all instances of a definition, waits until they are gone and takes the finalizer. The definition may be
/// written by others meanwhile: it is read anew for each step.
pub(super) async fn clean_up(
    server: &Arc<ApiServer>,
    user: &Arc<UserInfo>,
    crd: CustomResourceDefinition,
) {
    let name = crd.metadata.name.clone().unwrap_or_default();
    let established = naming::holds(&crd, "Established");
    let uid = crd.metadata.uid.clone();
    let mut wanted = if established {
        Cleanup::InProgress
    } else {
        Cleanup::NeverEstablished
    };
    loop {
        let Some(mut now) = read(server, user, &name).await else {
            return;
        };
        if now.metadata.uid != uid {
            return;
        }
        let status = now.status.get_or_insert_default();
        naming::set_terminating(status, &wanted, server.now());
        let done = matches!(wanted, Cleanup::Completed | Cleanup::NeverEstablished);
        if done && let Some(finalizers) = &mut now.metadata.finalizers {
            finalizers.retain(|finalizer| finalizer != CLEANUP_FINALIZER);
        }
        let written = put_status(server, user, &now).await.is_some();
        match wanted {
            _ if !written => {}
            Cleanup::Completed | Cleanup::NeverEstablished => return,
            Cleanup::InProgress | Cleanup::Failed(_) => {
                wanted = match delete_instances(server, user, &crd).await {
                    Ok(()) => Cleanup::Completed,
                    Err(error) => {
                        server.clock.sleep(super::definitions::RETRY).await;
                        Cleanup::Failed(error)
                    }
                };
            }
        }
    }
}

async fn read(
    server: &Arc<ApiServer>,
    user: &Arc<UserInfo>,
    name: &str,
) -> Option<CustomResourceDefinition> {
    let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}");
    let (code, answer) = call(server, user, Method::GET, &path, None).await;
    code.is_success()
        .then(|| serde_json::from_value(answer).ok())?
}

/// Deletes the instances and waits until none is left.
async fn delete_instances(
    server: &Arc<ApiServer>,
    user: &Arc<UserInfo>,
    crd: &CustomResourceDefinition,
) -> Result<(), String> {
    let (group, plural) = (&crd.spec.group, &crd.spec.names.plural);
    loop {
        let registry = server.registry.load_full();
        let Some(resource) = registry.custom(group, plural).next().cloned() else {
            return Ok(());
        };
        let version = &resource.kind.version;
        let cache = server
            .hub_cache(&resource)
            .await
            .map_err(|error| error.message)?;
        let changes = cache.subscribe(Trigger::Any);
        let (entries, _) = cache.list(cache.prefix(), None, 0);
        if entries.is_empty() {
            return Ok(());
        }
        for entry in entries {
            let path = match resource.namespaced() {
                true => format!(
                    "/apis/{group}/{version}/namespaces/{}/{plural}/{}",
                    entry.namespace(),
                    entry.name()
                ),
                false => format!("/apis/{group}/{version}/{plural}/{}", entry.name()),
            };
            let (code, answer) = call(server, user, Method::DELETE, &path, None).await;
            if !code.is_success() && code != http::StatusCode::NOT_FOUND {
                return Err(answer["message"].as_str().unwrap_or_default().to_owned());
            }
        }
        // Instances with finalizers go when those who hold them let go.
        let (left, _) = cache.list(cache.prefix(), None, 1);
        if !left.is_empty() {
            changes.changed().await;
        }
    }
}
