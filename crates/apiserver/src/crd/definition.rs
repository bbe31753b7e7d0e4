//! A definition of a custom resource as the server works with it: small, its schemas read when they are first needed.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionVersion, JSONSchemaProps, WebhookConversion,
};
use parking_lot::Mutex;
use serde_json::Value;
use skiff_api::apiextensions::json_path::JsonPath;
use skiff_api::apiextensions::structural::{Node, default, prune, view};
use skiff_api::discovery_documents::compare_versions;
use skiff_api::schema::openapi::Part;
use skiff_api::schema::{Schema, TypeId};

use super::rules::Rules;
use crate::registry::TableColumn;

/// A definition.
pub struct Definition {
    /// The group.
    pub group: String,
    /// The kind.
    pub kind: String,
    /// All versions, those included that are not served.
    pub versions: Vec<Version>,
    /// How versions are converted; `None`: they differ in nothing but their names.
    pub(super) webhook: Option<super::convert::Webhook>,
    /// Whether objects may be stored in several versions.
    pub mixed: bool,
    /// It is going away with all its objects.
    pub terminating: bool,
    /// Changes with everything that is served of it.
    pub fingerprint: u64,
    /// Grows from one state of a definition to the next.
    pub serial: u64,
    /// No field is pruned (a relic of older definitions).
    keeps_unknown: bool,
    /// The definition as it is cached; its schemas are read from it.
    source: Mutex<Bytes>,
}

/// A version of a definition.
pub struct Version {
    /// For example `v1`.
    pub name: String,
    /// Whether objects are written in this version.
    pub storage: bool,
    /// What clients of a deprecated version are told.
    pub warning: Option<String>,
    /// Whether the status is a subresource.
    pub has_status: bool,
    /// Where the scale is, if it is a subresource.
    pub scale: Option<ScalePaths>,
    /// The columns beside the name.
    pub columns: Vec<(TableColumn, Option<JsonPath>)>,
    /// The fields that selectors may name.
    pub selectable: Vec<(String, Option<JsonPath>)>,
    compiled: OnceLock<Arc<Compiled>>,
    /// What it adds to `/openapi/v2`, in each [`Format`](skiff_api::schema::openapi::Format).
    pub openapi_v2: [OnceLock<Arc<Part>>; 2],
}

/// Where the parts of a scale are in an object: names from the root on.
#[derive(Clone, Debug)]
pub struct ScalePaths {
    /// The wanted number, as the definition writes it (`.spec.replicas`).
    pub spec: String,
    /// The number that there is.
    pub status: String,
    /// The selector in its text form.
    pub selector: Option<String>,
}

/// The names of a path like `.spec.replicas`.
pub fn names(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('.').unwrap_or(path).split('.')
}

/// A schema, ready to be used.
pub struct Compiled {
    /// The schema.
    pub node: Node,
    types: OnceLock<(Schema, TypeId)>,
    /// The rules of x-kubernetes-validations.
    pub rules: Rules,
}

impl Compiled {
    fn new(node: Node, rules: Rules) -> Self {
        Self {
            node,
            rules,
            types: OnceLock::new(),
        }
    }

    /// The types for server-side apply.
    pub fn types(&self) -> &(Schema, TypeId) {
        self.types.get_or_init(|| view::types(&self.node))
    }
}

impl Definition {
    /// Of an object, and the bytes it was read from.
    #[must_use]
    pub fn new(
        crd: &CustomResourceDefinition,
        source: Bytes,
        (fingerprint, serial): (u64, u64),
    ) -> Self {
        let spec = &crd.spec;
        let stored = crd
            .status
            .as_ref()
            .and_then(|status| status.stored_versions.as_deref())
            .unwrap_or_default();
        let webhook: Option<&WebhookConversion> = spec
            .conversion
            .as_ref()
            .filter(|conversion| conversion.strategy == "Webhook")
            .and_then(|conversion| conversion.webhook.as_ref());
        Self {
            group: spec.group.clone(),
            kind: spec.names.kind.clone(),
            versions: spec
                .versions
                .iter()
                .map(|version| Version::new(crd, version))
                .collect(),
            webhook: webhook.map(super::convert::Webhook::new),
            mixed: spec.versions.len() > 1 || stored.len() > 1,
            fingerprint,
            serial,
            terminating: crd.metadata.deletion_timestamp.is_some(),
            keeps_unknown: spec.preserve_unknown_fields == Some(true),
            source: Mutex::new(source),
        }
    }

    /// Gives up the bytes for newer ones that say the same.
    pub fn renew(&self, source: Bytes) {
        *self.source.lock() = source;
    }

