//! `PodPreset` (settings.k8s.io/v1alpha1): what pods with certain labels are given when they are made.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, EnvFromSource, EnvVar, PodSpec, PodTemplateSpec, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::field::{ErrorList, FieldError, Path};
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "settings.k8s.io",
    version: "v1alpha1",
    kind: "PodPreset",
    plural: "podpresets",
    singular: "podpreset",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/podpresets",
    columns: &[Column::NAME, Column::CREATED_AT],
    fields: &[],
    schema: "io.k8s.api.settings.v1alpha1.PodPreset",
    conversion: None,
    ops: &Typed::<PodPresetStrategy>::new(),
};

/// The kind's types, in the form of the type table.
pub(crate) const TYPES: &str = "\
@settings.v1alpha1.PodPreset
apiVersion s
kind s
metadata &meta.v1.ObjectMeta v
spec &settings.v1alpha1.PodPresetSpec v
@settings.v1alpha1.PodPresetSpec
env [&core.v1.EnvVar
envFrom [&core.v1.EnvFromSource
selector &meta.v1.LabelSelector v
volumeMounts [&core.v1.VolumeMount
volumes [&core.v1.Volume
";

/// Fields that pods with certain labels are given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "io.k8s.api.settings.v1alpha1.PodPreset")]
pub struct PodPreset {
    /// The version of the schema.
    pub api_version: String,
    /// The kind.
    pub kind: String,
    /// Standard metadata.
    pub metadata: ObjectMeta,
    /// Which pods, and what they are given.
    pub spec: PodPresetSpec,
}

/// Which pods, and what they are given.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(rename = "io.k8s.api.settings.v1alpha1.PodPresetSpec")]
pub struct PodPresetSpec {
    /// Variables of every container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<EnvVar>>,
    /// Sources of variables of every container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env_from: Option<Vec<EnvFromSource>>,
    /// The labels of the pods; an empty selector means all.
    pub selector: LabelSelector,
    /// Mounts of every container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_mounts: Option<Vec<VolumeMount>>,
    /// Volumes of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volumes: Option<Vec<Volume>>,
}

impl k8s_openapi::Resource for PodPreset {
    const API_VERSION: &'static str = "settings.k8s.io/v1alpha1";
    const GROUP: &'static str = "settings.k8s.io";
    const KIND: &'static str = "PodPreset";
    const VERSION: &'static str = "v1alpha1";
    const URL_PATH_SEGMENT: &'static str = "podpresets";
    type Scope = k8s_openapi::NamespaceResourceScope;
}

impl k8s_openapi::Metadata for PodPreset {
    type Ty = ObjectMeta;
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

/// What is special about this kind.
pub struct PodPresetStrategy;

impl Strategy for PodPresetStrategy {
    type Object = PodPreset;

    fn validate_create(object: &PodPreset) -> ErrorList {
        validate(&object.spec)
    }

    fn row(object: &PodPreset, _: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::created_at(&object.metadata),
        ]
    }
}

fn validate(spec: &PodPresetSpec) -> ErrorList {
    let path = Path::new("spec");
    let mut errors = ErrorList::new();
    let nothing = spec.env.is_none()
        && spec.env_from.is_none()
        && spec.volume_mounts.is_none()
        && spec.volumes.is_none();
    if nothing {
        let path = ["volumes", "env", "envFrom", "volumeMounts"]
            .iter()
            .fold(path.clone(), |path, name| path.child(name));
        errors.push(FieldError::required(&path, "must specify at least one"));
    }
    let rules = crate::validation::meta::SelectorRules::default();
    let selector = path.child("selector");
    crate::validation::meta::label_selector(&mut errors, Some(&spec.selector), rules, &selector);
    // A pod that has all of it is judged; what is not of the preset is good by making.
    let container = Container {
        name: "preset".to_owned(),
        image: Some("preset".to_owned()),
        env: spec.env.clone(),
        env_from: spec.env_from.clone(),
        volume_mounts: spec.volume_mounts.clone(),
        ..Container::default()
    };
    let mut template = PodTemplateSpec {
        spec: Some(PodSpec {
            containers: vec![container],
            volumes: spec.volumes.clone(),
            ..PodSpec::default()
        }),
        ..PodTemplateSpec::default()
    };
    crate::defaults::core::default_pod_template_spec(&mut template);
    let mut judged = ErrorList::new();
    crate::validation::core::pod::validate_template(&mut judged, &template, None, &Path::new(""));
    errors.extend(judged.into_iter().filter_map(|mut error| {
        let text = error
            .path
            .as_str()
            .replacen("spec.containers[0].", "spec.", 1);
        error.path = Path::new(&text);
        let ours = ["spec.env", "spec.volumeMounts", "spec.volumes"];
        ours.iter()
            .any(|field| text.starts_with(field))
            .then_some(error)
    }));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn presets_are_validated_as_pods_are() {
        let errors = |spec: Value| -> Vec<String> {
            let spec = serde_json::from_value(spec).unwrap();
            validate(&spec).iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            errors(json!({})),
            ["spec.volumes.env.envFrom.volumeMounts: Required value: must specify at least one"]
        );
        let good = json!({"env": [{"name": "A", "value": "b"}], "volumes": [{"name": "v", "emptyDir": {}}],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}]});
        assert_eq!(errors(good), [""; 0]);
        let bad = json!({"env": [{"name": "", "value": "b"}], "volumeMounts": [{"name": "w", "mountPath": "/v"}]});
        assert_eq!(
            errors(bad),
            [
                "spec.env[0].name: Required value",
                "spec.volumeMounts[0].name: Not found: \"w\""
            ]
        );
    }
}
