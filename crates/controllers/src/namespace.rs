//! Empties namespaces that are being deleted: pods first, then everything else, then the namespace's own
//! finalizer.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::join_all;
use http::Request;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use serde::Deserialize;
use skiff_base::SharedClock;
use skiff_client::failure::message;
use skiff_client::{
    ApiFailure, Event, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache, is_not_found,
};

use crate::discovery::{ApiResource, discover};
use crate::seen_pod::Pod;
use crate::{Context, pods};

/// The name of this controller.
pub const NAME: &str = "namespace-controller";

const WORKERS: usize = 4;
/// So many resources are emptied at a time.
const AT_ONCE: usize = 4;
/// How long to wait for others (finalizers) before looking again.
const WAIT: Duration = Duration::from_secs(1);
const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

struct Namespaces {
    client: Client,
    namespaces: SharedCache<Namespace>,
    pods: SharedCache<Pod>,
    clock: SharedClock,
}

/// Runs the controller.
pub async fn run(context: Context) {
    let namespaces = context.caches.of::<Namespace>();
    let pods = context.caches.of::<Pod>();
    let queue = context.queue();
    namespaces.wait_synced().await;
    pods.wait_synced().await;
    let _namespaces = {
        let queue = queue.clone();
        namespaces.on_event(move |event| {
            let meta = &event.object().metadata;
            if meta.deletion_timestamp.is_some() {
                queue.add(ObjectKey::of(meta));
            }
        })
    };
    // The last pod that goes opens the way for the rest.
    let _pods = {
        let (queue, namespaces) = (queue.clone(), namespaces.clone());
        pods.on_event(move |event| {
            if let Event::Deleted(pod) = event {
                let key = ObjectKey::new("", pod.metadata.namespace.as_deref().unwrap_or_default());
                let namespace = namespaces.get(&key);
                if namespace.is_some_and(|found| found.metadata.deletion_timestamp.is_some()) {
                    queue.add(key);
                }
            }
        })
    };
    let reconciler = Namespaces {
        client: context.client(NAME),
        namespaces,
        pods,
        clock: context.clock.clone(),
    };
    context.run(reconciler, queue, WORKERS).await;
}

/// What is left of one resource in a namespace.
#[derive(Clone, Debug, Default, PartialEq)]
struct Remains {
    /// `pods.` or `deployments.apps`: the plural, a dot and the group.
    resource: String,
    count: usize,
    finalizers: BTreeMap<String, usize>,
    failure: Option<String>,
}

#[derive(Deserialize)]
struct Items {
    #[serde(default)]
    items: Vec<kube::core::PartialObjectMeta>,
}

#[async_trait]
impl Reconciler for Namespaces {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "namespace"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let name = key.name();
        if self.namespaces.get(key).is_none() {
            return Ok(Outcome::Done);
        }
        let api: Api<Namespace> = Api::all(self.client.clone());
        let Some(mut namespace) = api.get_opt(name).await? else {
            return Ok(Outcome::Done);
        };
        let finalizers = namespace
            .spec
            .as_ref()
            .and_then(|spec| spec.finalizers.as_ref());
        let ours = finalizers.is_some_and(|all| all.iter().any(|found| found == "kubernetes"));
        if namespace.metadata.deletion_timestamp.is_none() || !ours {
            return Ok(Outcome::Done);
        }
        let status = namespace.status.get_or_insert_default();
        if status.phase.as_deref() != Some("Terminating") {
            status.phase = Some("Terminating".to_owned());
            namespace = api
                .replace_status(name, &PostParams::default(), &namespace)
                .await?;
        }
        let (resources, discovery_failure) = match discover(&self.client).await {
            Ok(resources) => (resources, None),
            Err(error) => (Vec::new(), Some(message(&error))),
        };
        let remains = self.empty(name, &resources).await;
        let now = skiff_client::timestamp(&*self.clock);
        let status = namespace.status.get_or_insert_default();
        let conditions = status.conditions.get_or_insert_default();
        if update_conditions(conditions, discovery_failure.as_deref(), &remains, now.0) {
            namespace = api
                .replace_status(name, &PostParams::default(), &namespace)
                .await?;
        }
        if let Some(failure) = discovery_failure {
            return Err(ReconcileError::Other(failure));
        }
        if remains.iter().any(|found| found.failure.is_some()) {
            return Ok(Outcome::Retry);
        }
        if remains.is_empty() {
            return self.finalize(&api, namespace).await;
        }
        Ok(Outcome::After(WAIT))
    }
}

