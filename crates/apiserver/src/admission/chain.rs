//! Which admission plugins run, in which order, with which configuration.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    Admission, always_pull_images, always_tell, certificates, claim_resize, default_class,
    default_toleration_seconds, deny_service_external_ips, event_rate_limit,
    extended_resource_toleration, image_policy_webhook, limit_pod_hard_anti_affinity, limit_ranger,
    namespace_lifecycle, namespace_presence, node_declared_features, node_restriction,
    owner_references, pod_node_selector, pod_preset, pod_resize, pod_security,
    pod_toleration_restriction, pod_topology_labels, policy, priority, resource_quota,
    runtime_class, service_account, storage_object_in_use_protection, taint_nodes_by_condition,
    webhooks,
};

/// What a plugin is made of: its part of the configuration file, null without one.
type Make = fn(&Value) -> Result<Arc<dyn Admission>, String>;

/// A plugin that can run.
struct Plugin {
    name: &'static str,
    /// Whether it runs unless it is disabled.
    by_default: bool,
    make: Make,
}

macro_rules! plugin {
    ($name:literal, $by_default:literal, $plugin:expr) => {
        Plugin {
            name: $name,
            by_default: $by_default,
            make: |_| Ok(Arc::new($plugin)),
        }
    };
    ($name:literal, $by_default:literal, configured $make:path) => {
        Plugin {
            name: $name,
            by_default: $by_default,
            make: |configuration| Ok(Arc::new($make(configuration)?)),
        }
    };
}

/// All plugins, in the order in which they run.
const PLUGINS: &[Plugin] = &[
    plugin!("AlwaysAdmit", false, always_tell::AlwaysAdmit),
    plugin!(
        "NamespaceAutoProvision",
        false,
        namespace_presence::NamespaceAutoProvision
    ),
    plugin!(
        "NamespaceLifecycle",
        true,
        namespace_lifecycle::NamespaceLifecycle
    ),
    plugin!(
        "NamespaceExists",
        false,
        namespace_presence::NamespaceExists
    ),
    plugin!(
        "LimitPodHardAntiAffinityTopology",
        false,
        limit_pod_hard_anti_affinity::LimitPodHardAntiAffinityTopology
    ),
    // Of upstream until 1.19.
    plugin!("PodPreset", false, pod_preset::PodPreset),
    plugin!("LimitRanger", true, limit_ranger::LimitRanger),
    plugin!(
        "ServiceAccount",
        true,
        service_account::ServiceAccountAdmission
    ),
    // Upstream has it off; every installation turns it on.
    plugin!("NodeRestriction", true, node_restriction::NodeRestriction),
    plugin!(
        "TaintNodesByCondition",
        true,
        taint_nodes_by_condition::TaintNodesByCondition
    ),
    plugin!(
        "AlwaysPullImages",
        false,
        always_pull_images::AlwaysPullImages
    ),
    plugin!("ImagePolicyWebhook", false, configured image_policy_webhook::ImagePolicyWebhook::new),
    plugin!("PodSecurity", true, configured pod_security::PodSecurity::new),
    plugin!("PodNodeSelector", false, configured pod_node_selector::PodNodeSelector::new),
    plugin!("Priority", true, priority::Priority),
    plugin!(
        "DefaultTolerationSeconds",
        true,
        default_toleration_seconds::DefaultTolerationSeconds
    ),
    plugin!("PodTolerationRestriction", false, configured pod_toleration_restriction::PodTolerationRestriction::new),
    plugin!("EventRateLimit", false, configured event_rate_limit::EventRateLimit::new),
    plugin!(
        "ExtendedResourceToleration",
        false,
        extended_resource_toleration::ExtendedResourceToleration
    ),
    plugin!(
        "DefaultStorageClass",
        true,
        default_class::DefaultStorageClass
    ),
    plugin!(
        "StorageObjectInUseProtection",
        true,
        storage_object_in_use_protection::StorageObjectInUseProtection
    ),
    plugin!(
        "OwnerReferencesPermissionEnforcement",
        false,
        owner_references::OwnerReferencesPermissionEnforcement
    ),
    plugin!(
        "PersistentVolumeClaimResize",
        true,
        claim_resize::PersistentVolumeClaimResize
    ),
    plugin!("RuntimeClass", true, runtime_class::RuntimeClass),
    plugin!(
        "CertificateApproval",
        true,
        certificates::CertificateApproval
    ),
    plugin!("CertificateSigning", true, certificates::CertificateSigning),
    plugin!(
        "CertificateSubjectRestriction",
        true,
        certificates::CertificateSubjectRestriction
    ),
    plugin!(
        "DefaultIngressClass",
        true,
        default_class::DefaultIngressClass
    ),
    plugin!(
        "DenyServiceExternalIPs",
        false,
        deny_service_external_ips::DenyServiceExternalIps
    ),
    plugin!(
        "PodTopologyLabels",
        true,
        pod_topology_labels::PodTopologyLabels
    ),
    plugin!(
        "NodeDeclaredFeatureValidator",
        true,
        node_declared_features::NodeDeclaredFeatureValidator
    ),
    plugin!("PodResizeValidator", true, pod_resize::PodResizeValidator),
    plugin!(
        "MutatingAdmissionPolicy",
        true,
        policy::MutatingAdmissionPolicy
    ),
    plugin!(
        "MutatingAdmissionWebhook",
        true,
        webhooks::MutatingAdmissionWebhook
    ),
    plugin!(
        "ValidatingAdmissionPolicy",
        true,
        policy::ValidatingAdmissionPolicy
    ),
    plugin!(
        "ValidatingAdmissionWebhook",
        true,
        webhooks::ValidatingAdmissionWebhook
    ),
    plugin!("ResourceQuota", true, resource_quota::ResourceQuota),
    plugin!("AlwaysDeny", false, always_tell::AlwaysDeny),
];

