//! Who manages whom: controller references, and the adoption and release of objects by selector.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::api::{Api, Patch, PatchParams};
use kube::core::{NamespaceResourceScope, Resource};
use kube::{Client, Error};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use skiff_client::reflect::Watched;
use skiff_client::{
    ApiFailure, Event, LabelMatcher, ObjectKey, SharedCache, WorkQueue, is_not_found,
};

/// The reference of the object's managing owner, if it has one.
#[must_use]
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    let mut owners = meta.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true))
}

/// Whether the object is managed by the owner with this uid.
#[must_use]
pub fn is_controlled_by(meta: &ObjectMeta, owner: &ObjectMeta) -> bool {
    controller_of(meta).is_some_and(|found| Some(&found.uid) == owner.uid.as_ref())
}

/// The reference by which `owner` manages what it makes.
pub fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        controller: Some(true),
        block_owner_deletion: Some(true),
        ..plain_reference(owner)
    }
}

/// A reference to an owner that does not manage the object.
pub fn plain_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    let meta = owner.meta();
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: None,
        block_owner_deletion: None,
    }
}

/// What an owner with a selector has to do about the objects of its namespace.
#[derive(Debug)]
pub struct Claims<K> {
    /// It manages these, and they match.
    pub owned: Vec<Arc<K>>,
    /// They match and nobody manages them.
    pub adopt: Vec<Arc<K>>,
    /// It manages these, but they match no longer.
    pub release: Vec<Arc<K>>,
}

/// Sorts `objects` into what `owner` keeps, adopts and releases. An owner that is being deleted neither
/// adopts nor releases; an object that is being deleted is not adopted.
pub fn claim<K: Resource>(
    owner: &ObjectMeta,
    selector: &LabelMatcher,
    objects: impl IntoIterator<Item = Arc<K>>,
) -> Claims<K> {
    claim_if(
        owner,
        |meta| selector.matches(meta.labels.as_ref()),
        objects,
    )
}

/// The same where more than a selector says what belongs to the owner.
pub fn claim_if<K: Resource>(
    owner: &ObjectMeta,
    belongs: impl Fn(&ObjectMeta) -> bool,
    objects: impl IntoIterator<Item = Arc<K>>,
) -> Claims<K> {
    let mut claims = Claims {
        owned: Vec::new(),
        adopt: Vec::new(),
        release: Vec::new(),
    };
    let owner_stays = owner.deletion_timestamp.is_none();
    for object in objects {
        let meta = object.meta();
        let matches = belongs(meta);
        match controller_of(meta) {
            Some(found) if Some(&found.uid) != owner.uid.as_ref() => {}
            Some(_) if matches => claims.owned.push(object),
            Some(_) if owner_stays => claims.release.push(object),
            None if matches && owner_stays && meta.deletion_timestamp.is_none() => {
                claims.adopt.push(object);
            }
            _ => {}
        }
    }
    claims
}

/// Whether a workload's selector is for an object; none, and one that cannot be read, is for nothing.
#[must_use]
pub fn selects(selector: Option<&LabelSelector>, meta: &ObjectMeta) -> bool {
    let matcher = LabelMatcher::from_selector(selector);
    matcher.is_ok_and(|found| found.matches(meta.labels.as_ref()))
}

/// Queues the owner of an object that changed, the one that it had before, and for an object without one all that
/// `wants` it.
pub fn queue_owners<K, O>(
    event: &Event<K>,
    owners: &SharedCache<O>,
    wants: impl Fn(&O, &ObjectMeta) -> bool,
    queue: &WorkQueue<ObjectKey>,
) where
    K: Resource,
    O: Resource<DynamicType = ()> + Watched,
{
    let meta = event.object().meta();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let owner_of = |meta: &ObjectMeta| {
        controller_of(meta)
            .filter(|owner| owner.kind == O::kind(&()) && owner.api_version == O::api_version(&()))
            .map(|owner| ObjectKey::new(namespace, &owner.name))
    };
    let owner = owner_of(meta);
    let orphan = controller_of(meta).is_none();
    if let Event::Updated { old, .. } = event {
        let before = owner_of(old.meta());
        if before != owner {
            before.into_iter().for_each(|key| queue.add(key));
        } else if orphan && old.meta().labels == meta.labels {
            return;
        }
    }
    if let Some(key) = owner {
        queue.add(key);
    } else if orphan && !matches!(event, Event::Deleted(_)) {
        for owner in owners.list_in(namespace) {
            if wants(&owner, meta) {
                queue.add(ObjectKey::of(owner.meta()));
            }
        }
    }
}

