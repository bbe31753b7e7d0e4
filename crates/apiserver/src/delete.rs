//! DELETE: grace periods, finalizers, propagation policy, and the end of an object.

use axum::body::Body;
use bytes::Bytes;
use http::Response;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::Deserialize;
use serde_json::{Value, json};
use skiff_api::apiextensions::naming;
use skiff_api::schema::body::FieldValidation;
use skiff_api::{ApiError, ApiResult, FieldError, Object, ObjectExt, Path};
use skiff_store::StoreError;

use crate::admission::{self, AdmissionRequest, Given, Operation};
use crate::cache::Entry;
use crate::content;
use crate::query::{self, Query, WriteOptions};
use crate::read::{object_response, store_error};
use crate::registry::Resource;
use crate::selector::Filter;
use crate::server::Call;
use crate::write::{Current, MODIFIED, Target, Written, encode, entry};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
const ATTEMPTS: usize = 64;

/// Kinds whose deletion is answered with the object; the others answer with a `Status`.
const ANSWERED_WITH_OBJECT: &[&str] = &[
    "resourceclaimtemplates",
    "resourceslices",
    "resourceclaims",
    "deviceclasses",
    "csidrivers",
    "storageclasses",
    "volumeattachments",
    "csinodes",
    "volumeattributesclasses",
    "resourcequotas",
    "persistentvolumes",
    "serviceaccounts",
    "persistentvolumeclaims",
    "namespaces",
    "pods",
    "services",
    "podtemplates",
];

/// Kinds whose dependents are left alone unless the request says otherwise.
const ORPHANS_BY_DEFAULT: &[(&str, &str)] = &[
    ("batch", "jobs"),
    ("batch", "cronjobs"),
    ("", "replicationcontrollers"),
];

/// `DeleteOptions` as clients send them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub preconditions: Option<Preconditions>,
    pub orphan_dependents: Option<bool>,
    pub propagation_policy: Option<String>,
    pub dry_run: Vec<String>,
    /// All of it, for those who are asked about the deletion.
    #[serde(skip)]
    pub as_sent: Value,
}

/// What must be true of an object for it to be deleted.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Preconditions {
    pub uid: Option<String>,
    pub resource_version: Option<String>,
}

impl DeleteOptions {
    /// Reads the body, or the query when there is none.
    pub fn parse(call: &Call, body: &Bytes) -> ApiResult<Self> {
        let options = if body.is_empty() {
            Self::from_query(&call.query)?
        } else {
            let sent = content::body_value(call, body)?;
            let options = Self::deserialize(&sent).map_err(|error| {
                ApiError::bad_request(format!(
                    "couldn't get version/kind; json parse error: {error}"
                ))
            })?;
            Self {
                as_sent: without_kind(sent),
                ..options
            }
        };
        options.check()?;
        Ok(options)
    }

    fn from_query(query: &Query) -> ApiResult<Self> {
        let text = |name: &str| Some(query.get(name).to_owned()).filter(|text| !text.is_empty());
        let mut options = Self {
            grace_period_seconds: query.number("gracePeriodSeconds")?,
            preconditions: None,
            orphan_dependents: query
                .has("orphanDependents")
                .then(|| query.flag("orphanDependents")),
            propagation_policy: text("propagationPolicy"),
            dry_run: query.all("dryRun").map(str::to_owned).collect(),
            as_sent: Value::Null,
        };
        let mut sent = serde_json::Map::new();
        let mut set = |name: &str, value: Value| {
            if !value.is_null() {
                sent.insert(name.to_owned(), value);
            }
        };
        set("gracePeriodSeconds", json!(options.grace_period_seconds));
        set("orphanDependents", json!(options.orphan_dependents));
        set("propagationPolicy", json!(options.propagation_policy));
        if !options.dry_run.is_empty() {
            set("dryRun", json!(options.dry_run));
        }
        options.as_sent = Value::Object(sent);
        Ok(options)
    }