/// The admission plugins that run, in upstream's order.
#[derive(Clone)]
pub struct AdmissionChain(Arc<[Arc<dyn Admission>]>);

impl Default for AdmissionChain {
    fn default() -> Self {
        // No plugin needs a configuration, so none is refused.
        Self::new(&[], &[], &Configurations::default()).unwrap_or_else(|error| {
            tracing::error!(error, "the default admission plugins cannot be made");
            Self(Arc::default())
        })
    }
}

/// The configuration of each plugin that has one, by its name.
pub type Configurations = BTreeMap<String, Value>;

impl AdmissionChain {
    /// The plugins that run by default and those that are enabled, without those that are disabled. Says what is wrong
    /// with a name or a configuration.
    pub fn new(
        enable: &[String],
        disable: &[String],
        configurations: &Configurations,
    ) -> Result<Self, String> {
        let known = |name: &String| PLUGINS.iter().any(|plugin| plugin.name == name);
        for (flag, names) in [("enable", enable), ("disable", disable)] {
            if let Some(name) = names.iter().find(|name| !known(name)) {
                return Err(format!(
                    "{flag}-admission-plugins plugin {name:?} is unknown"
                ));
            }
        }
        if let Some(name) = enable.iter().find(|name| disable.contains(name)) {
            return Err(format!(
                "{name} in enable-admission-plugins and disable-admission-plugins overlapped"
            ));
        }
        let mut chain: Vec<Arc<dyn Admission>> = Vec::new();
        for plugin in PLUGINS {
            let named = |names: &[String]| names.iter().any(|name| name == plugin.name);
            if named(enable) || plugin.by_default && !named(disable) {
                let configuration = configurations.get(plugin.name).unwrap_or(&Value::Null);
                let made = (plugin.make)(configuration);
                chain.push(made.map_err(|why| {
                    format!("couldn't init admission plugin {:?}: {why}", plugin.name)
                })?);
            }
        }
        Ok(Self(chain.into()))
    }

    /// The same with the configurations of an `AdmissionConfiguration` file.
    pub fn from_file(
        enable: &[String],
        disable: &[String],
        file: Option<&Path>,
    ) -> Result<Self, String> {
        let configurations = match file {
            Some(file) => read_configurations(file)?,
            None => Configurations::default(),
        };
        Self::new(enable, disable, &configurations)
    }

    pub(super) fn plugins(&self) -> &[Arc<dyn Admission>] {
        &self.0
    }
}

