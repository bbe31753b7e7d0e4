//! `scale` of deployments, replica sets, replication controllers and stateful sets.

use axum::body::Body;
use http::{Method, Response};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::autoscaling::v1::{Scale, ScaleSpec, ScaleStatus};
use k8s_openapi::api::core::v1::ReplicationController;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    FieldsV1, LabelSelector, ManagedFieldsEntry, ObjectMeta,
};
use serde_json::json;
use skiff_api::{ApiError, ApiResult, FieldError, Object, ObjectExt, Path};

use super::{kind_of, object_answer, selector_text};
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
            object_answer(
                call,
                200,
                &scale_of(&*resource.decode_stored(&entry.bytes)?)?,
            )
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
        let mut old = scale_of(&*current.object)?;
        let parent = current.object.metadata().managed_fields.as_deref();
        let applies = patch.as_ref().is_some_and(Patch::is_apply);
        if applies {
            old.metadata.managed_fields = Some(scale_record(parent.unwrap_or_default()));
        }
        let wanted = match (&put, &patch) {
            (Some(scale), _) => scale.clone(),
            (None, Some(patch)) => typed(decode_kind(
                &kind,
                patch.patched(call, resource, &kind, &old.to_value())?,
            )?)?,
            (None, None) => old,
        };
        let replicas = wanted
            .spec
            .as_ref()
            .and_then(|spec| spec.replicas)
            .unwrap_or(0);
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
        set_replicas(&mut *object, replicas);
        let meta = object.metadata_mut();
        meta.resource_version = wanted.metadata.resource_version;
        if applies {
            let record = wanted.metadata.managed_fields.unwrap_or_default();
            let record = parent_record(parent.unwrap_or_default(), record, resource);
            meta.managed_fields = Some(record);
        }
        Ok::<Box<dyn Object>, ApiError>(object)
    };
    let written = write::update(&target, Part::Main, &mut change).await?;
    object_answer(
        call,
        200,
        &scale_of(&*resource.decode_stored(&written.entry.bytes)?)?,
    )
}

/// Whether an entry of the record owns the number of replicas.
fn owns_replicas(entry: &ManagedFieldsEntry) -> bool {
    let fields = entry.fields_v1.as_ref();
    fields.is_some_and(|fields| fields.0.pointer("/f:spec/f:replicas").is_some())
}

/// The record of owners as the scale shows it: those of the number of replicas.
fn scale_record(parent: &[ManagedFieldsEntry]) -> Vec<ManagedFieldsEntry> {
    let owners = parent.iter().filter(|entry| owns_replicas(entry));
    let of_scale = |entry: &ManagedFieldsEntry| ManagedFieldsEntry {
        api_version: Some("autoscaling/v1".to_owned()),
        fields_v1: Some(FieldsV1(json!({"f:spec": {"f:replicas": {}}}))),
        ..entry.clone()
    };
    owners.map(of_scale).collect()
}

/// The record of owners of the object itself, after its scale was applied to.
fn parent_record(
    parent: &[ManagedFieldsEntry],
    scale: Vec<ManagedFieldsEntry>,
    resource: &Resource,
) -> Vec<ManagedFieldsEntry> {
    let same = |a: &ManagedFieldsEntry, b: &ManagedFieldsEntry| {
        a.manager == b.manager && a.operation == b.operation && a.subresource == b.subresource
    };
    let mut record = parent.to_vec();
    for entry in &mut record {
        if owns_replicas(entry) && !scale.iter().any(|other| same(entry, other)) {
            let spec = entry
                .fields_v1
                .as_mut()
                .and_then(|fields| fields.0.get_mut("f:spec")?.as_object_mut());
            if let Some(spec) = spec {
                spec.remove("f:replicas");
            }
        }
    }
    record.retain(|entry| {
        let fields = entry.fields_v1.as_ref();
        fields.is_some_and(|fields| fields.0 != json!({"f:spec": {}}))
    });
    let own = resource.kind.api_version();
    for entry in scale.into_iter().filter(owns_replicas) {
        match record.iter_mut().find(|other| same(other, &entry)) {
            Some(other) => other.time = entry.time,
            None => record.push(ManagedFieldsEntry {
                api_version: Some(own.clone()),
                ..entry
            }),
        }
    }
    record
}

pub(crate) fn set_replicas(object: &mut dyn Object, replicas: i32) {
    if let Some(deployment) = object.downcast_mut::<Deployment>() {
        deployment.spec.get_or_insert_default().replicas = Some(replicas);
    } else if let Some(set) = object.downcast_mut::<ReplicaSet>() {
        set.spec.get_or_insert_default().replicas = Some(replicas);
    } else if let Some(set) = object.downcast_mut::<StatefulSet>() {
        set.spec.get_or_insert_default().replicas = Some(replicas);
    } else if let Some(controller) = object.downcast_mut::<ReplicationController>() {
        controller.spec.get_or_insert_default().replicas = Some(replicas);
    }
}

/// The scale of a workload.
pub(crate) fn scale_of(object: &dyn Object) -> ApiResult<Scale> {
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
    let meta = object.metadata();
    Ok(Scale {
        metadata: ObjectMeta {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            creation_timestamp: meta.creation_timestamp.clone(),
            ..ObjectMeta::default()
        },
        spec: Some(ScaleSpec { replicas: wanted }),
        status: Some(ScaleStatus {
            replicas: have.unwrap_or(0),
            selector: Some(selector_text(selector.as_ref())).filter(|text| !text.is_empty()),
        }),
    })
}