    fn check(&self) -> ApiResult<()> {
        let mut errors = Vec::new();
        let path = Path::new("propagationPolicy");
        if let Some(policy) = &self.propagation_policy {
            if self.orphan_dependents.is_some() {
                errors.push(FieldError::invalid(
                    &path,
                    policy,
                    "orphanDependents and deletionPropagation cannot be both set",
                ));
            }
            if !matches!(policy.as_str(), "Foreground" | "Background" | "Orphan") {
                errors.push(FieldError::not_supported(
                    &path,
                    policy,
                    &["Foreground", "Background", "Orphan", "nil"],
                ));
            }
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(ApiError::invalid(
                "meta.k8s.io",
                "DeleteOptions",
                "",
                &errors,
            ))
        }
    }

    fn write_options(&self) -> ApiResult<WriteOptions> {
        Ok(WriteOptions {
            dry_run: query::dry_run(self.dry_run.iter().map(String::as_str), "DeleteOptions")?,
            field_manager: String::new(),
            field_validation: FieldValidation::Ignore,
            force: None,
        })
    }
}

fn without_kind(mut options: Value) -> Value {
    if let Some(fields) = options.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    options
}

/// What became of a deletion.
pub(crate) struct Deleted {
    /// The last state, or the state that waits for finalizers or the grace period.
    pub entry: Entry,
    /// Whether the object is gone.
    pub gone: bool,
}

/// Answers a DELETE of an object.
pub(crate) async fn delete(
    call: &Call,
    resource: &Resource,
    body: Body,
) -> ApiResult<Response<Body>> {
    let accepted = content::negotiate(call, false)?;
    let body = crate::server::ApiServer::read_body(body).await?;
    let options = DeleteOptions::parse(call, &body)?;
    let name = call.info.name.clone();
    let deleted = delete_object(call, resource, &call.info.namespace, &name, &options).await?;
    let with_object = !deleted.gone || ANSWERED_WITH_OBJECT.contains(&&*resource.kind.plural);
    if with_object {
        let code = if !deleted.gone && options.orphan_dependents == Some(false) {
            202
        } else {
            200
        };
        return object_response(call, resource, accepted, code, &deleted.entry);
    }
    let value: Value = serde_json::from_slice(&deleted.entry.bytes).unwrap_or_default();
    let mut details =
        json!({"name": name, "kind": resource.kind.plural, "uid": value["metadata"]["uid"]});
    if !resource.kind.group.is_empty() {
        details["group"] = resource.kind.group.as_ref().into();
    }
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
    });
    Ok(content::value_response(call, accepted, 200, &status))
}

/// Answers a DELETE of a collection.
pub(crate) async fn delete_collection(
    call: &Call,
    resource: &Resource,
    body: Body,
) -> ApiResult<Response<Body>> {
    let accepted = content::negotiate(call, true)?;
    let body = crate::server::ApiServer::read_body(body).await?;
    let options = DeleteOptions::parse(call, &body)?;
    let filter = Filter::new(
        resource,
        call.query.get("labelSelector"),
        call.query.get("fieldSelector"),
    )?;
    let server = &call.server;
    let cache = server.hub_cache(resource).await?;
    server.wait_fresh(query::Freshness::Newest).await?;
    let revision = server.hub.progress().max(cache.revision());
    let (entries, _) = cache.list(&resource.prefix(&call.info.namespace), None, 0);
    // A converted object has its fields where the version asked for has them.
    let entries = match filter.has_own_fields() {
        true => crate::crd::served(server, &resource.kind, entries).await?,
        false => entries,
    };
    let selected = entries.into_iter().filter(|entry| filter.matches(entry));
    let entries = crate::crd::served(server, &resource.kind, selected.collect()).await?;
    for entry in &entries {
        match delete_object(call, resource, entry.namespace(), entry.name(), &options).await {
            Err(error) if error.reason != "NotFound" => return Err(error),
            _ => {}
        }
    }
    let metadata = json!({"resourceVersion": revision.to_string()});
    Ok(crate::read::list_response(
        call, resource, accepted, &metadata, entries,
    ))
}