    /// A version by its name.
    #[must_use]
    pub fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|version| version.name == name)
    }

    /// The version that objects are written in.
    #[must_use]
    pub fn storage_version(&self) -> &str {
        let storage = self.versions.iter().find(|version| version.storage);
        storage.map_or("", |version| &version.name)
    }

    /// The schema as it stands in the definition.
    #[must_use]
    pub fn schema_of(&self, version: &str) -> Option<JSONSchemaProps> {
        let source = self.source.lock().clone();
        let crd: CustomResourceDefinition = match serde_json::from_slice(&source) {
            Ok(crd) => crd,
            Err(error) => {
                tracing::error!(%error, "a definition does not decode");
                return None;
            }
        };
        let mut versions = crd.spec.versions.into_iter();
        let version = versions.find(|other| other.name == version)?;
        version.schema?.open_api_v3_schema
    }

    /// The schema of a version.
    #[must_use]
    pub fn compiled(&self, version: &Version) -> Arc<Compiled> {
        let compiled = version.compiled.get_or_init(|| {
            let schema = self.schema_of(&version.name);
            let mut node = match &schema {
                Some(props) => Node::new(props),
                None => Node {
                    preserve: true,
                    ..Node::default()
                },
            };
            let has_rules = node.any(&|node: &Node| !node.rules.is_empty());
            let schema = schema.filter(|_| has_rules);
            let schema = serde_json::to_value(schema).unwrap_or_default();
            node.preserve |= self.keeps_unknown;
            Arc::new(Compiled::new(node, Rules::compile(&schema)))
        });
        compiled.clone()
    }

    /// A stored object as its own version has it now: without what its schema does not know, with what it gives.
    #[must_use]
    pub fn normalized<'b>(&self, stored: &'b [u8]) -> Cow<'b, [u8]> {
        let Ok(mut value) = serde_json::from_slice::<Value>(stored) else {
            return Cow::Borrowed(stored);
        };
        let before = value.clone();
        self.normalize(&mut value);
        match value == before {
            true => Cow::Borrowed(stored),
            false => Cow::Owned(serde_json::to_vec(&value).unwrap_or_default()),
        }
    }

    /// The same for JSON.
    pub fn normalize(&self, value: &mut Value) {
        let Some(version) = version_of(value).and_then(|name| self.version(name)) else {
            return;
        };
        let compiled = self.compiled(version);
        if let Value::Object(map) = value {
            prune::prune(map, &compiled.node);
            default::fill(map, &compiled.node);
        }
    }
}

/// The version, without the group, that an object says it is in.
pub fn version_of(value: &Value) -> Option<&str> {
    let api_version = value.get("apiVersion")?.as_str()?;
    api_version.rsplit('/').next()
}

impl Version {
    fn new(crd: &CustomResourceDefinition, version: &CustomResourceDefinitionVersion) -> Self {
        let subresources = version.subresources.as_ref();
        let scale = subresources.and_then(|subresources| subresources.scale.as_ref());
        let selectable = version.selectable_fields.iter().flatten();
        Self {
            name: version.name.clone(),
            storage: version.storage,
            warning: (version.deprecated == Some(true)).then(|| warning(crd, version)),
            has_status: subresources.is_some_and(|subresources| subresources.status.is_some()),
            scale: scale.map(|scale| ScalePaths {
                spec: scale.spec_replicas_path.clone(),
                status: scale.status_replicas_path.clone(),
                selector: scale.label_selector_path.clone(),
            }),
            columns: columns(version),
            selectable: selectable
                .map(|field| {
                    let path = &field.json_path;
                    let name = path.strip_prefix('.').unwrap_or(path);
                    (name.to_owned(), JsonPath::parse(path).ok())
                })
                .collect(),
            compiled: OnceLock::new(),
            openapi_v2: Default::default(),
        }
    }
}

fn columns(version: &CustomResourceDefinitionVersion) -> Vec<(TableColumn, Option<JsonPath>)> {
    let own = version.additional_printer_columns.iter().flatten();
    let own: Vec<_> = own
        .map(|column| {
            let description = match column.description.as_deref() {
                None | Some("") => format!(
                    "Custom resource definition column (in JSONPath format): {}",
                    column.json_path
                ),
                Some(text) => text.to_owned(),
            };
            let shown = TableColumn {
                name: column.name.clone().into(),
                kind: column.type_.clone().into(),
                format: column.format.clone().unwrap_or_default().into(),
                description: description.into(),
                priority: column.priority.unwrap_or(0),
            };
            (shown, JsonPath::parse(&column.json_path).ok())
        })
        .collect();
    if !own.is_empty() {
        return own;
    }
    let age = TableColumn {
        name: "Age".into(),
        kind: "date".into(),
        format: "".into(),
        description: "When the object was made.".into(),
        priority: 0,
    };
    let path = JsonPath::parse(".metadata.creationTimestamp").ok();
    vec![(age, path)]
}

/// What clients of a deprecated version are told.
fn warning(crd: &CustomResourceDefinition, version: &CustomResourceDefinitionVersion) -> String {
    if let Some(text) = &version.deprecation_warning {
        return text.clone();
    }
    let (group, kind) = (&crd.spec.group, &crd.spec.names.kind);
    let text = format!("{group}/{} {kind} is deprecated", version.name);
    let newer = crd.spec.versions.iter().filter(|other| {
        other.served
            && other.deprecated != Some(true)
            && compare_versions(&other.name, &version.name).is_lt()
    });
    match newer.min_by(|a, b| compare_versions(&a.name, &b.name)) {
        Some(newer) => format!("{text}; use {group}/{} {kind}", newer.name),
        None => text,
    }
}
