//! What a StatefulSet or DaemonSet looked like before: ControllerRevisions, each holding one pod template,
//! numbered in the order in which they were last wanted.
//!
//! The decisions are pure; [`Keeper`] carries them out. `kubectl rollout undo` applies the data of a revision to
//! the set as a strategic merge patch, so the data is one.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::api::{Api, DeleteParams, PostParams};
use kube::{Client, Error};
use serde_json::{Value, json};
use skiff_client::selector::Labels;
use skiff_client::{ObjectKey, SharedCache, is_already_exists};

use crate::deletion::delete_seen;
use crate::gate::WriteGate;
use crate::template_hash;

/// The longest prefix of a revision's name.
const LONGEST_PREFIX: usize = 223;

/// The patch that gives a set this template: what a revision holds.
#[must_use]
pub fn data_of(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    if let Value::Object(fields) = &mut template {
        fields.insert("$patch".to_owned(), "replace".into());
    }
    json!({"spec": {"template": template}})
}

/// The template that a revision holds; none when its data is something else.
#[must_use]
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let data = &revision.data.as_ref()?.0;
    let template = data.pointer("/spec/template")?;
    serde_json::from_value(template.clone()).ok()
}

/// The hash in the name of a StatefulSet's revision; `collisions` makes another one of the same data.
#[must_use]
pub fn hash(data: &Value, collisions: i32) -> String {
    let json = data.to_string();
    template_hash::of_bytes(json.bytes().chain(collisions.to_string().into_bytes()))
}

/// The name of a revision of the set `owner`.
#[must_use]
pub fn name(owner: &str, hash: &str) -> String {
    let mut end = owner.len().min(LONGEST_PREFIX);
    while !owner.is_char_boundary(end) {
        end -= 1;
    }
    let prefix = owner.get(..end).unwrap_or_default();
    format!("{prefix}-{hash}")
}

/// Sorts by number, then age, then name.
pub fn sort(revisions: &mut [Arc<ControllerRevision>]) {
    revisions.sort_by_cached_key(|revision| {
        (
            revision.revision,
            revision.metadata.creation_timestamp.clone(),
            revision.metadata.name.clone(),
        )
    });
}

/// Which revision a set is at.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The revision of the current template, if there is one already.
    pub current: Option<Arc<ControllerRevision>>,
    /// The number that it has to have.
    pub number: i64,
    /// Others with the same template.
    pub duplicates: Vec<Arc<ControllerRevision>>,
    /// The rest, oldest first.
    pub old: Vec<Arc<ControllerRevision>>,
}

/// Finds the revision of `template` among `revisions`. The newest one counts as the same also when it differs only
/// by what the server fills in, so that an upgrade that brings a new default rolls nothing.
#[must_use]
pub fn choose(revisions: &[Arc<ControllerRevision>], template: &PodTemplateSpec) -> Choice {
    let mut sorted = revisions.to_vec();
    sort(&mut sorted);
    let data = data_of(template);
    let same =
        |revision: &ControllerRevision| revision.data.as_ref().is_some_and(|found| found.0 == data);
    let (mut equal, mut old): (Vec<_>, Vec<_>) =
        sorted.into_iter().partition(|revision| same(revision));
    if equal.is_empty()
        && old
            .last()
            .is_some_and(|newest| means_the_same(newest, template))
    {
        equal.extend(old.pop());
    }
    let last_old = old.last().map_or(0, |revision| revision.revision);
    let current = equal.pop();
    let known = current.as_ref().map_or(0, |current| current.revision);
    Choice {
        number: known.max(last_old + 1),
        current,
        duplicates: equal,
        old,
    }
}

fn means_the_same(revision: &ControllerRevision, template: &PodTemplateSpec) -> bool {
    let Some(mut found) = template_of(revision) else {
        return false;
    };
    let mut wanted = template.clone();
    for one in [&mut found, &mut wanted] {
        skiff_api::defaults::core::default_pod_template_spec(one);
        let meta = one.metadata.get_or_insert_default();
        meta.creation_timestamp = None;
        meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
        meta.annotations = meta.annotations.take().filter(|all| !all.is_empty());
    }
    found == wanted
}

