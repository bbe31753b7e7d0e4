//! Which policies and webhooks a request is for: rules, selectors, and equivalent resources.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use k8s_openapi::api::admissionregistration::v1::{
    MatchResources, NamedRuleWithOperations, RuleWithOperations,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::Deserialize;
use skiff_api::validation::meta::{selector_matches, selects_everything};
use skiff_api::{ApiError, ApiResult, Object};
use tokio::sync::OnceCell;

use super::{AdmissionRequest, Operation};
use crate::cache::Entry;
use crate::registry::Resource;

/// The resource that a rule is held against.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub operation: Operation,
    pub group: &'a str,
    pub version: &'a str,
    pub plural: &'a str,
    pub subresource: &'a str,
    /// Empty for what is in no namespace; a namespace is in itself, but for its creation.
    pub namespace: &'a str,
    pub name: &'a str,
}

/// A rule, ready to be held against requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rule {
    groups: Vec<String>,
    versions: Vec<String>,
    operations: Vec<String>,
    /// Resource and subresource.
    resources: Vec<(String, String)>,
    scope: String,
    names: Vec<String>,
}

fn resources(resources: Option<&Vec<String>>) -> Vec<(String, String)> {
    let split = |resource: &String| match resource.split_once('/') {
        Some((resource, subresource)) => (resource.to_owned(), subresource.to_owned()),
        None => (resource.clone(), String::new()),
    };
    resources.into_iter().flatten().map(split).collect()
}

impl From<&RuleWithOperations> for Rule {
    fn from(rule: &RuleWithOperations) -> Self {
        Self {
            groups: rule.api_groups.clone().unwrap_or_default(),
            versions: rule.api_versions.clone().unwrap_or_default(),
            operations: rule.operations.clone().unwrap_or_default(),
            resources: resources(rule.resources.as_ref()),
            scope: rule.scope.clone().unwrap_or_default(),
            names: Vec::new(),
        }
    }
}

impl From<&NamedRuleWithOperations> for Rule {
    fn from(rule: &NamedRuleWithOperations) -> Self {
        Self {
            groups: rule.api_groups.clone().unwrap_or_default(),
            versions: rule.api_versions.clone().unwrap_or_default(),
            operations: rule.operations.clone().unwrap_or_default(),
            resources: resources(rule.resources.as_ref()),
            scope: rule.scope.clone().unwrap_or_default(),
            names: rule.resource_names.clone().unwrap_or_default(),
        }
    }
}

fn listed(values: &[String], wanted: &str) -> bool {
    values.iter().any(|value| value == "*" || value == wanted)
}

impl Rule {
    /// Whether the rule is for what is asked.
    pub fn matches(&self, asked: &Asked<'_>) -> bool {
        let namespaces =
            asked.group.is_empty() && asked.version == "v1" && asked.plural == "namespaces";
        let scope = match self.scope.as_str() {
            "" | "*" => true,
            "Namespaced" => !namespaces && !asked.namespace.is_empty(),
            "Cluster" => namespaces || asked.namespace.is_empty(),
            _ => false,
        };
        let is = |pattern: &str, value: &str| pattern == "*" || pattern == value;
        scope
            && listed(&self.operations, asked.operation.as_str())
            && listed(&self.groups, asked.group)
            && listed(&self.versions, asked.version)
            && self.resources.iter().any(|(resource, subresource)| {
                is(resource, asked.plural) && is(subresource, asked.subresource)
            })
            && (self.names.is_empty() || self.names.iter().any(|name| name == asked.name))
    }
}

/// What a policy, a binding or a webhook is for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Criteria {
    pub namespace_selector: LabelSelector,
    pub object_selector: LabelSelector,
    /// Empty: every resource. A webhook without rules is for nothing, and asks nobody.
    pub rules: Vec<Rule>,
    pub excluded: Vec<Rule>,
    /// Whether a request for another version of a rule's resource counts.
    pub equivalent: bool,
}

impl From<&MatchResources> for Criteria {
    fn from(resources: &MatchResources) -> Self {
        let rules = |rules: &Option<Vec<NamedRuleWithOperations>>| {
            rules.iter().flatten().map(Rule::from).collect()
        };
        Self {
            namespace_selector: resources.namespace_selector.clone().unwrap_or_default(),
            object_selector: resources.object_selector.clone().unwrap_or_default(),
            rules: rules(&resources.resource_rules),
            excluded: rules(&resources.exclude_resource_rules),
            equivalent: resources.match_policy.as_deref() == Some("Equivalent"),
        }
    }
}

/// What a request was taken for by the criteria that it meets.
#[derive(Clone)]
pub(crate) enum Match {
    /// The resource of the request itself.
    Own,
    /// The same resource in another version or group, which the rule names.
    Equivalent(Arc<Resource>),
}

