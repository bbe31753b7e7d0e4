//! The environment of a container: its own variables, those of ConfigMaps, Secrets, fields and services.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret, Service};

use crate::container::expand::expand;
use crate::container::fields::{self, Facts, FieldError};
use crate::container::service_env;
use crate::pod::spec;

/// The objects of a pod's namespace that its containers refer to; a missing entry means that the object does not
/// exist.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// ConfigMaps by name.
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    /// Secrets by name.
    pub secrets: BTreeMap<String, Arc<Secret>>,
    /// The services that the pod is told of.
    pub services: Vec<Arc<Service>>,
}

/// The kind of an object that a pod refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}

/// An environment that cannot be made yet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    /// A ConfigMap does not exist.
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    /// A Secret does not exist.
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    /// An object lacks a key.
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey {
        /// The key.
        key: String,
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// The pod's namespace.
        namespace: String,
        /// The object.
        name: String,
    },
    /// A value is not text.
    #[error("value of key {key} in {kind} {name} is not valid UTF-8")]
    NotText {
        /// The key.
        key: String,
        /// `ConfigMap` or `Secret`.
        kind: &'static str,
        /// The object.
        name: String,
    },
    /// A field cannot be given.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// A file of variables cannot be used.
    #[error("{0}")]
    File(String),
}

/// The ConfigMaps and Secrets that the containers' environments refer to.
#[must_use]
pub fn references(pod: &Pod) -> BTreeSet<(RefKind, String)> {
    let mut all = BTreeSet::new();
    let ephemeral: Vec<Container> = spec::ephemeral_containers(pod)
        .iter()
        .map(spec::ephemeral_as_container)
        .collect();
    let containers = spec::lasting_containers(pod).chain(&ephemeral);
    for container in containers {
        for source in container.env_from.iter().flatten() {
            if let Some(r) = &source.config_map_ref {
                all.insert((RefKind::ConfigMap, r.name.clone()));
            }
            if let Some(r) = &source.secret_ref {
                all.insert((RefKind::Secret, r.name.clone()));
            }
        }
        for from in container
            .env
            .iter()
            .flatten()
            .filter_map(|e| e.value_from.as_ref())
        {
            if let Some(r) = &from.config_map_key_ref {
                all.insert((RefKind::ConfigMap, r.name.clone()));
            }
            if let Some(r) = &from.secret_key_ref {
                all.insert((RefKind::Secret, r.name.clone()));
            }
        }
    }
    all.retain(|(_, name)| !name.is_empty());
    all
}

/// Reads a file of variables inside a volume: volume, path, key.
pub type FileKeys<'a> = &'a dyn Fn(&str, &str, &str) -> Result<Option<String>, String>;

/// What one environment is made from.
pub struct Source<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// The container.
    pub container: &'a Container,
    /// What it refers to.
    pub objects: &'a Objects,
    /// Addresses and node resources.
    pub facts: &'a Facts,
    /// Files of variables.
    pub files: FileKeys<'a>,
}

