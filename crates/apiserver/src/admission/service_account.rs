//! ServiceAccount: every pod runs as a service account and gets its token mounted.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ServiceAccount, Volume, VolumeMount};
use serde_json::json;
use skiff_api::{ApiError, ApiResult, Object, ObjectExt};

use super::{Admission, AdmissionRequest, Operation};

const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
const MIRROR: &str = "kubernetes.io/config.mirror";
/// A little more than an hour: upstream's number, by which its own tokens are told from those of others.
const EXPIRATION: i64 = 3607;

pub(crate) struct ServiceAccountAdmission;

#[async_trait]
impl Admission for ServiceAccountAdmission {
    async fn mutate(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut dyn Object,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        if request.operation != Operation::Create || !request.is("", "pods") {
            return Ok(());
        }
        let Some(pod) = object.downcast_mut::<Pod>() else {
            return Ok(());
        };
        let mirror = pod
            .metadata
            .annotations
            .as_ref()
            .is_some_and(|map| map.contains_key(MIRROR));
        let spec = pod.spec.get_or_insert_default();
        if mirror {
            return check_mirror(request, spec);
        }
        if spec
            .service_account_name
            .as_deref()
            .unwrap_or_default()
            .is_empty()
        {
            spec.service_account_name = Some("default".to_owned());
        }
        let name = spec.service_account_name.clone().unwrap_or_default();
        spec.service_account = Some(name.clone());
        let account = account(request, &name).await?;
        let automount = spec
            .automount_service_account_token
            .or(account.automount_service_account_token);
        if automount.unwrap_or(true) {
            mount_token(spec, &request.call.server.random.name_suffix(5))?;
        }
        if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
            spec.image_pull_secrets = account
                .image_pull_secrets
                .filter(|secrets| !secrets.is_empty());
        }
        Ok(())
    }
}

/// A static pod's mirror cannot use what only the API gives.
fn check_mirror(request: &AdmissionRequest<'_>, spec: &PodSpec) -> ApiResult<()> {
    if !spec
        .service_account_name
        .as_deref()
        .unwrap_or_default()
        .is_empty()
    {
        return Err(request.forbidden("a mirror pod may not reference service accounts"));
    }
    let projected = spec
        .volumes
        .iter()
        .flatten()
        .filter_map(|volume| volume.projected.as_ref());
    let mut sources = projected.flat_map(|projected| projected.sources.iter().flatten());
    if sources.any(|source| source.service_account_token.is_some()) {
        return Err(
            request.forbidden("a mirror pod may not use ServiceAccountToken volume projections")
        );
    }
    Ok(())
}

async fn account(request: &AdmissionRequest<'_>, name: &str) -> ApiResult<ServiceAccount> {
    let found = request.find("", "serviceaccounts", request.namespace, name);
    found.await?.ok_or_else(|| {
        request.forbidden(&format!(
            "error looking up service account {}/{name}: serviceaccount {name:?} not found",
            request.namespace
        ))
    })
}

fn mount_token(spec: &mut PodSpec, suffix: &str) -> ApiResult<()> {
    let mounted = |container: &Container| {
        container
            .volume_mounts
            .iter()
            .flatten()
            .any(|mount| mount.mount_path == MOUNT_PATH)
    };
    let existing = spec
        .volumes
        .iter()
        .flatten()
        .find(|volume| volume.name.starts_with(VOLUME_PREFIX));
    let name = existing.map_or_else(
        || format!("{VOLUME_PREFIX}{suffix}"),
        |volume| volume.name.clone(),
    );
    let mut used = false;
    for container in spec
        .init_containers
        .iter_mut()
        .flatten()
        .chain(&mut spec.containers)
    {
        if !mounted(container) {
            used = true;
            container
                .volume_mounts
                .get_or_insert_default()
                .push(VolumeMount {
                    name: name.clone(),
                    mount_path: MOUNT_PATH.to_owned(),
                    read_only: Some(true),
                    ..VolumeMount::default()
                });
        }
    }
    if used && existing_volume(spec, &name).is_none() {
        spec.volumes
            .get_or_insert_default()
            .push(token_volume(&name)?);
    }
    Ok(())
}

fn existing_volume<'a>(spec: &'a PodSpec, name: &str) -> Option<&'a Volume> {
    spec.volumes
        .iter()
        .flatten()
        .find(|volume| volume.name == name)
}

fn token_volume(name: &str) -> ApiResult<Volume> {
    serde_json::from_value(json!({
        "name": name,
        "projected": {
            "defaultMode": 0o644,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": EXPIRATION, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [
                    {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}},
                ]}},
            ],
        },
    }))
    .map_err(ApiError::internal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_the_token_once_where_nothing_is_mounted() {
        let mut spec: PodSpec = serde_json::from_value(json!({
            "initContainers": [{"name": "i"}],
            "containers": [{"name": "a"}, {"name": "b", "volumeMounts": [{"name": "x", "mountPath": MOUNT_PATH}]}],
        }))
        .unwrap();
        mount_token(&mut spec, "abcde").unwrap();
        mount_token(&mut spec, "fghij").unwrap();
        let volumes = spec.volumes.as_ref().unwrap();
        assert_eq!(volumes.len(), 1);
        assert_eq!(volumes[0].name, "kube-api-access-abcde");
        for container in spec
            .init_containers
            .iter()
            .flatten()
            .chain(&spec.containers)
        {
            assert_eq!(
                container.volume_mounts.as_ref().unwrap().len(),
                1,
                "{}",
                container.name
            );
        }
    }
}