/// The revisions that are to go so that not more than `limit` are left beside those that are `live`: the oldest.
#[must_use]
pub fn beyond_limit(
    old: &[Arc<ControllerRevision>],
    limit: i32,
    live: impl Fn(&ControllerRevision) -> bool,
) -> Vec<Arc<ControllerRevision>> {
    let Ok(limit) = usize::try_from(limit) else {
        return Vec::new();
    };
    let idle: Vec<_> = old.iter().filter(|revision| !live(revision)).collect();
    let excess = idle.len().saturating_sub(limit);
    idle.into_iter().take(excess).cloned().collect()
}

/// What a new revision is made from.
pub struct Wanted<'a> {
    /// The set that it belongs to.
    pub owner: &'a ObjectMeta,
    pub reference: OwnerReference,
    pub template: &'a PodTemplateSpec,
    pub number: i64,
    /// The label that carries the hash.
    pub hash_label: &'a str,
}

/// A new revision with this hash.
#[must_use]
pub fn revision(wanted: &Wanted, hash: &str) -> ControllerRevision {
    let meta = wanted.template.metadata.as_ref();
    let mut labels: Labels = meta
        .and_then(|meta| meta.labels.clone())
        .unwrap_or_default();
    labels.insert(wanted.hash_label.to_owned(), hash.to_owned());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name(wanted.owner.name.as_deref().unwrap_or_default(), hash)),
            namespace: wanted.owner.namespace.clone(),
            labels: Some(labels),
            annotations: wanted.owner.annotations.clone(),
            owner_references: Some(vec![wanted.reference.clone()]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data_of(wanted.template))),
        revision: wanted.number,
    }
}

/// How making a revision went.
pub enum Made {
    /// It is there now, or was there already with the same data.
    There(Arc<ControllerRevision>),
    /// The name is taken by other data.
    Collision,
}

/// Writes revisions for one controller.
pub struct Keeper {
    client: Client,
    /// All revisions.
    pub revisions: SharedCache<ControllerRevision>,
    gate: WriteGate,
}

impl Keeper {
    pub fn new(client: Client, revisions: SharedCache<ControllerRevision>) -> Self {
        Self {
            client,
            revisions,
            gate: WriteGate::default(),
        }
    }

    /// Whether the cache shows all that was written for the set.
    pub fn is_open(&self, key: &ObjectKey) -> bool {
        self.gate.is_open(key, &self.revisions)
    }

    /// Forgets a set that is gone.
    pub fn forget(&self, key: &ObjectKey) {
        self.gate.forget(key);
    }