impl Match {
    /// The resource that the object is shown as.
    pub fn resource<'a>(&'a self, request: &AdmissionRequest<'a>) -> &'a Resource {
        match self {
            Self::Own => request.resource,
            Self::Equivalent(resource) => resource,
        }
    }
}

/// One request, as criteria are held against it. What is looked up for one is remembered for the others.
pub(crate) struct Matching<'a> {
    pub request: &'a AdmissionRequest<'a>,
    object: Option<&'a ObjectMeta>,
    old: Option<&'a ObjectMeta>,
    namespace: OnceCell<Arc<Entry>>,
    namespace_labels: OnceCell<Option<BTreeMap<String, String>>>,
    equivalents: OnceLock<Vec<Arc<Resource>>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Labelled {
    metadata: Labels,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Labels {
    labels: Option<BTreeMap<String, String>>,
}

impl<'a> Matching<'a> {
    /// `object` is none on deletion, `old` on creation.
    pub fn new(
        request: &'a AdmissionRequest<'a>,
        object: Option<&'a dyn Object>,
        old: Option<&'a dyn Object>,
    ) -> Self {
        // What is connected to is not what is sent.
        let object = object.filter(|_| request.operation != Operation::Connect);
        let old = old.filter(|_| request.operation != Operation::Connect);
        Self {
            request,
            object: object.map(Object::metadata),
            old: old.map(Object::metadata),
            namespace: OnceCell::new(),
            namespace_labels: OnceCell::new(),
            equivalents: OnceLock::new(),
        }
    }

    fn is_namespace(&self) -> bool {
        let kind = &self.request.resource.kind;
        kind.group.is_empty() && kind.plural == "namespaces"
    }

    /// What rules are held against.
    pub fn asked(&self) -> Asked<'a> {
        let request = self.request;
        let kind = &request.resource.kind;
        let itself = self.is_namespace() && request.operation != Operation::Create;
        Asked {
            operation: request.operation,
            group: &kind.group,
            version: &kind.version,
            plural: &kind.plural,
            subresource: request.subresource,
            namespace: if itself {
                request.name
            } else {
                request.namespace
            },
            name: request.name,
        }
    }

    /// The namespace that the request is in; `None`: it is in none, or is for a namespace itself.
    pub async fn namespace(&self) -> ApiResult<Option<&Arc<Entry>>> {
        if self.request.namespace.is_empty() {
            return Ok(None);
        }
        self.load(self.request.namespace).await.map(Some)
    }

    async fn load(&self, name: &str) -> ApiResult<&Arc<Entry>> {
        let load = async || {
            let server = &self.request.call.server;
            let registry = server.registry.load_full();
            let namespaces = registry
                .stored("", "namespaces")
                .ok_or_else(ApiError::no_such_path)?;
            let found = server.lookup(namespaces, "", name).await?;
            found.ok_or_else(|| ApiError::not_found("", "namespaces", name))
        };
        self.namespace.get_or_try_init(load).await
    }

    /// Whether the namespace's labels satisfy the selector. What is in no namespace is never left out.
    pub async fn namespace_selected(&self, selector: &LabelSelector) -> ApiResult<bool> {
        let asked = self.asked();
        if selects_everything(selector) || (asked.namespace.is_empty() && !self.is_namespace()) {
            return Ok(true);
        }
        let labels = self
            .namespace_labels
            .get_or_try_init(async || {
                let written = matches!(asked.operation, Operation::Create | Operation::Update);
                if self.is_namespace() && asked.subresource.is_empty() && written {
                    return Ok(self.object.and_then(|meta| meta.labels.clone()));
                }
                let entry = self.load(asked.namespace).await?;
                let object: Labelled = entry.decode().unwrap_or_default();
                Ok::<_, ApiError>(object.metadata.labels)
            })
            .await?;
        Ok(selector_matches(selector, labels))
    }

    /// Whether the object, or the one before it, satisfies the selector.
    pub fn object_selected(&self, selector: &LabelSelector) -> bool {
        selects_everything(selector)
            || [self.object, self.old]
                .into_iter()
                .flatten()
                .any(|meta| selector_matches(selector, &meta.labels))
    }

    /// The resources that are the same objects in another version or group.
    fn equivalents(&self) -> &[Arc<Resource>] {
        self.equivalents.get_or_init(|| {
            let own = self.request.resource;
            if !own.kind.is_stored() {
                return Vec::new();
            }
            let registry = self.request.call.server.registry.load();
            let same = |other: &&Arc<Resource>| {
                other.storage.storage == own.storage.storage
                    && (&other.kind.group, &other.kind.version)
                        != (&own.kind.group, &own.kind.version)
                    && (self.request.subresource.is_empty()
                        || other.subresource(self.request.subresource).is_some())
            };
            if own.kind.as_custom().is_some() {
                let customs = registry.custom(&own.kind.group, &own.kind.plural);
                return customs.filter(same).cloned().collect();
            }
            registry.built_in().filter(same).cloned().collect()
        })
    }

    /// The resource that one of the rules is for.
    pub fn rule_matches(&self, rules: &[Rule], equivalent: bool) -> Option<Match> {
        let asked = self.asked();
        if rules.iter().any(|rule| rule.matches(&asked)) {
            return Some(Match::Own);
        }
        if !equivalent {
            return None;
        }
        rules.iter().find_map(|rule| {
            let matching = self.equivalents().iter().find(|other| {
                rule.matches(&Asked {
                    group: &other.kind.group,
                    version: &other.kind.version,
                    plural: &other.kind.plural,
                    ..asked
                })
            });
            matching.cloned().map(Match::Equivalent)
        })
    }

    /// What the request is taken for; `None`: the criteria are not for it. Fails where the namespace is not there.
    pub async fn matches(&self, criteria: &Criteria) -> ApiResult<Option<Match>> {
        if !self.object_selected(&criteria.object_selector)
            || self
                .rule_matches(&criteria.excluded, criteria.equivalent)
                .is_some()
        {
            return Ok(None);
        }
        let matched = if criteria.rules.is_empty() {
            Some(Match::Own)
        } else {
            self.rule_matches(&criteria.rules, criteria.equivalent)
        };
        let Some(matched) = matched else {
            return Ok(None);
        };
        let selected = self
            .namespace_selected(&criteria.namespace_selector)
            .await?;
        Ok(selected.then_some(matched))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const DEPLOYMENT: Asked<'static> = Asked {
        operation: Operation::Create,
        group: "apps",
        version: "v1",
        plural: "deployments",
        subresource: "",
        namespace: "ns",
        name: "web",
    };
    const NAMESPACE: Asked<'static> = Asked {
        operation: Operation::Update,
        group: "",
        version: "v1",
        plural: "namespaces",
        subresource: "",
        namespace: "ns",
        name: "ns",
    };
    const NODE: Asked<'static> = Asked {
        plural: "nodes",
        namespace: "",
        ..NAMESPACE
    };
    const SCALE: Asked<'static> = Asked {
        subresource: "scale",
        operation: Operation::Update,
        ..DEPLOYMENT
    };

    /// Groups, versions, operations, resources, scope, names, what is asked, and whether the rule is for it.
    type List<'a> = &'a [&'a str];
    type Row<'a> = (
        List<'a>,
        List<'a>,
        List<'a>,
        List<'a>,
        &'a str,
        List<'a>,
        Asked<'a>,
        bool,
    );

    #[test]
    fn rules_by_each_of_their_fields() {
        let all = ["*"];
        #[rustfmt::skip]
        let table: &[Row<'_>] = &[
            (&all, &all, &all, &all, "*", &[], DEPLOYMENT, true),
            (&["apps"], &["v1"], &["CREATE"], &["deployments"], "Namespaced", &["web"], DEPLOYMENT, true),
            (&["batch"], &all, &all, &all, "*", &[], DEPLOYMENT, false),
            (&all, &["v1beta1"], &all, &all, "*", &[], DEPLOYMENT, false),
            (&all, &all, &["UPDATE", "DELETE"], &all, "*", &[], DEPLOYMENT, false),
            (&all, &all, &all, &["pods", "deployments/*"], "*", &[], DEPLOYMENT, true),
            (&all, &all, &all, &["deployments/scale"], "*", &[], DEPLOYMENT, false),
            (&all, &all, &all, &["deployments/scale"], "*", &[], SCALE, true),
            (&all, &all, &all, &["*"], "*", &[], SCALE, false),
            (&all, &all, &all, &["*/scale"], "*", &[], SCALE, true),
            (&all, &all, &all, &["*/*"], "*", &[], SCALE, true),
            (&all, &all, &all, &all, "Cluster", &[], DEPLOYMENT, false),
            (&all, &all, &all, &all, "Namespaced", &[], NAMESPACE, false),
            (&all, &all, &all, &all, "Cluster", &[], NAMESPACE, true),
            (&all, &all, &all, &all, "Cluster", &[], NODE, true),
            (&all, &all, &all, &all, "Namespaced", &[], NODE, false),
            (&all, &all, &all, &all, "*", &["api", "db"], DEPLOYMENT, false),
            (&[], &all, &all, &all, "*", &[], DEPLOYMENT, false),
        ];
        for (groups, versions, operations, resources, scope, names, asked, expected) in table {
            let value = json!({"apiGroups": groups, "apiVersions": versions, "operations": operations,
                "resources": resources, "scope": scope, "resourceNames": names});
            let rule: NamedRuleWithOperations = serde_json::from_value(value.clone()).unwrap();
            assert_eq!(Rule::from(&rule).matches(asked), *expected, "{value}");
        }
    }
}