/// Deletes an object, or begins its deletion.
pub(crate) async fn delete_object(
    call: &Call,
    resource: &Resource,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> ApiResult<Deleted> {
    let write_options = options.write_options()?;
    let namespace = if resource.namespaced() { namespace } else { "" };
    let target = Target {
        call,
        resource,
        namespace,
        name,
        subresource: "",
        options: &write_options,
    };
    // The last state of an object that was told to go at once: its kubelet may be quicker than we.
    let (mut told, mut marked) = (false, None);
    for _ in 0..ATTEMPTS {
        let mut current = match (target.current().await?, marked.take()) {
            (Some(current), _) => current,
            (None, Some(entry)) => return Ok(Deleted { entry, gone: true }),
            (None, None) => return Err(target.not_found()),
        };
        check_preconditions(&target, options, &current)?;
        // An eviction was admitted as such.
        if call.info.subresource != "eviction" {
            let request = AdmissionRequest {
                given: Given::DeleteOptions(options.as_sent.clone()),
                ..target.admission(Operation::Delete)
            };
            admission::announce(&request, Some(&*current.object)).await?;
            admission::validate(&request, None, Some(&*current.object)).await?;
        }
        let mut new = current.object.clone_box();
        let step = plan(resource, &mut *new, options, call.server.now());
        told |= matches!(step, Step::Update { .. });
        let keep = match step {
            Step::Pending => {
                return Ok(Deleted {
                    entry: entry(&target, &current.stored, current.revision)?,
                    gone: false,
                });
            }
            Step::Remove => false,
            Step::Update { keep } => {
                let shown = encode(&mut *new);
                let bytes = target.stored_form(&shown).await?;
                let mut revision = current.revision;
                if bytes != current.stored && !write_options.dry_run {
                    match call
                        .server
                        .store
                        .update(&target.key(), bytes, current.revision, 0)
                        .await
                    {
                        Ok(written) => revision = written,
                        Err(StoreError::Conflict(_)) => continue,
                        Err(error) => return Err(store_error(&error)),
                    }
                }
                current.stored = shown;
                current.revision = revision;
                keep
            }
        };
        if keep || write_options.dry_run {
            return Ok(Deleted {
                entry: entry(&target, &current.stored, current.revision)?,
                gone: !keep,
            });
        }
        if let Some(entry) = remove(&target, &current).await? {
            return Ok(Deleted { entry, gone: true });
        }
        if told {
            marked = Some(entry(&target, &current.stored, current.revision)?);
        }
    }
    Err(target.conflict(MODIFIED))
}

/// Removes an object at the revision seen; `None`: someone wrote it meanwhile.
async fn remove(target: &Target<'_>, current: &Current) -> ApiResult<Option<Entry>> {
    match target
        .call
        .server
        .store
        .delete(&target.key(), Some(current.revision))
        .await
    {
        Ok(revision) => {
            crate::services::release(&target.call.server, &*current.object).await;
            entry(target, &current.stored, revision).map(Some)
        }
        Err(StoreError::Conflict(_)) => Ok(None),
        Err(error) => Err(store_error(&error)),
    }
}

pub(crate) fn check_preconditions(
    target: &Target<'_>,
    options: &DeleteOptions,
    current: &Current,
) -> ApiResult<()> {
    let Some(wanted) = &options.preconditions else {
        return Ok(());
    };
    let kind = &target.resource.kind;
    let conflict = |why: String| {
        Err(ApiError::conflict(
            &kind.group,
            &kind.kind,
            target.name,
            &why,
        ))
    };
    let uid = current.object.metadata().uid.clone().unwrap_or_default();
    if let Some(wanted) = wanted.uid.as_ref().filter(|wanted| **wanted != uid) {
        return conflict(format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
        ));
    }
    let version = current.revision.to_string();
    if let Some(wanted) = wanted
        .resource_version
        .as_ref()
        .filter(|wanted| **wanted != version)
    {
        return conflict(format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). The object might have been modified"
        ));
    }
    Ok(())
}