impl Namespaces {
    /// Deletes the content, as far as it can be deleted now; answers with what is left.
    async fn empty(&self, namespace: &str, resources: &[ApiResource]) -> Vec<Remains> {
        let deletable =
            |resource: &&ApiResource| resource.namespaced && resource.serves(&["list", "delete"]);
        let is_pods =
            |resource: &ApiResource| resource.group.is_empty() && resource.plural == "pods";
        let (first, rest): (Vec<_>, Vec<_>) = resources
            .iter()
            .filter(deletable)
            .partition(|resource| is_pods(resource));
        for batch in [first, rest] {
            let mut remains = Vec::new();
            for some in batch.chunks(AT_ONCE) {
                let mut work = Vec::with_capacity(some.len());
                for resource in some {
                    work.push(self.empty_resource(namespace, resource));
                }
                remains.extend(join_all(work).await);
            }
            remains.retain(|remains| remains.count > 0 || remains.failure.is_some());
            if !remains.is_empty() {
                remains.sort_by(|a, b| a.resource.cmp(&b.resource));
                return remains;
            }
        }
        Vec::new()
    }

    async fn empty_resource(&self, namespace: &str, resource: &ApiResource) -> Remains {
        let mut remains = Remains {
            resource: format!("{}.{}", resource.plural, resource.group),
            ..Remains::default()
        };
        match self.try_empty(namespace, resource).await {
            Ok(items) => {
                remains.count = items.len();
                for item in &items {
                    for finalizer in item.metadata.finalizers.iter().flatten() {
                        *remains.finalizers.entry(finalizer.clone()).or_default() += 1;
                    }
                }
                let waits_for_pods = resource.plural == "pods"
                    && self
                        .pods
                        .list_in(namespace)
                        .iter()
                        .all(|pod| pods::is_deleting(pod));
                if remains.count > 0 && remains.finalizers.is_empty() && !waits_for_pods {
                    remains.failure = Some(format!(
                        "unexpected items still remain in namespace: {namespace} for gvr: {}, Resource={}",
                        if resource.group.is_empty() {
                            "/v1".to_owned()
                        } else {
                            resource.api_version()
                        },
                        resource.plural
                    ));
                }
            }
            // Not served after all.
            Err(error) if matches!(error.code(), Some(404 | 405)) => {}
            Err(error) => remains.failure = Some(message(&error)),
        }
        remains
    }

    async fn try_empty(
        &self,
        namespace: &str,
        resource: &ApiResource,
    ) -> Result<Vec<kube::core::PartialObjectMeta>, Error> {
        let path = resource.path(namespace);
        let items = self.list(&path).await?;
        if items.is_empty() {
            return Ok(items);
        }
        if resource.serves(&["deletecollection"]) {
            self.delete(&path).await?;
        } else {
            for item in &items {
                let name = item.metadata.name.as_deref().unwrap_or_default();
                match self.delete(&format!("{path}/{name}")).await {
                    Err(error) if !is_not_found(&error) => return Err(error),
                    _ => {}
                }
            }
        }
        self.list(&path).await
    }

    async fn list(&self, path: &str) -> Result<Vec<kube::core::PartialObjectMeta>, Error> {
        let request = Request::get(path)
            .header(http::header::ACCEPT, METADATA_LIST)
            .body(Vec::new())
            .map_err(Error::HttpError)?;
        let list: Items = self.client.request(request).await?;
        Ok(list.items)
    }

