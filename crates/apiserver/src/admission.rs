//! Admission: plugins that change or refuse writes. `chain` lists them in upstream's order and says which run.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use skiff_api::{ApiError, ApiResult, Object};

use crate::cache::Entry;
use crate::query::Freshness;
use crate::registry::Resource;
use crate::server::Call;

mod always_pull_images;
mod always_tell;
mod certificates;
mod chain;
mod claim_resize;
mod default_class;
mod default_toleration_seconds;
mod deny_service_external_ips;
mod event_rate_limit;
pub(crate) mod expressions;
mod extended_resource_toleration;
mod image_policy_webhook;
mod limit_pod_hard_anti_affinity;
mod limit_ranger;
pub(crate) mod matching;
mod namespace_lifecycle;
mod namespace_presence;
mod node_declared_features;
mod node_restriction;
mod owner_references;
mod pod_node_selector;
mod pod_preset;
mod pod_resize;
mod pod_security;
mod pod_toleration_restriction;
mod pod_topology_labels;
pub(crate) mod policy;
mod priority;
mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_object_in_use_protection;
mod taint_nodes_by_condition;
mod tolerations;
mod view;
pub(crate) mod webhooks;

pub use chain::AdmissionChain;
pub(crate) use view::Given;

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are upstream's own operations")]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    /// The operation as rules and reviews write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// A write, or a connection, on its way to being admitted.
pub(crate) struct AdmissionRequest<'a> {
    pub call: &'a Call,
    pub operation: Operation,
    pub resource: &'a Resource,
    pub subresource: &'a str,
    pub namespace: &'a str,
    /// Empty for a create whose name is yet to be made.
    pub name: &'a str,
    /// Whether nothing is stored in the end.
    pub dry_run: bool,
    /// What came with the request beside its object.
    pub given: Given,
    /// What is remembered between the rounds of the plugins that change objects.
    pub reinvocation: webhooks::Reinvocation,
    /// Annotations that a plugin puts on the object which it lets through.
    pub marks: Mutex<BTreeMap<String, String>>,
}

