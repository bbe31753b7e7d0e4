//! `scale` of deployments, replica sets, replication controllers, stateful sets, and of custom resources that have one.

use axum::body::Body;
use http::{Method, Response};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v1::{Scale, ScaleSpec, ScaleStatus};
use k8s_openapi::api::core::v1::ReplicationController;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    FieldsV1, LabelSelector, ManagedFieldsEntry, ObjectMeta,
};
use serde_json::{Value, json};
use skiff_api::{ApiError, ApiResult, FieldError, Object, ObjectExt, Path};

use skiff_api::apiextensions::custom_object::CustomObject;

use super::{kind_of, object_answer, selector_text};
use crate::crd::{self, ScalePaths};
use crate::dispatch::method_not_allowed;
use crate::patch::Patch;
use crate::query::WriteOptions;
use crate::registry::Resource;
use crate::server::{ApiServer, Call};
use crate::update::check_name;
use crate::write::{self, Current, Part, Target, decode_kind, parse_body};

/// Answers GET, PUT and PATCH.
pub(crate) async fn answer(
    call: &Call,
    resource: &Resource,
    body: Body,
) -> ApiResult<Response<Body>> {
    match call.parts.method {
        Method::GET | Method::HEAD => {
            let entry = call
                .server
                .lookup(resource, &call.info.namespace, &call.info.name)
                .await?;
            let entry = entry.ok_or_else(|| {
                ApiError::not_found(&resource.kind.group, &resource.kind.plural, &call.info.name)
            })?;
            let entry = crate::crd::served_one(&call.server, &resource.kind, entry).await?;
            let object = resource.decode_stored(&entry.bytes)?;
            object_answer(call, 200, &scale_of(resource, &*object)?)
        }
        Method::PUT | Method::PATCH => change(call, resource, body).await,
        _ => Err(method_not_allowed()),
    }
}

async fn change(call: &Call, resource: &Resource, body: Body) -> ApiResult<Response<Body>> {
    let options = WriteOptions::parse(&call.query, "UpdateOptions")?;
    let kind = kind_of("autoscaling/v1", "Scale")?;
    let body = ApiServer::read_body(body).await?;
    let typed = |object: Box<dyn Object>| {
        object
            .downcast_ref::<Scale>()
            .cloned()
            .ok_or_else(|| ApiError::internal("no scale"))
    };
    let (put, patch) = if call.parts.method == Method::PUT {
        let scale = typed(decode_kind(
            &kind,
            parse_body(call, &kind, &body, options.field_validation)?,
        )?)?;
        check_name(&call.info.name, scale.metadata.name.as_deref())?;
        (Some(scale), None)
    } else {
        (None, Some(Patch::parse(call, &body, &options)?))
    };
    let target = Target {
        call,
        resource,
        namespace: &call.info.namespace,
        name: &call.info.name,
        subresource: "scale",
        options: &options,
    };
    let mut change = |current: &Current| {
        let mut old = scale_of(resource, &*current.object)?;
        let replicas_path = replicas_path(resource);
        let parent = current.object.metadata().managed_fields.as_deref();
        let applies = patch.as_ref().is_some_and(Patch::is_apply);
        if applies {
            old.metadata.managed_fields =
                Some(scale_record(&replicas_path, parent.unwrap_or_default()));
        }
        let wanted = match (&put, &patch) {
            (Some(scale), _) => scale.clone(),
            (None, Some(patch)) => typed(decode_kind(
                &kind,
                patch.patched(call, resource, &kind, &|| old.to_value())?,
            )?)?,
            (None, None) => old,
        };
        let replicas = wanted.spec.as_ref().and_then(|spec| spec.replicas);
        if let (None, Some(scale)) = (replicas, custom_scale(resource)) {
            return Err(ApiError::bad_request(format!(
                "the spec replicas field {:?} cannot be empty",
                scale.spec
            )));
        }
        let replicas = replicas.unwrap_or(0);
        if replicas < 0 {
            let path = Path::new("spec").child("replicas");
            let error = FieldError::invalid(&path, replicas, "must be greater than or equal to 0");
            return Err(ApiError::invalid(
                "autoscaling",
                "Scale",
                &call.info.name,
                &[error],
            ));
        }
        let mut object = current.object.clone_box();
        set_replicas(resource, &mut *object, replicas);
        let meta = object.metadata_mut();
        meta.resource_version = wanted.metadata.resource_version;
        if applies {
            let record = wanted.metadata.managed_fields.unwrap_or_default();
            let record =
                parent_record(&replicas_path, parent.unwrap_or_default(), record, resource);
            meta.managed_fields = Some(record);
        }
        Ok::<Box<dyn Object>, ApiError>(object)
    };
    let written = write::update(&target, Part::Main, &mut change).await?;
    let object = resource.decode_stored(&written.entry.bytes)?;
    object_answer(call, 200, &scale_of(resource, &*object)?)
}