/// What a delete request does next.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing: the deletion is under way.
    Pending,
    /// The object is written with its deletion time; `keep`: and stays until finalizers or the kubelet are done.
    Update { keep: bool },
    /// The object goes.
    Remove,
}

/// Marks the object as the request asks, and says what is to be done.
fn plan(
    resource: &Resource,
    new: &mut dyn Object,
    options: &DeleteOptions,
    now: Timestamp,
) -> Step {
    let graceful = match graceful(new, options, now) {
        Grace::Pending => return Step::Pending,
        Grace::None => None,
        Grace::Seconds(seconds) => Some(seconds),
    };
    let finalizers = collector_finalizers(resource, new.metadata(), options);
    let changed = {
        let meta = new.metadata_mut();
        let old = meta.finalizers.clone().unwrap_or_default();
        let changed = old.len() != finalizers.len() || old.iter().any(|f| !finalizers.contains(f));
        if changed {
            meta.finalizers = (!finalizers.is_empty()).then_some(finalizers);
        }
        changed
    };
    if let Some(namespace) = new.downcast_mut::<Namespace>() {
        return plan_namespace(namespace, now);
    }
    if let Some(definition) = new.downcast_mut::<CustomResourceDefinition>()
        && definition.metadata.deletion_timestamp.is_none()
    {
        naming::mark_deleted(definition, now);
        return Step::Update { keep: true };
    }
    let pending = new
        .metadata()
        .finalizers
        .as_ref()
        .is_some_and(|list| !list.is_empty());
    match graceful {
        Some(seconds) => Step::Update {
            keep: pending || seconds > 0,
        },
        None if pending => {
            mark_deleted(new.metadata_mut(), now);
            Step::Update { keep: true }
        }
        None => {
            let _ = changed;
            Step::Remove
        }
    }
}

fn plan_namespace(namespace: &mut Namespace, now: Timestamp) -> Step {
    let finalized = namespace
        .spec
        .as_ref()
        .and_then(|spec| spec.finalizers.as_ref())
        .is_none_or(Vec::is_empty)
        && namespace
            .metadata
            .finalizers
            .as_ref()
            .is_none_or(Vec::is_empty);
    if namespace.metadata.deletion_timestamp.is_none() {
        namespace.metadata.deletion_timestamp = Some(Time(now));
    }
    namespace.status.get_or_insert_default().phase = Some("Terminating".to_owned());
    Step::Update { keep: !finalized }
}

fn mark_deleted(meta: &mut ObjectMeta, now: Timestamp) {
    if meta.deletion_timestamp.is_none() {
        meta.deletion_timestamp = Some(Time(now));
        if let Some(generation) = meta.generation.filter(|generation| *generation > 0) {
            meta.generation = Some(generation + 1);
        }
    }
    meta.deletion_grace_period_seconds = Some(0);
}

enum Grace {
    /// The kind knows no grace period, or it is over.
    None,
    /// The deletion is under way; the request changes nothing.
    Pending,
    /// The object was marked with this period.
    Seconds(i64),
}