impl AdmissionRequest<'_> {
    /// The refusal of a plugin, in upstream's form.
    pub fn forbidden(&self, why: &str) -> ApiError {
        let kind = &self.resource.kind;
        ApiError::forbidden(&kind.group, &kind.plural, self.name, why)
    }

    /// Whether the write is to this resource of this group, subresource excluded.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.resource.kind.group == group
            && self.resource.kind.plural == plural
            && self.subresource.is_empty()
    }

    /// An object of a stored resource as of now.
    pub async fn find<T: DeserializeOwned>(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> ApiResult<Option<T>> {
        let found = self.find_entry(group, plural, namespace, name).await?;
        Ok(found.and_then(|entry| entry.decode()))
    }

    /// The same, not decoded.
    pub async fn find_entry(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> ApiResult<Option<Arc<Entry>>> {
        let server = &self.call.server;
        let registry = server.registry.load_full();
        let resource = registry
            .stored(group, plural)
            .ok_or_else(ApiError::no_such_path)?;
        server.lookup(resource, namespace, name).await
    }

    /// The annotations of the request's namespace; an error when there is no such namespace.
    pub async fn namespace_annotations(&self) -> ApiResult<BTreeMap<String, String>> {
        #[derive(serde::Deserialize)]
        struct Named {
            metadata: Annotated,
        }
        #[derive(serde::Deserialize)]
        struct Annotated {
            #[serde(default)]
            annotations: BTreeMap<String, String>,
        }
        let found: Option<Named> = self.find("", "namespaces", "", self.namespace).await?;
        found
            .map(|namespace| namespace.metadata.annotations)
            .ok_or_else(|| ApiError::not_found("", "namespaces", self.namespace))
    }

    /// All objects of a stored resource as of now; of one namespace, or of all where it is empty.
    pub async fn list<T: DeserializeOwned>(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
    ) -> ApiResult<Vec<T>> {
        self.list_at(Freshness::Newest, group, plural, namespace)
            .await
    }

    /// The same as far as the cache knows, without waiting for what was written a moment ago.
    pub async fn list_known<T: DeserializeOwned>(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
    ) -> ApiResult<Vec<T>> {
        self.list_at(Freshness::Any, group, plural, namespace).await
    }

    async fn list_at<T: DeserializeOwned>(
        &self,
        freshness: Freshness,
        group: &str,
        plural: &str,
        namespace: &str,
    ) -> ApiResult<Vec<T>> {
        let server = &self.call.server;
        let registry = server.registry.load_full();
        let resource = registry
            .stored(group, plural)
            .ok_or_else(ApiError::no_such_path)?;
        let cache = server.hub_cache(resource).await?;
        server.wait_fresh(freshness).await?;
        let (entries, _) = cache.list(&resource.prefix(namespace), None, 0);
        Ok(entries.iter().filter_map(|entry| entry.decode()).collect())
    }
}

/// An admission plugin.
#[async_trait]
pub(crate) trait Admission: Send + Sync + 'static {
    /// Changes an object before it is validated; `old` is none on create.
    async fn mutate(
        &self,
        _request: &AdmissionRequest<'_>,
        _object: &mut dyn Object,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        Ok(())
    }
    /// Whether the plugin may make another object of one: [`Admission::replace`] is called.
    fn replaces(&self) -> bool {
        false
    }
    /// Makes another object; `None`: it stays as it is. There is no `object` on delete and connect, `old` is none on create.
    async fn replace(
        &self,
        _request: &AdmissionRequest<'_>,
        _object: Option<&dyn Object>,
        _old: Option<&dyn Object>,
    ) -> ApiResult<Option<Box<dyn Object>>> {
        Ok(None)
    }
    /// Refuses what may not be; `object` is none on delete, `old` on create.
    async fn validate(
        &self,
        _request: &AdmissionRequest<'_>,
        _object: Option<&dyn Object>,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        Ok(())
    }
}

/// Runs the changing half of all plugins.
///
/// Plugins run a second time where one replaced the object, so that those before it see what it became.
pub(crate) async fn mutate(
    request: &AdmissionRequest<'_>,
    object: &mut Box<dyn Object>,
    old: Option<&dyn Object>,
) -> ApiResult<()> {
    loop {
        for plugin in request.call.server.config.admission.plugins() {
            plugin.mutate(request, &mut **object, old).await?;
            if plugin.replaces()
                && let Some(new) = plugin.replace(request, Some(&**object), old).await?
            {
                *object = new;
            }
        }
        if !request.reinvocation.next_round() {
            return Ok(());
        }
    }
}

/// Asks those who may change objects about a deletion or a connection, where there is nothing to change.
pub(crate) async fn announce(
    request: &AdmissionRequest<'_>,
    old: Option<&dyn Object>,
) -> ApiResult<()> {
    for plugin in request.call.server.config.admission.plugins() {
        if plugin.replaces() {
            plugin.replace(request, None, old).await?;
        }
    }
    Ok(())
}

/// Runs the refusing half of all plugins over an object that is about to be written, which may get marks of theirs.
pub(crate) async fn judge(
    request: &AdmissionRequest<'_>,
    object: &mut dyn Object,
    old: Option<&dyn Object>,
) -> ApiResult<()> {
    validate(request, Some(object), old).await?;
    let marks = std::mem::take(&mut *request.marks.lock());
    if !marks.is_empty() {
        let annotations = &mut object.metadata_mut().annotations;
        annotations.get_or_insert_default().extend(marks);
    }
    Ok(())
}

/// Runs the refusing half of all plugins.
pub(crate) async fn validate(
    request: &AdmissionRequest<'_>,
    object: Option<&dyn Object>,
    old: Option<&dyn Object>,
) -> ApiResult<()> {
    for plugin in request.call.server.config.admission.plugins() {
        plugin.validate(request, object, old).await?;
    }
    Ok(())
}