/// Carries claims out, as `owner`: releases, then adopts, unless the server says that the owner is gone or on its way
/// out. Answers what the owner has then. Objects that are gone, or that somebody else was quicker to take, are passed
/// over.
///
/// # Errors
/// What the server says to a patch, or to the question whether the owner is still there.
pub async fn settle<O, K>(
    client: &Client,
    owner: &O,
    claims: Claims<K>,
) -> Result<Vec<Arc<K>>, Error>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let mut owned = claims.owned;
    let meta = owner.meta();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let uid = meta.uid.as_deref().unwrap_or_default();
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let parameters = PatchParams::default();
    let gone = |error: &Error| is_not_found(error) || error.code() == Some(422);
    for object in claims.release {
        let meta = object.meta();
        let patch = release_patch(uid, meta.uid.as_deref().unwrap_or_default());
        let name = meta.name.as_deref().unwrap_or_default();
        match api
            .patch(name, &parameters, &Patch::Strategic(&patch))
            .await
        {
            Err(error) if !gone(&error) => return Err(error),
            _ => {}
        }
    }
    if claims.adopt.is_empty() {
        return Ok(owned);
    }
    // An owner that was deleted in the meantime must not adopt.
    if !lives(client, owner).await? {
        return Ok(owned);
    }
    for object in claims.adopt {
        let meta = object.meta();
        let uid = meta.uid.as_deref().unwrap_or_default();
        let patch = adoption_patch(&controller_reference(owner), uid);
        let name = meta.name.as_deref().unwrap_or_default();
        match api
            .patch(name, &parameters, &Patch::Strategic(&patch))
            .await
        {
            Ok(adopted) => owned.push(Arc::new(adopted)),
            Err(error) if gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(owned)
}

/// What a label of an object says.
#[must_use]
pub fn label<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    let labels = meta.labels.as_ref()?;
    labels.get(name).map(String::as_str)
}

/// Whether an object is still there and not on its way out, by the server's word: a cache may lag.
///
/// # Errors
/// What the server says.
pub async fn lives<O>(client: &Client, object: &O) -> Result<bool, Error>
where
    O: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let meta = object.meta();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let api: Api<O> = Api::namespaced(client.clone(), namespace);
    let fresh = api
        .get_opt(meta.name.as_deref().unwrap_or_default())
        .await?;
    Ok(fresh.is_some_and(|fresh| {
        fresh.meta().uid == meta.uid && fresh.meta().deletion_timestamp.is_none()
    }))
}

/// The strategic merge patch that makes `owner` manage the object with uid `object`.
#[must_use]
pub(crate) fn adoption_patch(owner: &OwnerReference, object: &str) -> Value {
    json!({"metadata": {"ownerReferences": [owner], "uid": object}})
}

/// The strategic merge patch that takes the owner `owner` away from the object with uid `object`.
#[must_use]
pub(crate) fn release_patch(owner: &str, object: &str) -> Value {
    json!({"metadata": {"ownerReferences": [{"$patch": "delete", "uid": owner}], "uid": object}})
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use skiff_client::selector::Labels;

    fn pod(name: &str, app: &str, owner: Option<&str>, deleting: bool) -> Arc<Pod> {
        let owner = owner.map(|uid| OwnerReference {
            uid: uid.to_owned(),
            controller: Some(true),
            ..OwnerReference::default()
        });
        Arc::new(Pod {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some([("app".to_owned(), app.to_owned())].into()),
                owner_references: owner.map(|owner| vec![owner]),
                deletion_timestamp: deleting.then(|| Time(Default::default())),
                ..ObjectMeta::default()
            },
            ..Pod::default()
        })
    }

    fn names(pods: &[Arc<Pod>]) -> String {
        let names = pods.iter().filter_map(|pod| pod.metadata.name.as_deref());
        names.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn claims_by_selector_and_owner() {
        let mut owner = ObjectMeta {
            uid: Some("me".to_owned()),
            ..ObjectMeta::default()
        };
        let selector =
            LabelMatcher::equal_to(&Labels::from([("app".to_owned(), "web".to_owned())]));
        let pods = [
            pod("mine", "web", Some("me"), false),
            pod("strayed", "db", Some("me"), false),
            pod("orphan", "web", None, false),
            pod("dying-orphan", "web", None, true),
            pod("other", "web", Some("you"), false),
            pod("stranger", "db", None, false),
        ];
        let claims = claim(&owner, &selector, pods.clone());
        assert_eq!(names(&claims.owned), "mine");
        assert_eq!(names(&claims.adopt), "orphan");
        assert_eq!(names(&claims.release), "strayed");
        owner.deletion_timestamp = Some(Time(Default::default()));
        let claims = claim(&owner, &selector, pods);
        assert_eq!(names(&claims.owned), "mine");
        assert!(claims.adopt.is_empty() && claims.release.is_empty());
    }
}