    async fn delete(&self, path: &str) -> Result<(), Error> {
        let request = Request::delete(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(
                br#"{"kind":"DeleteOptions","apiVersion":"v1","propagationPolicy":"Background"}"#
                    .to_vec(),
            )
            .map_err(Error::HttpError)?;
        self.client.request_text(request).await.map(drop)
    }

    async fn finalize(
        &self,
        api: &Api<Namespace>,
        mut namespace: Namespace,
    ) -> Result<Outcome, ReconcileError> {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let spec = namespace.spec.get_or_insert_default();
        if let Some(finalizers) = &mut spec.finalizers {
            finalizers.retain(|found| found != "kubernetes");
        }
        match api
            .replace_subresource("finalize", &name, &PostParams::default(), &namespace)
            .await
        {
            Ok(_) => Ok(Outcome::Done),
            Err(error) if is_not_found(&error) => Ok(Outcome::Done),
            Err(error) => Err(error.into()),
        }
    }
}

/// The conditions: type, and the reason and message when all is well.
const CONDITIONS: [(&str, &str, &str); 5] = [
    (
        "NamespaceDeletionDiscoveryFailure",
        "ResourcesDiscovered",
        "All resources successfully discovered",
    ),
    (
        "NamespaceDeletionGroupVersionParsingFailure",
        "ParsedGroupVersions",
        "All legacy kube types successfully parsed",
    ),
    (
        "NamespaceDeletionContentFailure",
        "ContentDeleted",
        "All content successfully deleted, may be waiting on finalization",
    ),
    (
        "NamespaceContentRemaining",
        "ContentRemoved",
        "All content successfully removed",
    ),
    (
        "NamespaceFinalizersRemaining",
        "ContentHasNoFinalizers",
        "All content-preserving finalizers finished",
    ),
];

/// Sets the conditions to what is true now; answers whether that changed any.
fn update_conditions(
    conditions: &mut Vec<NamespaceCondition>,
    discovery: Option<&str>,
    remains: &[Remains],
    now: Timestamp,
) -> bool {
    let mut changed = false;
    for (type_, ok_reason, ok_message) in CONDITIONS {
        let trouble = trouble(type_, discovery, remains);
        let failing = trouble.is_some();
        let (reason, message) =
            trouble.unwrap_or_else(|| (ok_reason.to_owned(), ok_message.to_owned()));
        let new = NamespaceCondition {
            type_: type_.to_owned(),
            status: if failing { "True" } else { "False" }.to_owned(),
            reason: Some(reason),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        };
        match conditions.iter_mut().find(|found| found.type_ == type_) {
            None => conditions.push(new),
            Some(old) => {
                let mut new = new;
                if old.status == new.status {
                    new.last_transition_time
                        .clone_from(&old.last_transition_time);
                }
                if *old == new {
                    continue;
                }
                *old = new;
            }
        }
        changed = true;
    }
    changed
}

fn trouble(type_: &str, discovery: Option<&str>, remains: &[Remains]) -> Option<(String, String)> {
    match type_ {
        "NamespaceDeletionDiscoveryFailure" => {
            discovery.map(|failure| ("DiscoveryFailed".to_owned(), failure.to_owned()))
        }
        "NamespaceDeletionContentFailure" => {
            let mut failures: Vec<_> = remains
                .iter()
                .filter_map(|found| found.failure.as_deref())
                .collect();
            failures.sort_unstable();
            (!failures.is_empty()).then(|| {
                let text = format!(
                    "Failed to delete all resource types, {} remaining: {}",
                    failures.len(),
                    failures.join(", ")
                );
                ("ContentDeletionFailed".to_owned(), text)
            })
        }
        "NamespaceContentRemaining" => {
            let left: Vec<_> = remains
                .iter()
                .filter(|found| found.count > 0)
                .map(|found| format!("{} has {} resource instances", found.resource, found.count))
                .collect();
            (!left.is_empty()).then(|| {
                let text = format!("Some resources are remaining: {}", left.join(", "));
                ("SomeResourcesRemain".to_owned(), text)
            })
        }
        "NamespaceFinalizersRemaining" => {
            let mut totals: BTreeMap<&str, usize> = BTreeMap::new();
            for (finalizer, count) in remains.iter().flat_map(|found| &found.finalizers) {
                *totals.entry(finalizer).or_default() += count;
            }
            let left: Vec<_> = totals
                .iter()
                .map(|(finalizer, count)| format!("{finalizer} in {count} resource instances"))
                .collect();
            (!left.is_empty()).then(|| {
                let text = format!(
                    "Some content in the namespace has finalizers remaining: {}",
                    left.join(", ")
                );
                ("SomeFinalizersRemain".to_owned(), text)
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn conditions_tell_what_remains_and_keep_their_times() {
        let mut conditions = Vec::new();
        let remains = [Remains {
            resource: "pods.".into(),
            count: 2,
            finalizers: [("example.com/hold".to_owned(), 1)].into(),
            failure: None,
        }];
        assert!(update_conditions(&mut conditions, None, &remains, at(1)));
        assert!(!update_conditions(&mut conditions, None, &remains, at(2)));
        let summary: Vec<_> = conditions
            .iter()
            .map(|found| (found.status.as_str(), found.message.as_deref().unwrap()))
            .collect();
        assert_eq!(
            summary[3],
            (
                "True",
                "Some resources are remaining: pods. has 2 resource instances"
            )
        );
        assert_eq!(
            summary[4],
            (
                "True",
                "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
            )
        );
        assert_eq!(
            summary[0],
            ("False", "All resources successfully discovered")
        );
        assert!(update_conditions(&mut conditions, Some("down"), &[], at(9)));
        let times: Vec<_> = conditions
            .iter()
            .map(|found| found.last_transition_time.as_ref().unwrap().0.as_second())
            .collect();
        assert_eq!(times, [9, 1, 1, 9, 9]);
    }
}
