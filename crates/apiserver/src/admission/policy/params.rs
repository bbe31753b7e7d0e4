//! The parameters of a policy: objects of any served kind, which a binding names or selects, from the watch cache.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::admissionregistration::v1::ParamRef;
use parking_lot::Mutex;
use serde_json::Value;
use skiff_api::validation::meta::{selector_matches, selects_everything};

use super::table::Head;
use crate::cache::Entry;
use crate::registry::Resource;
use crate::server::ApiServer;

/// Parameters that a policy keeps decoded; above, all are forgotten.
const KEPT: usize = 256;

/// An object and its revision.
type Known = (u64, Arc<Value>);

/// Objects that policies used last, decoded once per revision.
#[derive(Default)]
pub(crate) struct ParamCache(Mutex<HashMap<Arc<str>, Known>>);

impl ParamCache {
    /// The object of an entry, made if this revision of it is not known.
    pub fn get(&self, entry: &Entry, make: impl FnOnce() -> Value) -> Arc<Value> {
        let mut kept = self.0.lock();
        if let Some((revision, value)) = kept.get(&entry.key)
            && *revision == entry.revision
        {
            return value.clone();
        }
        if kept.len() >= KEPT {
            kept.clear();
        }
        let value = Arc::new(make());
        kept.insert(entry.key.clone(), (entry.revision, value.clone()));
        value
    }
}

/// The resource of a policy's parameters. The error is upstream's.
pub(crate) fn resource(server: &ApiServer, head: &Head) -> Result<Option<Arc<Resource>>, String> {
    let Some(kind) = &head.param_kind else {
        return Ok(None);
    };
    let registry = server.registry.load();
    let found = registry.of_kind(&kind.api_version, &kind.kind);
    match found.filter(|resource| resource.kind.is_stored()) {
        Some(resource) => Ok(Some(resource.clone())),
        None => Err(format!(
            "failed to find resource referenced by paramKind: '{kind}'"
        )),
    }
}

/// What a policy is evaluated with for one binding: once per parameter, once with none where there are no
/// parameters at all, never where there should be some and a binding allows that there are none. `namespace` is the
/// request's.
pub(crate) async fn collect(
    server: &Arc<ApiServer>,
    head: &Head,
    resource: Option<&Arc<Resource>>,
    reference: Option<&ParamRef>,
    namespace: &str,
) -> Result<Vec<Option<Arc<Value>>>, String> {
    let (Some(resource), Some(reference)) = (resource, reference) else {
        return Ok(vec![None]);
    };
    let own = reference.namespace.as_deref().unwrap_or_default();
    let namespace = if !resource.namespaced() {
        if !own.is_empty() {
            return Err(
                "paramRef.namespace must not be provided for a cluster-scoped `paramKind`"
                    .to_owned(),
            );
        }
        ""
    } else if !own.is_empty() {
        own
    } else if !namespace.is_empty() {
        namespace
    } else {
        return Err(
            "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources"
                .to_owned(),
        );
    };
    let cache = server
        .hub_cache(resource)
        .await
        .map_err(|error| error.to_string())?;
    let name = reference.name.as_deref().unwrap_or_default();
    let found = match &reference.selector {
        Some(_) if !name.is_empty() => {
            return Err("paramRef.name and paramRef.selector are mutually exclusive".to_owned());
        }
        None if name.is_empty() => {
            return Err("one of name or selector must be provided".to_owned());
        }
        None => cache
            .get(&resource.key(namespace, name))
            .into_iter()
            .collect(),
        Some(selector) => {
            let (mut entries, _) = cache.list(&resource.prefix(namespace), None, 0);
            if !selects_everything(selector) {
                entries.retain(|entry| {
                    let labels = entry.labels(&resource.storage).clone();
                    selector_matches(selector, &Some(labels))
                });
            }
            entries
        }
    };
    let deny = reference.parameter_not_found_action.as_deref() == Some("Deny");
    if found.is_empty() && deny {
        return Err(
            "no params found for policy binding with `Deny` parameterNotFoundAction".to_owned(),
        );
    }
    Ok(found
        .iter()
        .map(|entry| {
            let make = || resource.served_value(&entry.bytes);
            Some(head.params.get(entry, make))
        })
        .collect())
}