/// The grace period of pods: marks the pod.
fn graceful(object: &mut dyn Object, options: &DeleteOptions, now: Timestamp) -> Grace {
    let Some(pod) = object.downcast_mut::<Pod>() else {
        return Grace::None;
    };
    let wanted = options
        .grace_period_seconds
        .map(|seconds| if seconds < 0 { 1 } else { seconds });
    let after = |time: Timestamp, seconds: i64| {
        time.checked_add(jiff::SignedDuration::from_secs(seconds))
            .unwrap_or(time)
    };
    if let Some(deletion) = pod.metadata.deletion_timestamp.clone() {
        let old = match pod.metadata.deletion_grace_period_seconds {
            None | Some(0) => return Grace::None,
            Some(old) => old.max(1),
        };
        let Some(mut period) = wanted.filter(|wanted| *wanted < old) else {
            return Grace::Pending;
        };
        let mut time = after(after(deletion.0, -old), period);
        if time < now {
            time = now;
            if period != 0 {
                period = 1;
            }
        }
        pod.metadata.deletion_timestamp = Some(Time(time));
        pod.metadata.deletion_grace_period_seconds = Some(period);
        return Grace::Seconds(period);
    }
    let spec = pod.spec.as_ref();
    let mut period = wanted
        .or_else(|| spec.and_then(|spec| spec.termination_grace_period_seconds))
        .unwrap_or(30);
    let unscheduled = spec
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default()
        .is_empty();
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default();
    if unscheduled || matches!(phase, "Failed" | "Succeeded") {
        period = 0;
    }
    if period < 0 {
        period = 1;
    }
    pod.metadata.deletion_timestamp = Some(Time(after(now, period)));
    pod.metadata.deletion_grace_period_seconds = Some(period);
    if let Some(generation) = pod.metadata.generation.filter(|generation| *generation > 0) {
        pod.metadata.generation = Some(generation + 1);
    }
    Grace::Seconds(period)
}

/// The finalizers after the propagation policy was heard.
fn collector_finalizers(
    resource: &Resource,
    meta: &ObjectMeta,
    options: &DeleteOptions,
) -> Vec<String> {
    let have = meta.finalizers.clone().unwrap_or_default();
    let (group, plural) = (&*resource.kind.group, &*resource.kind.plural);
    if plural == "events" {
        return have;
    }
    let has = |name: &str| have.iter().any(|finalizer| finalizer == name);
    let policy = match (
        options.orphan_dependents,
        options.propagation_policy.as_deref(),
    ) {
        (Some(true), _) | (None, Some("Orphan")) => ORPHAN,
        (Some(false), _) | (None, Some("Background")) => "",
        (None, Some("Foreground")) => FOREGROUND,
        _ if has(ORPHAN) => ORPHAN,
        _ if has(FOREGROUND) => FOREGROUND,
        _ if ORPHANS_BY_DEFAULT.contains(&(group, plural)) => ORPHAN,
        _ => "",
    };
    let mut finalizers: Vec<String> = have
        .into_iter()
        .filter(|finalizer| finalizer != ORPHAN && finalizer != FOREGROUND)
        .collect();
    if !policy.is_empty() {
        finalizers.push(policy.to_owned());
    }
    finalizers
}

/// Whether an update takes the last finalizer of an object whose deletion is under way.
pub(crate) fn deleted_by_update(_resource: &Resource, new: &dyn Object, old: &dyn Object) -> bool {
    let none = |list: &Option<Vec<String>>| list.as_ref().is_none_or(Vec::is_empty);
    if let Some(namespace) = new.downcast_ref::<Namespace>()
        && !none(&namespace.spec.clone().unwrap_or_default().finalizers)
    {
        return false;
    }
    none(&new.metadata().finalizers)
        && old.metadata().deletion_timestamp.is_some()
        && old.metadata().deletion_grace_period_seconds.unwrap_or(0) == 0
}

