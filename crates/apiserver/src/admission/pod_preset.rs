//! PodPreset: new pods are given what the presets of their namespace say, if nothing of it contradicts them.

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Container, EnvVar, Pod, Volume, VolumeMount};
use skiff_api::settings::pod_preset::PodPreset as Preset;
use skiff_api::validation::meta::selector_matches;
use skiff_api::{ApiResult, Object, ObjectExt};

use super::{Admission, AdmissionRequest, Operation};

const MIRROR: &str = "kubernetes.io/config.mirror";
const EXCLUDE: &str = "podpreset.admission.kubernetes.io/exclude";
const APPLIED: &str = "podpreset.admission.kubernetes.io/podpreset-";

pub(crate) struct PodPreset;

/// Adds what is not there; what is there under the same key must be the same.
fn merge<T: Clone + PartialEq>(
    own: &mut Vec<T>,
    more: &[T],
    same: impl Fn(&T, &T) -> bool,
) -> Result<(), ()> {
    for one in more {
        match own.iter().find(|other| same(other, one)) {
            Some(other) if other == one => {}
            Some(_) => return Err(()),
            None => own.push(one.clone()),
        }
    }
    Ok(())
}

fn same_variable(a: &EnvVar, b: &EnvVar) -> bool {
    a.name == b.name
}

fn same_mount(a: &VolumeMount, b: &VolumeMount) -> bool {
    a.name == b.name || a.mount_path == b.mount_path
}

fn same_volume(a: &Volume, b: &Volume) -> bool {
    a.name == b.name
}

fn apply_to_container(container: &mut Container, preset: &Preset) -> Result<(), ()> {
    let spec = &preset.spec;
    if let Some(more) = &spec.env {
        merge(container.env.get_or_insert_default(), more, same_variable)?;
    }
    if let Some(more) = &spec.volume_mounts {
        merge(
            container.volume_mounts.get_or_insert_default(),
            more,
            same_mount,
        )?;
    }
    if let Some(more) = &spec.env_from {
        container
            .env_from
            .get_or_insert_default()
            .extend(more.iter().cloned());
    }
    Ok(())
}

/// The pod with what the presets give it; an error when they contradict it or one another.
fn applied(pod: &Pod, presets: &[Preset]) -> Result<Pod, ()> {
    let mut pod = pod.clone();
    let spec = pod.spec.get_or_insert_default();
    for preset in presets {
        if let Some(more) = &preset.spec.volumes {
            merge(spec.volumes.get_or_insert_default(), more, same_volume)?;
        }
        let init = spec.init_containers.iter_mut().flatten();
        for container in spec.containers.iter_mut().chain(init) {
            apply_to_container(container, preset)?;
        }
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let key = format!("{APPLIED}{}", text(&preset.metadata.name));
        let version = text(&preset.metadata.resource_version);
        pod.metadata
            .annotations
            .get_or_insert_default()
            .insert(key, version);
    }
    Ok(pod)
}

#[async_trait]
impl Admission for PodPreset {
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
        let none = BTreeMap::new();
        let annotations = pod.metadata.annotations.as_ref().unwrap_or(&none);
        let excluded = annotations.contains_key(MIRROR)
            || annotations
                .get(EXCLUDE)
                .is_some_and(|value| value == "true");
        let registry = request.call.server.registry.load_full();
        if excluded || registry.stored("settings.k8s.io", "podpresets").is_none() {
            return Ok(());
        }
        let mut presets: Vec<Preset> = request
            .list("settings.k8s.io", "podpresets", request.namespace)
            .await?;
        let labels = &pod.metadata.labels;
        presets.retain(|preset| selector_matches(&preset.spec.selector, labels));
        match applied(pod, &presets) {
            Ok(changed) => *pod = changed,
            Err(()) => {
                let names: Vec<_> = presets.iter().map(|one| &one.metadata.name).collect();
                tracing::debug!(?names, pod = request.name, "pod presets contradict the pod");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn presets_are_merged_or_left_out_as_a_whole() {
        let preset = |name: &str, spec: Value| -> Preset {
            serde_json::from_value(
                json!({"metadata": {"name": name, "resourceVersion": "7"}, "spec": spec}),
            )
            .unwrap()
        };
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "a"}, "spec": {"containers": [
            {"name": "c", "env": [{"name": "A", "value": "own"}]}]}}))
            .unwrap();
        let presets = [
            preset(
                "one",
                json!({"env": [{"name": "B", "value": "b"}], "volumes": [{"name": "v", "emptyDir": {}}],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
            ),
            preset(
                "two",
                json!({"env": [{"name": "B", "value": "b"}], "envFrom": [{"configMapRef": {"name": "m"}}]}),
            ),
        ];
        let made = serde_json::to_value(applied(&pod, &presets).unwrap()).unwrap();
        assert_eq!(
            made["spec"]["containers"][0],
            json!({"name": "c", "env": [{"name": "A", "value": "own"}, {"name": "B", "value": "b"}],
                "envFrom": [{"configMapRef": {"name": "m"}}], "volumeMounts": [{"name": "v", "mountPath": "/v"}]})
        );
        assert_eq!(
            made["spec"]["volumes"],
            json!([{"name": "v", "emptyDir": {}}])
        );
        assert_eq!(
            made["metadata"]["annotations"],
            json!({"podpreset.admission.kubernetes.io/podpreset-one": "7",
                "podpreset.admission.kubernetes.io/podpreset-two": "7"})
        );
        for other in [
            json!({"env": [{"name": "A", "value": "other"}]}),
            json!({"volumeMounts": [{"name": "w", "mountPath": "/v"}]}),
        ] {
            let presets = [presets[0].clone(), preset("three", other)];
            assert!(applied(&pod, &presets).is_err());
        }
    }
}