/// A file of `--admission-control-config-file`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AdmissionConfiguration {
    api_version: String,
    kind: String,
    #[serde(default)]
    plugins: Vec<PluginConfiguration>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PluginConfiguration {
    name: String,
    /// A file that holds the configuration; relative to the file that names it.
    #[serde(default)]
    path: String,
    #[serde(default)]
    configuration: Option<Value>,
}

const VERSIONS: [&str; 2] = ["apiserver.config.k8s.io/v1", "apiserver.k8s.io/v1alpha1"];

fn read_configurations(file: &Path) -> Result<Configurations, String> {
    let parsed: AdmissionConfiguration = read_yaml(file)?;
    if parsed.kind != "AdmissionConfiguration" || !VERSIONS.contains(&parsed.api_version.as_str()) {
        return Err(format!(
            "{}: {} of {} is no AdmissionConfiguration of apiserver.config.k8s.io/v1",
            file.display(),
            parsed.kind,
            parsed.api_version
        ));
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut configurations = Configurations::new();
    for plugin in parsed.plugins {
        let configuration = match plugin.configuration {
            Some(configuration) => configuration,
            None if plugin.path.is_empty() => continue,
            None => read_yaml(&folder.join(&plugin.path))?,
        };
        configurations.entry(plugin.name).or_insert(configuration);
    }
    Ok(configurations)
}

fn read_yaml<T: DeserializeOwned>(file: &Path) -> Result<T, String> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        format!(
            "unable to read admission control configuration from {:?} [{error}]",
            file.display().to_string()
        )
    })?;
    skiff_api::schema::body::parse_configuration(text.as_bytes())
        .map_err(|error| format!("{}: {error}", file.display()))
}

/// A plugin's configuration as its own type, with its version and kind checked; `None` without one.
pub(super) fn configuration<T: DeserializeOwned>(
    value: &Value,
    versions: &[&str],
    kind: &str,
) -> Result<Option<T>, String> {
    let Value::Object(fields) = value else {
        return match value {
            Value::Null => Ok(None),
            _ => Err("the configuration is no object".to_owned()),
        };
    };
    let mut fields = fields.clone();
    let mut text = |name: &str| match fields.remove(name) {
        Some(Value::String(text)) => text,
        _ => String::new(),
    };
    let (version, named) = (text("apiVersion"), text("kind"));
    if named != kind || !versions.contains(&version.as_str()) {
        return Err(format!(
            "no kind {named:?} is registered for version {version:?}"
        ));
    }
    serde_json::from_value(Value::Object(fields))
        .map(Some)
        .map_err(|error| format!("strict decoding error: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn plugins_are_switched_by_name() {
        let none = Configurations::default();
        let count = |enable: &[&str], disable: &[&str]| {
            AdmissionChain::new(&names(enable), &names(disable), &none).map(|chain| chain.0.len())
        };
        let default = count(&[], &[]).unwrap();
        assert_eq!(
            count(&["AlwaysPullImages", "Priority"], &[]),
            Ok(default + 1)
        );
        assert_eq!(count(&[], &["Priority", "AlwaysDeny"]), Ok(default - 1));
        assert_eq!(
            count(&["X"], &[]),
            Err("enable-admission-plugins plugin \"X\" is unknown".to_owned())
        );
        assert_eq!(
            count(&["Priority"], &["Priority"]),
            Err(
                "Priority in enable-admission-plugins and disable-admission-plugins overlapped"
                    .to_owned()
            )
        );
    }

    #[test]
    fn configurations_come_inline_or_from_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("admission.yaml");
        std::fs::write(
            &file,
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins:\n\
             - name: PodSecurity\n  configuration: {apiVersion: pod-security.admission.config.k8s.io/v1}\n\
             - name: EventRateLimit\n  path: limits.yaml\n",
        )
        .unwrap();
        assert!(
            read_configurations(&file)
                .unwrap_err()
                .contains("limits.yaml")
        );
        std::fs::write(folder.path().join("limits.yaml"), "kind: Configuration\n").unwrap();
        let read = read_configurations(&file).unwrap();
        assert_eq!(read["EventRateLimit"], json!({"kind": "Configuration"}));
        let refused = AdmissionChain::new(&[], &[], &read).err().unwrap();
        assert!(refused.contains("PodSecurity"), "{refused}");
    }
}