    fn api(&self, namespace: &str) -> Api<ControllerRevision> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Creates a revision for the set `key`.
    pub async fn create(
        &self,
        key: &ObjectKey,
        revision: &ControllerRevision,
    ) -> Result<Made, Error> {
        let api = self.api(key.namespace());
        match api.create(&PostParams::default(), revision).await {
            Ok(created) => {
                self.gate.wrote(key, &created.metadata);
                Ok(Made::There(Arc::new(created)))
            }
            Err(error) if is_already_exists(&error) => {
                let name = revision.metadata.name.as_deref().unwrap_or_default();
                let found = api.get(name).await?;
                if found.data == revision.data {
                    Ok(Made::There(Arc::new(found)))
                } else {
                    Ok(Made::Collision)
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Makes a revision the newest.
    pub async fn renumber(
        &self,
        key: &ObjectKey,
        revision: &ControllerRevision,
        number: i64,
    ) -> Result<Arc<ControllerRevision>, Error> {
        let changed = ControllerRevision {
            revision: number,
            ..revision.clone()
        };
        self.replace(key, &changed).await
    }

    /// Writes a changed revision.
    pub async fn replace(
        &self,
        key: &ObjectKey,
        changed: &ControllerRevision,
    ) -> Result<Arc<ControllerRevision>, Error> {
        let name = changed.metadata.name.as_deref().unwrap_or_default();
        let api = self.api(key.namespace());
        let answer = api.replace(name, &PostParams::default(), changed).await?;
        self.gate.wrote(key, &answer.metadata);
        Ok(Arc::new(answer))
    }

    /// Deletes revisions.
    pub async fn delete(
        &self,
        key: &ObjectKey,
        revisions: &[Arc<ControllerRevision>],
    ) -> Result<(), Error> {
        let api = self.api(key.namespace());
        for revision in revisions {
            if delete_seen(&api, &revision.metadata, DeleteParams::default()).await? {
                self.gate.deleted(key, &revision.metadata);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({"metadata": {"labels": {"app": "db"}},
            "spec": {"containers": [{"name": "c", "image": image}]}}))
        .unwrap()
    }

    fn revision_of(image: &str, number: i64) -> Arc<ControllerRevision> {
        let owner = ObjectMeta {
            name: Some("db".into()),
            ..ObjectMeta::default()
        };
        let template = template(image);
        let wanted = Wanted {
            owner: &owner,
            reference: OwnerReference::default(),
            template: &template,
            number,
            hash_label: "h",
        };
        Arc::new(revision(&wanted, &format!("{image}{number}")))
    }

    fn names_of(revisions: &[Arc<ControllerRevision>]) -> String {
        let names = revisions
            .iter()
            .filter_map(|one| one.metadata.name.as_deref());
        names.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_template_goes_into_a_revision_and_comes_back() {
        let one = revision_of("a", 1);
        assert_eq!(template_of(&one).as_ref(), Some(&template("a")));
        let data = &one.data.as_ref().unwrap().0;
        assert_eq!(data["spec"]["template"]["$patch"], "replace");
        assert_ne!(hash(data, 0), hash(data, 1));
        assert!(name(&"x".repeat(300), "h").len() <= 253);
    }

    #[test]
    fn the_revision_of_a_template() {
        let (a, b) = (revision_of("a", 1), revision_of("b", 2));
        // None yet, the newest, an older one again, two of the same.
        let none = choose(&[], &template("a"));
        assert_eq!((none.current, none.number), (None, 1));
        let kept = choose(&[b.clone(), a.clone()], &template("b"));
        assert_eq!((kept.current, kept.number), (Some(b.clone()), 2));
        let back = choose(&[a.clone(), b.clone()], &template("a"));
        assert_eq!((back.current, back.number), (Some(a.clone()), 3));
        let new = choose(&[a.clone(), b.clone()], &template("c"));
        assert_eq!((new.current, new.number), (None, 3));
        let twin = revision_of("a", 3);
        let twice = choose(&[a.clone(), b, twin.clone()], &template("a"));
        assert_eq!((twice.current, twice.number), (Some(twin), 3));
        assert_eq!(twice.duplicates, [a]);
    }

    #[test]
    fn what_the_server_fills_in_makes_no_new_revision() {
        let mut defaulted = template("a:1");
        skiff_api::defaults::core::default_pod_template_spec(&mut defaulted);
        let plain = revision_of("a:1", 4);
        let choice = choose(std::slice::from_ref(&plain), &defaulted);
        assert_eq!((choice.current, choice.number), (Some(plain), 4));
    }

    #[test]
    fn the_oldest_beyond_the_limit_go() {
        let old: Vec<_> = (1..=5).map(|n| revision_of("i", n)).collect();
        let live = |one: &ControllerRevision| one.revision == 2;
        assert_eq!(names_of(&beyond_limit(&old, 2, live)), "db-i1 db-i3");
        assert_eq!(names_of(&beyond_limit(&old, 9, live)), "");
        assert_eq!(
            names_of(&beyond_limit(&old, 0, live)),
            "db-i1 db-i3 db-i4 db-i5"
        );
    }
}