/// Where the scale is in a custom resource.
fn custom_scale(resource: &Resource) -> Option<&ScalePaths> {
    resource.kind.as_custom()?.scale()
}

/// Where the number of replicas is in a record of owners, as names from the root on.
fn replicas_path(resource: &Resource) -> Vec<String> {
    let path = custom_scale(resource).map_or(".spec.replicas", |scale| &scale.spec);
    crd::names(path).map(|name| format!("f:{name}")).collect()
}

/// Whether an entry of the record owns the number of replicas.
fn owns_replicas(path: &[String], entry: &ManagedFieldsEntry) -> bool {
    let mut steps = path.iter();
    entry.fields_v1.as_ref().is_some_and(|fields| {
        let found = steps.try_fold(&fields.0, |fields, step| fields.get(step));
        found.is_some()
    })
}

/// The record of owners as the scale shows it: those of the number of replicas.
fn scale_record(path: &[String], parent: &[ManagedFieldsEntry]) -> Vec<ManagedFieldsEntry> {
    let owners = parent.iter().filter(|entry| owns_replicas(path, entry));
    let of_scale = |entry: &ManagedFieldsEntry| ManagedFieldsEntry {
        api_version: Some("autoscaling/v1".to_owned()),
        fields_v1: Some(FieldsV1(json!({"f:spec": {"f:replicas": {}}}))),
        ..entry.clone()
    };
    owners.map(of_scale).collect()
}

/// The record of owners of the object itself, after its scale was applied to.
fn parent_record(
    path: &[String],
    parent: &[ManagedFieldsEntry],
    scale: Vec<ManagedFieldsEntry>,
    resource: &Resource,
) -> Vec<ManagedFieldsEntry> {
    let same = |a: &ManagedFieldsEntry, b: &ManagedFieldsEntry| {
        a.manager == b.manager && a.operation == b.operation && a.subresource == b.subresource
    };
    let mut record = parent.to_vec();
    for entry in &mut record {
        if owns_replicas(path, entry) && !scale.iter().any(|other| same(entry, other)) {
            let fields = entry.fields_v1.as_mut().map(|fields| &mut fields.0);
            if let (Some((last, steps)), Some(fields)) = (path.split_last(), fields) {
                let mut steps = steps.iter();
                let holder = steps.try_fold(fields, |fields, step| fields.get_mut(step));
                let holder = holder.and_then(Value::as_object_mut);
                holder.and_then(|holder| holder.remove(last));
            }
        }
    }
    record.retain(|entry| {
        let fields = entry.fields_v1.as_ref();
        fields.is_some_and(|fields| fields.0 != json!({"f:spec": {}}))
    });
    let own = resource.kind.api_version();
    let in_scale = replicas_in_scale();
    let parent_fields = |path: &[String]| {
        let steps = path.iter().rev();
        steps.fold(json!({}), |inner, step| json!({step.as_str(): inner}))
    };
    for entry in scale
        .into_iter()
        .filter(|entry| owns_replicas(&in_scale, entry))
    {
        match record.iter_mut().find(|other| same(other, &entry)) {
            Some(other) => other.time = entry.time,
            None => record.push(ManagedFieldsEntry {
                api_version: Some(own.clone()),
                fields_v1: Some(FieldsV1(parent_fields(path))),
                ..entry
            }),
        }
    }
    record
}

/// Where the number of replicas is in the record of a scale.
fn replicas_in_scale() -> Vec<String> {
    vec!["f:spec".to_owned(), "f:replicas".to_owned()]
}

