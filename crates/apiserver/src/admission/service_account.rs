//! ServiceAccount: every pod runs as a service account and gets its token mounted.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{
    Container, EnvFromSource, EnvVar, Pod, PodSpec, ServiceAccount, Volume, VolumeMount,
};
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

    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&dyn Object>,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        let kind = &request.resource.kind;
        let ephemeral =
            request.operation == Operation::Update && request.subresource == "ephemeralcontainers";
        let create = request.operation == Operation::Create && request.subresource.is_empty();
        if kind.plural != "pods" || !kind.group.is_empty() || !(ephemeral || create) {
            return Ok(());
        }
        let pod: Option<&Pod> = object.and_then(|object| object.downcast_ref());
        let Some(pod) = pod else { return Ok(()) };
        let annotations = pod.metadata.annotations.as_ref();
        if annotations.is_some_and(|all| all.contains_key(MIRROR)) {
            return Ok(());
        }
        let spec = pod.spec.clone().unwrap_or_default();
        let Some(name) = spec
            .service_account_name
            .as_ref()
            .filter(|name| !name.is_empty())
        else {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            return Err(request.forbidden(&format!(
                "no service account specified for pod {}/{name}",
                request.namespace
            )));
        };
        let refusal = match ephemeral {
            true => ephemeral_secret,
            false => secret,
        };
        // A pod that an account with nothing may run needs no look at its own.
        if refusal(&spec, &ServiceAccount::default()).is_none() {
            return Ok(());
        }
        let account = account(request, name).await?;
        let refused = enforces(&account)
            .then(|| refusal(&spec, &account))
            .flatten();
        match refused {
            Some(why) => Err(request.forbidden(&why)),
            None => Ok(()),
        }
    }
}

/// Whether pods of the account name those secrets only that the account lists.
fn enforces(account: &ServiceAccount) -> bool {
    let annotations = account.metadata.annotations.as_ref();
    let value = annotations.and_then(|all| all.get("kubernetes.io/enforce-mountable-secrets"));
    value.is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"))
}

fn lists(account: &ServiceAccount, secret: &str) -> bool {
    let mut listed = account.secrets.iter().flatten();
    listed.any(|listed| listed.name.as_deref() == Some(secret))
}

fn not_listed(what: &str, secret: &str, account: &ServiceAccount) -> String {
    format!(
        "{what} secret.secretName=\"{secret}\" is not allowed because service account {} does not reference that secret",
        account.metadata.name.as_deref().unwrap_or_default()
    )
}

/// The first secret in a container's environment that the account does not list.
fn environment_secret(
    what: &str,
    env: Option<&[EnvVar]>,
    env_from: Option<&[EnvFromSource]>,
    account: &ServiceAccount,
) -> Option<String> {
    for variable in env.unwrap_or_default() {
        let source = variable.value_from.as_ref();
        let secret = source.and_then(|source| source.secret_key_ref.as_ref());
        if let Some(secret) = secret.filter(|secret| !lists(account, &secret.name)) {
            let what = format!("{what} with envVar {} referencing", variable.name);
            return Some(not_listed(&what, &secret.name, account));
        }
    }
    for source in env_from.unwrap_or_default() {
        let secret = source.secret_ref.as_ref();
        if let Some(secret) = secret.filter(|secret| !lists(account, &secret.name)) {
            let what = format!("{what} with envFrom referencing");
            return Some(not_listed(&what, &secret.name, account));
        }
    }
    None
}

fn ephemeral_secret(spec: &PodSpec, account: &ServiceAccount) -> Option<String> {
    let mut containers = spec.ephemeral_containers.iter().flatten();
    containers.find_map(|container| {
        let what = format!("ephemeral container {}", container.name);
        let (env, from) = (container.env.as_deref(), container.env_from.as_deref());
        environment_secret(&what, env, from, account)
    })
}

/// The first secret that a pod names and its account does not list.
fn secret(spec: &PodSpec, account: &ServiceAccount) -> Option<String> {
    for volume in spec.volumes.iter().flatten() {
        if let Some(source) = &volume.secret {
            let name = source.secret_name.as_deref().unwrap_or_default();
            if !lists(account, name) {
                return Some(not_listed("volume with", name, account));
            }
        }
    }
    let containers = spec.containers.iter().map(|found| ("container", found));
    let init = spec.init_containers.iter().flatten();
    let init = init.map(|found| ("init container", found));
    for (kind, container) in init.chain(containers) {
        let what = format!("{kind} {}", container.name);
        let (env, from) = (container.env.as_deref(), container.env_from.as_deref());
        let refused = environment_secret(&what, env, from, account);
        if refused.is_some() {
            return refused;
        }
    }
    for (index, secret) in spec.image_pull_secrets.iter().flatten().enumerate() {
        let mut listed = account.image_pull_secrets.iter().flatten();
        if !listed.any(|listed| listed.name == secret.name) {
            return Some(format!(
                "imagePullSecrets[{index}].name=\"{}\" is not allowed because service account {} does not reference that imagePullSecret",
                secret.name,
                account.metadata.name.as_deref().unwrap_or_default()
            ));
        }
    }
    None
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