/// Variables in the order in which they were set, each name once.
#[derive(Default)]
struct Variables {
    order: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Variables {
    fn set(&mut self, name: &str, value: String) {
        if self.values.insert(name.to_owned(), value).is_none() {
            self.order.push(name.to_owned());
        }
    }
}

/// The container's environment.
pub fn environment(source: &Source<'_>) -> Result<Vec<(String, String)>, EnvError> {
    let mut variables = Variables::default();
    add_from(source, &mut variables)?;
    let services = service_env::variables(source.objects.services.iter().map(AsRef::as_ref));
    // Values may refer to service variables, and service variables never replace the container's own.
    let mut known: BTreeMap<String, String> = services.iter().cloned().collect();
    known.extend(variables.values.clone());
    for entry in source.container.env.iter().flatten() {
        let value = match (&entry.value, &entry.value_from) {
            (Some(value), _) if !value.is_empty() => Some(expand(value, &known)),
            (_, Some(from)) => value_from(source, from)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            known.insert(entry.name.clone(), value.clone());
            variables.set(&entry.name, value);
        }
    }
    for (name, value) in services {
        if !variables.values.contains_key(&name) {
            variables.set(&name, value);
        }
    }
    let Variables { order, mut values } = variables;
    let list = order.into_iter().map(|name| {
        let value = values.remove(&name).unwrap_or_default();
        (name, value)
    });
    Ok(list.collect())
}

fn add_from(source: &Source<'_>, variables: &mut Variables) -> Result<(), EnvError> {
    for from in source.container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(r) = &from.config_map_ref {
            match source.objects.config_maps.get(&r.name) {
                Some(map) => {
                    for (key, value) in map.data.iter().flatten() {
                        variables.set(&format!("{prefix}{key}"), value.clone());
                    }
                }
                None if r.optional == Some(true) => {}
                None => return Err(EnvError::NoConfigMap(r.name.clone())),
            }
        }
        if let Some(r) = &from.secret_ref {
            match source.objects.secrets.get(&r.name) {
                Some(secret) => {
                    for (key, value) in secret.data.iter().flatten() {
                        let value = text(&value.0, key, "Secret", &r.name)?;
                        variables.set(&format!("{prefix}{key}"), value);
                    }
                }
                None if r.optional == Some(true) => {}
                None => return Err(EnvError::NoSecret(r.name.clone())),
            }
        }
    }
    Ok(())
}

fn text(bytes: &[u8], key: &str, kind: &'static str, name: &str) -> Result<String, EnvError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| EnvError::NotText {
        key: key.to_owned(),
        kind,
        name: name.to_owned(),
    })
}

/// The value that a source gives; `None` when the source is optional and missing.
fn value_from(source: &Source<'_>, from: &EnvVarSource) -> Result<Option<String>, EnvError> {
    if let Some(selector) = &from.field_ref {
        return Ok(Some(fields::field(
            source.pod,
            &selector.field_path,
            source.facts,
        )?));
    }
    if let Some(selector) = &from.resource_field_ref {
        let value = fields::resource(source.pod, Some(source.container), selector, source.facts)?;
        return Ok(Some(value));
    }
    let no_key = |key: &str, kind, name: &str| EnvError::NoKey {
        key: key.to_owned(),
        kind,
        namespace: spec::namespace(source.pod).to_owned(),
        name: name.to_owned(),
    };
    if let Some(r) = &from.config_map_key_ref {
        let optional = r.optional == Some(true);
        let Some(map) = source.objects.config_maps.get(&r.name) else {
            return absent(optional, || EnvError::NoConfigMap(r.name.clone()));
        };
        return match map.data.as_ref().and_then(|data| data.get(&r.key)) {
            Some(value) => Ok(Some(value.clone())),
            None => absent(optional, || no_key(&r.key, "ConfigMap", &r.name)),
        };
    }
    if let Some(r) = &from.secret_key_ref {
        let optional = r.optional == Some(true);
        let Some(secret) = source.objects.secrets.get(&r.name) else {
            return absent(optional, || EnvError::NoSecret(r.name.clone()));
        };
        return match secret.data.as_ref().and_then(|data| data.get(&r.key)) {
            Some(value) => Ok(Some(text(&value.0, &r.key, "Secret", &r.name)?)),
            None => absent(optional, || no_key(&r.key, "Secret", &r.name)),
        };
    }
    if let Some(r) = &from.file_key_ref {
        let value = (source.files)(&r.volume_name, &r.path, &r.key).map_err(EnvError::File)?;
        return match value {
            Some(value) => Ok(Some(value)),
            None => absent(r.optional == Some(true), || {
                let (key, path) = (&r.key, &r.path);
                EnvError::File(format!(
                    "environment variable key \"{key}\" not found in file \"{path}\""
                ))
            }),
        };
    }
    Ok(Some(String::new()))
}

fn absent(optional: bool, error: impl FnOnce() -> EnvError) -> Result<Option<String>, EnvError> {
    if optional { Ok(None) } else { Err(error()) }
}

#[cfg(test)]
mod tests;