pub(crate) fn set_replicas(resource: &Resource, object: &mut dyn Object, replicas: i32) {
    if let (Some(scale), Some(custom)) = (
        custom_scale(resource),
        object.downcast_mut::<CustomObject>(),
    ) {
        let names: Vec<&str> = crd::names(&scale.spec).collect();
        let Some((last, parents)) = names.split_last() else {
            return;
        };
        let mut map = &mut custom.rest;
        for name in parents {
            let next = map.entry(*name).or_insert_with(|| json!({}));
            let Value::Object(next) = next else {
                return;
            };
            map = next;
        }
        map.insert((*last).to_owned(), replicas.into());
    } else if let Some(deployment) = object.downcast_mut::<Deployment>() {
        deployment.spec.get_or_insert_default().replicas = Some(replicas);
    } else if let Some(set) = object.downcast_mut::<ReplicaSet>() {
        set.spec.get_or_insert_default().replicas = Some(replicas);
    } else if let Some(set) = object.downcast_mut::<StatefulSet>() {
        set.spec.get_or_insert_default().replicas = Some(replicas);
    } else if let Some(controller) = object.downcast_mut::<ReplicationController>() {
        controller.spec.get_or_insert_default().replicas = Some(replicas);
    }
}

/// The scale of a custom object: wanted, there, and the selector as text.
fn custom_parts(scale: &ScalePaths, object: &CustomObject) -> ApiResult<Scale> {
    let value = Value::Object(object.rest.clone());
    let number = |path: &str| -> ApiResult<Option<i32>> {
        match crd::at(&value, path) {
            None => Ok(None),
            Some(found) => match found.as_i64().and_then(|number| i32::try_from(number).ok()) {
                Some(number) => Ok(Some(number)),
                None => Err(ApiError::internal(format!("{path} is no number: {found}"))),
            },
        }
    };
    let selector = scale.selector.as_deref();
    let selector = selector.and_then(|path| crd::at(&value, path)?.as_str());
    Ok(Scale {
        metadata: scale_metadata(&object.metadata),
        spec: Some(ScaleSpec {
            replicas: number(&scale.spec)?,
        }),
        status: Some(ScaleStatus {
            replicas: number(&scale.status)?.unwrap_or(0),
            selector: selector.filter(|text| !text.is_empty()).map(str::to_owned),
        }),
    })
}

fn scale_metadata(meta: &ObjectMeta) -> ObjectMeta {
    ObjectMeta {
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        creation_timestamp: meta.creation_timestamp.clone(),
        ..ObjectMeta::default()
    }
}

/// The scale of a workload.
pub(crate) fn scale_of(resource: &Resource, object: &dyn Object) -> ApiResult<Scale> {
    if let (Some(scale), Some(custom)) = (custom_scale(resource), object.downcast_ref()) {
        return custom_parts(scale, custom);
    }
    let (wanted, have, selector) = if let Some(deployment) = object.downcast_ref::<Deployment>() {
        let spec = deployment.spec.as_ref();
        let have = deployment
            .status
            .as_ref()
            .and_then(|status| status.replicas);
        (
            spec.and_then(|spec| spec.replicas),
            have,
            spec.map(|spec| spec.selector.clone()),
        )
    } else if let Some(set) = object.downcast_ref::<ReplicaSet>() {
        let spec = set.spec.as_ref();
        let have = set.status.as_ref().map(|status| status.replicas);
        (
            spec.and_then(|spec| spec.replicas),
            have,
            spec.map(|spec| spec.selector.clone()),
        )
    } else if let Some(set) = object.downcast_ref::<StatefulSet>() {
        let spec = set.spec.as_ref();
        let have = set.status.as_ref().map(|status| status.replicas);
        (
            spec.and_then(|spec| spec.replicas),
            have,
            spec.map(|spec| spec.selector.clone()),
        )
    } else if let Some(controller) = object.downcast_ref::<ReplicationController>() {
        let spec = controller.spec.as_ref();
        let have = controller.status.as_ref().map(|status| status.replicas);
        let selector = LabelSelector {
            match_labels: spec.and_then(|spec| spec.selector.clone()),
            ..LabelSelector::default()
        };
        (spec.and_then(|spec| spec.replicas), have, Some(selector))
    } else {
        return Err(ApiError::internal("the kind has no scale"));
    };
    Ok(Scale {
        metadata: scale_metadata(object.metadata()),
        spec: Some(ScaleSpec { replicas: wanted }),
        status: Some(ScaleStatus {
            replicas: have.unwrap_or(0),
            selector: Some(selector_text(selector.as_ref())).filter(|text| !text.is_empty()),
        }),
    })
}