/// Removes an object whose last finalizer was taken; `None`: someone wrote it meanwhile.
pub(crate) async fn finish(
    target: &Target<'_>,
    current: &Current,
    new: &mut dyn Object,
) -> ApiResult<Option<Written>> {
    let stored = encode(new);
    if target.options.dry_run {
        return Ok(Some(Written {
            entry: entry(target, &stored, current.revision)?,
            created: false,
        }));
    }
    // What watchers see is the last state that was stored.
    match remove(target, current).await? {
        Some(removed) => Ok(Some(Written {
            entry: entry(target, &stored, removed.revision)?,
            created: false,
        })),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_api::kinds;

    fn resource(plural: &str) -> Resource {
        let kind = kinds().iter().find(|kind| kind.plural == plural).unwrap();
        Resource::from(kind)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn pod(node: &str, value: Value) -> Pod {
        let mut pod: Pod = serde_json::from_value(value).unwrap();
        pod.spec.get_or_insert_default().node_name = Some(node.to_owned());
        pod
    }

    fn step(pod: &mut Pod, grace: Option<i64>, now: i64) -> Step {
        let options = DeleteOptions {
            grace_period_seconds: grace,
            ..DeleteOptions::default()
        };
        plan(&resource("pods"), pod, &options, at(now))
    }

    #[test]
    fn a_running_pod_gets_its_grace_period_and_it_can_only_be_shortened() {
        let mut running = pod("n", json!({"metadata": {"generation": 1}}));
        assert_eq!(step(&mut running, None, 1000), Step::Update { keep: true });
        assert_eq!(running.metadata.deletion_timestamp, Some(Time(at(1030))));
        assert_eq!(running.metadata.deletion_grace_period_seconds, Some(30));
        assert_eq!(running.metadata.generation, Some(2));
        assert_eq!(step(&mut running, None, 1001), Step::Pending);
        assert_eq!(step(&mut running, Some(60), 1001), Step::Pending);
        assert_eq!(
            step(&mut running, Some(10), 1001),
            Step::Update { keep: true }
        );
        assert_eq!(running.metadata.deletion_timestamp, Some(Time(at(1010))));
        assert_eq!(
            step(&mut running, Some(0), 1002),
            Step::Update { keep: false }
        );
    }

    #[test]
    fn an_unscheduled_or_finished_pod_goes_at_once_unless_finalizers_hold_it() {
        assert_eq!(
            step(&mut pod("", json!({"metadata": {}})), None, 1),
            Step::Update { keep: false }
        );
        let mut done = pod(
            "n",
            json!({"metadata": {}, "status": {"phase": "Succeeded"}}),
        );
        assert_eq!(step(&mut done, None, 1), Step::Update { keep: false });
        let mut held = pod("", json!({"metadata": {"finalizers": ["a/b"]}}));
        assert_eq!(step(&mut held, None, 1), Step::Update { keep: true });
        assert_eq!(step(&mut held, None, 1), Step::Update { keep: true });
    }

    #[test]
    fn the_propagation_policy_becomes_a_finalizer() {
        let options = |policy: &str| DeleteOptions {
            propagation_policy: (!policy.is_empty()).then(|| policy.to_owned()),
            ..DeleteOptions::default()
        };
        let table = [
            ("replicasets", "", vec!["x/y"], vec!["x/y"]),
            (
                "replicasets",
                "Foreground",
                vec!["x/y"],
                vec!["x/y", FOREGROUND],
            ),
            ("replicasets", "Orphan", vec![FOREGROUND], vec![ORPHAN]),
            ("replicasets", "Background", vec![FOREGROUND], vec![]),
            ("replicasets", "", vec![FOREGROUND], vec![FOREGROUND]),
            ("jobs", "", vec![], vec![ORPHAN]),
            ("jobs", "Background", vec![], vec![]),
        ];
        for (plural, policy, have, expected) in table {
            let meta = ObjectMeta {
                finalizers: Some(have.into_iter().map(str::to_owned).collect()),
                ..ObjectMeta::default()
            };
            assert_eq!(
                collector_finalizers(&resource(plural), &meta, &options(policy)),
                expected,
                "{plural} {policy}"
            );
        }
    }

    #[test]
    fn a_namespace_waits_for_its_finalizers() {
        let mut namespace: Namespace = serde_json::from_value(
            json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}}),
        )
        .unwrap();
        let step = plan(
            &resource("namespaces"),
            &mut namespace,
            &DeleteOptions::default(),
            at(5),
        );
        assert_eq!(step, Step::Update { keep: true });
        assert_eq!(namespace.status.unwrap().phase.unwrap(), "Terminating");
    }
}
