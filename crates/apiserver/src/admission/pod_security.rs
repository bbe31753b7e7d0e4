//! PodSecurity: pods must meet the standard that their namespace's labels name; writers of workloads are warned.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::{
    Namespace, Pod, PodSpec, PodTemplate, PodTemplateSpec, ReplicationController,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde_json::Value;
use skiff_api::pod_security::{
    Level, PREFIX, Policy, Standard, Version, Violations, evaluate, warnings_of_pods,
};
use skiff_api::validation::names;
use skiff_api::{ApiError, ApiResult, ErrorList, Object, ObjectExt};

use super::{Admission, AdmissionRequest, Operation, chain};

/// How many pods of a namespace are looked at when its labels change.
const MAX_PODS: usize = 3000;
/// Subresources of pods that change nothing the standards look at.
const IGNORED: [&str; 8] = [
    "exec",
    "attach",
    "binding",
    "eviction",
    "log",
    "portforward",
    "proxy",
    "status",
];

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Configuration {
    defaults: BTreeMap<String, String>,
    exemptions: Exemptions,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Exemptions {
    usernames: Vec<String>,
    namespaces: Vec<String>,
    runtime_classes: Vec<String>,
}

/// The plugin with what holds for namespaces without labels, and whom it lets alone.
pub(crate) struct PodSecurity {
    defaults: Policy,
    exemptions: Exemptions,
}

impl PodSecurity {
    pub fn new(configuration: &Value) -> Result<Self, String> {
        let versions = ["v1", "v1beta1", "v1alpha1"]
            .map(|version| format!("pod-security.admission.config.k8s.io/{version}"));
        let versions: Vec<&str> = versions.iter().map(String::as_str).collect();
        let read: Configuration =
            chain::configuration(configuration, &versions, "PodSecurityConfiguration")?
                .unwrap_or_default();
        Ok(Self {
            defaults: policy_of(&read.defaults)?,
            exemptions: checked(read.exemptions)?,
        })
    }

    fn policy(&self, labels: &BTreeMap<String, String>) -> (Policy, ErrorList) {
        Policy::of_labels(labels, self.defaults)
    }

    async fn validate_namespace(
        &self,
        request: &AdmissionRequest<'_>,
        new: &Namespace,
        old: Option<&Namespace>,
    ) -> ApiResult<()> {
        let none = BTreeMap::new();
        let labels = new.metadata.labels.as_ref().unwrap_or(&none);
        let (policy, errors) = self.policy(labels);
        let (before, old_errors) = match old {
            Some(old) => self.policy(old.metadata.labels.as_ref().unwrap_or(&none)),
            None => (policy, ErrorList::new()),
        };
        // Labels that were wrong before may stay.
        if !errors.is_empty() && (old.is_none() || errors != old_errors) {
            return Err(ApiError::invalid("", "Namespace", request.name, &errors));
        }
        let (now, then) = (policy.enforce, before.enforce);
        let relaxed = now == then
            || now.level == Level::Privileged
            || now.version == then.version && now.level <= then.level;
        if relaxed && old.is_some() {
            return Ok(());
        }
        if self
            .exemptions
            .namespaces
            .iter()
            .any(|name| name == request.name)
        {
            let ignored = policy.ignored_in(request.name, labels, &self.defaults);
            ignored
                .into_iter()
                .for_each(|warning| request.call.warn(warning));
        } else if old.is_some() {
            self.warn_of_pods(request, now).await?;
        }
        Ok(())
    }

    async fn warn_of_pods(
        &self,
        request: &AdmissionRequest<'_>,
        standard: Standard,
    ) -> ApiResult<()> {
        let pods: Vec<Pod> = request.list("", "pods", request.name).await?;
        let exempt = |pod: &Pod| self.exempt_class(pod.spec.as_ref());
        let pods = prioritised(pods.into_iter().filter(|pod| !exempt(pod)).collect());
        let unchecked = pods.len().saturating_sub(MAX_PODS);
        let checked: Vec<(String, Violations)> = pods
            .iter()
            .take(MAX_PODS)
            .map(|pod| {
                let name = pod.metadata.name.clone().unwrap_or_default();
                (
                    name,
                    violations(standard, Some(&pod.metadata), pod.spec.as_ref()),
                )
            })
            .collect();
        for warning in warnings_of_pods(request.name, standard, &checked, unchecked) {
            request.call.warn(warning);
        }
        Ok(())
    }

    fn exempt_class(&self, spec: Option<&PodSpec>) -> bool {
        let class = spec.and_then(|spec| spec.runtime_class_name.as_ref());
        class.is_some_and(|class| self.exemptions.runtime_classes.contains(class))
    }

    /// Whether the namespace or the user is let alone; noted for the audit log.
    fn exempt(&self, request: &AdmissionRequest<'_>) -> bool {
        let has = |list: &[String], name: &str| list.iter().any(|one| one == name);
        let reason = if has(&self.exemptions.namespaces, request.namespace) {
            "namespace"
        } else if has(&self.exemptions.usernames, &request.call.user.name) {
            "user"
        } else {
            return false;
        };
        note(request, "exempt", reason.to_owned());
        true
    }

    /// Judges a pod (`enforce`) or a template by the labels of its namespace.
    async fn validate_pod(
        &self,
        request: &AdmissionRequest<'_>,
        meta: Option<&ObjectMeta>,
        spec: Option<&PodSpec>,
        enforce: bool,
    ) -> ApiResult<()> {
        let registry = request.call.server.registry.load_full();
        let Some(namespaces) = registry.stored("", "namespaces") else {
            return Ok(());
        };
        let found = request.find_entry("", "namespaces", "", request.namespace);
        let Some(namespace) = found.await? else {
            if enforce {
                let why = format!("failed to lookup namespace {:?}", request.namespace);
                return Err(ApiError::internal(why));
            }
            return Ok(());
        };
        let (policy, errors) = self.policy(namespace.labels(&namespaces.storage));
        if errors.is_empty() {
            let told = [policy.audit, policy.warn];
            let silent = told.iter().all(|one| one.level == Level::Privileged);
            if silent && !enforce {
                return Ok(());
            }
            if policy.fully_privileged() {
                note(request, "enforce-policy", Standard::PRIVILEGED.to_string());
                return Ok(());
            }
        }
        self.judge(request, &policy, &errors, (meta, spec), enforce)
    }

    fn judge(
        &self,
        request: &AdmissionRequest<'_>,
        policy: &Policy,
        errors: &ErrorList,
        (meta, spec): (Option<&ObjectMeta>, Option<&PodSpec>),
        enforce: bool,
    ) -> ApiResult<()> {
        if self.exempt_class(spec) {
            note(request, "exempt", "runtimeClass".to_owned());
            return Ok(());
        }
        if !errors.is_empty() {
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            let all = match texts.as_slice() {
                [one] => one.clone(),
                many => format!("[{}]", many.join(", ")),
            };
            note(request, "error", format!("Failed to parse policy: {all}"));
        }
        let broken = |standard: Standard| violations(standard, meta, spec);
        let mut refusal = None;
        if enforce {
            let standard = policy.enforce;
            note(request, "enforce-policy", standard.to_string());
            let violations = broken(standard);
            if !violations.is_empty() {
                let why = format!("violates PodSecurity \"{standard}\": {violations}");
                refusal = Some(request.forbidden(&why));
            }
        }
        let would = |standard: Standard| {
            let violations = broken(standard);
            (!violations.is_empty())
                .then(|| format!("would violate PodSecurity \"{standard}\": {violations}"))
        };
        if let Some(told) = would(policy.audit) {
            note(request, "audit-violations", told);
        }
        match refusal {
            Some(refusal) => Err(refusal),
            None => {
                would(policy.warn)
                    .into_iter()
                    .for_each(|told| request.call.warn(told));
                Ok(())
            }
        }
    }
}

fn note(request: &AdmissionRequest<'_>, key: &str, value: String) {
    request.call.annotate(format!("{PREFIX}{key}"), value);
}

fn violations(standard: Standard, meta: Option<&ObjectMeta>, spec: Option<&PodSpec>) -> Violations {
    let annotations = meta.and_then(|meta| meta.annotations.as_ref());
    spec.map(|spec| evaluate(standard, annotations, spec))
        .unwrap_or_default()
}

/// The policy of `defaults` in the configuration.
fn policy_of(defaults: &BTreeMap<String, String>) -> Result<Policy, String> {
    let mut policy = Policy::default();
    for (key, value) in defaults {
        let (mode, is_version) = match key.strip_suffix("-version") {
            Some(mode) => (mode, true),
            None => (key.as_str(), false),
        };
        let standard = match mode {
            "enforce" => &mut policy.enforce,
            "audit" => &mut policy.audit,
            "warn" => &mut policy.warn,
            _ => {
                return Err(format!(
                    "strict decoding error: unknown field \"defaults.{key}\""
                ));
            }
        };
        let wrong = |why| format!("defaults.{key}: Invalid value: {value:?}: {why}");
        if is_version {
            standard.version = Version::parse(value).map_err(wrong)?;
        } else {
            standard.level = Level::parse(value).map_err(wrong)?;
        }
    }
    Ok(policy)
}

/// The exemptions, unless one is wrong or there twice.
fn checked(exemptions: Exemptions) -> Result<Exemptions, String> {
    type Rule = fn(&str) -> Vec<String>;
    let lists: [(&str, &[String], Rule); 3] = [
        ("namespaces", &exemptions.namespaces, names::dns_label),
        (
            "runtimeClasses",
            &exemptions.runtime_classes,
            names::dns_subdomain,
        ),
        ("usernames", &exemptions.usernames, |name| match name {
            "" => vec!["username must not be empty".to_owned()],
            _ => Vec::new(),
        }),
    ];
    for (field, list, rule) in lists {
        let mut seen = BTreeSet::new();
        for (index, name) in list.iter().enumerate() {
            let place = format!("exemptions.{field}[{index}]");
            let wrong = rule(name);
            if !wrong.is_empty() {
                let wrong = wrong.join(", ");
                return Err(format!("{place}: Invalid value: {name:?}: {wrong}"));
            }
            if !seen.insert(name) {
                return Err(format!("{place}: Duplicate value: {name:?}"));
            }
        }
    }
    Ok(exemptions)
}

/// One pod of each controller first.
fn prioritised(pods: Vec<Pod>) -> Vec<Pod> {
    let mut controllers = BTreeSet::new();
    let (mut first, mut more) = (Vec::new(), Vec::new());
    for pod in pods {
        let owners = pod.metadata.owner_references.iter().flatten();
        let mut controller = owners.filter(|owner| owner.controller == Some(true));
        match controller.next() {
            Some(owner) if !controllers.insert(owner.uid.clone()) => more.push(pod),
            _ => first.push(pod),
        }
    }
    first.extend(more);
    first
}

/// The template of a workload: its metadata and spec.
fn template(object: &dyn Object) -> Option<&PodTemplateSpec> {
    if let Some(one) = object.downcast_ref::<PodTemplate>() {
        return one.template.as_ref();
    }
    if let Some(one) = object.downcast_ref::<ReplicationController>() {
        return one.spec.as_ref()?.template.as_ref();
    }
    if let Some(one) = object.downcast_ref::<ReplicaSet>() {
        return one.spec.as_ref()?.template.as_ref();
    }
    if let Some(one) = object.downcast_ref::<Deployment>() {
        return Some(&one.spec.as_ref()?.template);
    }
    if let Some(one) = object.downcast_ref::<DaemonSet>() {
        return Some(&one.spec.as_ref()?.template);
    }
    if let Some(one) = object.downcast_ref::<StatefulSet>() {
        return Some(&one.spec.as_ref()?.template);
    }
    if let Some(one) = object.downcast_ref::<Job>() {
        return Some(&one.spec.as_ref()?.template);
    }
    let one = object.downcast_ref::<CronJob>()?;
    Some(&one.spec.job_template.spec.as_ref()?.template)
}

/// Whether an update changes what the standards look at: containers that come, go, or run another image.
fn is_significant(new: &Pod, old: &Pod) -> bool {
    let images = |pod: &Pod, init: bool| -> Vec<Option<String>> {
        let spec = pod.spec.as_ref();
        let list = spec.map(|spec| match init {
            true => spec.init_containers.as_deref().unwrap_or_default(),
            false => spec.containers.as_slice(),
        });
        list.into_iter()
            .flatten()
            .map(|one| one.image.clone())
            .collect()
    };
    let ephemeral = |pod: &Pod| -> Vec<(String, Option<String>)> {
        let list = pod
            .spec
            .iter()
            .flat_map(|spec| spec.ephemeral_containers.iter().flatten());
        list.map(|one| (one.name.clone(), one.image.clone()))
            .collect()
    };
    let had = ephemeral(old);
    images(new, false) != images(old, false)
        || images(new, true) != images(old, true)
        || ephemeral(new).iter().any(|one| !had.contains(one))
}

#[async_trait]
impl Admission for PodSecurity {
    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&dyn Object>,
        old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        let (Operation::Create | Operation::Update, Some(object)) = (request.operation, object)
        else {
            return Ok(());
        };
        if let Some(namespace) = object.downcast_ref::<Namespace>() {
            if !request.subresource.is_empty() {
                return Ok(());
            }
            let old = old.and_then(|old| old.downcast_ref());
            return self.validate_namespace(request, namespace, old).await;
        }
        if let Some(pod) = object.downcast_ref::<Pod>() {
            if IGNORED.contains(&request.subresource) || self.exempt(request) {
                return Ok(());
            }
            let old = old.and_then(|old| old.downcast_ref::<Pod>());
            if old.is_some_and(|old| !is_significant(pod, old)) {
                return Ok(());
            }
            return self
                .validate_pod(request, Some(&pod.metadata), pod.spec.as_ref(), true)
                .await;
        }
        match template(object) {
            Some(template) if request.subresource.is_empty() && !self.exempt(request) => {
                let spec = template.spec.as_ref();
                self.validate_pod(request, template.metadata.as_ref(), spec, false)
                    .await
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn configurations() {
        let of = |fields: Value| {
            let mut value = json!({"apiVersion": "pod-security.admission.config.k8s.io/v1",
                "kind": "PodSecurityConfiguration"});
            value
                .as_object_mut()
                .unwrap()
                .extend(fields.as_object().cloned().unwrap());
            PodSecurity::new(&value)
        };
        let plugin = of(json!({"defaults": {"enforce": "baseline", "enforce-version": "v1.30"},
            "exemptions": {"namespaces": ["kube-system"], "runtimeClasses": ["vm"], "usernames": ["root"]}}))
        .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(plugin.defaults.enforce.to_string(), "baseline:v1.30");
        assert_eq!(plugin.exemptions.runtime_classes, ["vm"]);
        for (fields, wrong) in [
            (
                json!({"defaults": {"warn": "x"}}),
                "defaults.warn: Invalid value: \"x\": must be one of",
            ),
            (json!({"defaults": {"warns": "x"}}), "defaults.warns"),
            (
                json!({"exemptions": {"usernames": ["a", "a"]}}),
                "exemptions.usernames[1]: Duplicate value: \"a\"",
            ),
            (
                json!({"exemptions": {"namespaces": ["A"]}}),
                "exemptions.namespaces[0]: Invalid value: \"A\"",
            ),
            (json!({"other": 1}), "unknown field `other`"),
        ] {
            let error = of(fields).err().unwrap();
            assert!(error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn only_other_images_count() {
        let pod = |image: &str, debugger: &[&str], labels: Value| -> Pod {
            let debuggers: Vec<Value> = debugger
                .iter()
                .map(|name| json!({"name": name, "image": "d"}))
                .collect();
            serde_json::from_value(json!({"metadata": {"labels": labels}, "spec": {
                "containers": [{"name": "a", "image": image}], "ephemeralContainers": debuggers}}))
            .unwrap()
        };
        let old = pod("x", &["d1"], json!({}));
        assert!(!is_significant(&pod("x", &["d1"], json!({"a": "b"})), &old));
        assert!(is_significant(&pod("y", &["d1"], json!({})), &old));
        assert!(is_significant(&pod("x", &["d1", "d2"], json!({})), &old));
    }
}
