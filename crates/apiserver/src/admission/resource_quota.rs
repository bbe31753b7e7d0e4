//! ResourceQuota: a namespace's quotas are charged with what new objects use up; where there is not enough, they are
//! refused.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota as Quota};
use skiff_api::pod_resources::Amounts;
use skiff_api::quota::{charge, in_scope, left_out, tracks, usage};
use skiff_api::validation::quantity::Amount;
use skiff_api::{ApiError, ApiResult, Object, ObjectExt};

use super::{Admission, AdmissionRequest, Operation};
use crate::query::{FieldValidation, WriteOptions};
use crate::write::{self, Current, Part, Target};

pub(crate) struct ResourceQuota;

/// Creations are charged for all kinds; changes only where they can make a difference.
fn concerns(request: &AdmissionRequest<'_>) -> bool {
    let kind = &request.resource.kind;
    let place = (&*kind.group, &*kind.plural, request.subresource);
    match request.operation {
        Operation::Create => {
            request.resource.namespaced()
                && request.subresource.is_empty()
                && request.resource.kind.is_stored()
        }
        Operation::Update => matches!(
            place,
            ("", "services" | "persistentvolumeclaims", "") | ("", "pods", "resize")
        ),
        Operation::Delete | Operation::Connect => false,
    }
}

fn as_pod(object: &dyn Object) -> Option<&Pod> {
    object.downcast_ref()
}

#[async_trait]
impl Admission for ResourceQuota {
    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&dyn Object>,
        old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        let Some(object) = object.filter(|_| concerns(request)) else {
            return Ok(());
        };
        let quotas: Vec<Quota> = request
            .list_known("", "resourcequotas", request.namespace)
            .await?;
        if quotas.is_empty() {
            return Ok(());
        }
        let kind = &request.resource.kind;
        let now = request.call.server.now();
        let used = usage(&kind.group, &kind.plural, object, now);
        let mut charged = Vec::new();
        for quota in quotas {
            let hard = quota.status.as_ref().and_then(|status| status.hard.clone());
            let hard = hard.unwrap_or_default();
            let limited = || {
                let names = hard.keys().map(String::as_str);
                names.filter(|name| tracks(&kind.group, &kind.plural, name))
            };
            let Some(spec) = &quota.spec else { continue };
            if limited().next().is_none() || !in_scope(spec, as_pod(object)) {
                continue;
            }
            let name = quota.metadata.name.clone().unwrap_or_default();
            if let Some(why) = as_pod(object).and_then(|pod| left_out(pod, limited())) {
                return Err(request.forbidden(&format!("failed quota: {name}: {why}")));
            }
            let known = quota
                .status
                .as_ref()
                .and_then(|status| status.used.as_ref());
            if !limited().all(|name| known.is_some_and(|used| used.contains_key(name))) {
                let names = limited().collect::<Vec<_>>().join(",");
                return Err(request.forbidden(&format!(
                    "status unknown for quota: {name}, resources: {names}"
                )));
            }
            let mut more = used.clone();
            if let Some(old) = old.filter(|old| in_scope(spec, as_pod(*old))) {
                subtract(&mut more, &usage(&kind.group, &kind.plural, old, now));
            }
            more.retain(|_, amount| !amount.is_zero());
            if !more.is_empty() {
                charged.push((name, more));
            }
        }
        for (name, more) in charged {
            book(request, &name, &more).await?;
        }
        Ok(())
    }
}

/// What is more than before; what became less is given back by the controller.
fn subtract(more: &mut Amounts, before: &Amounts) {
    for (name, amount) in more {
        if let Some(before) = before.get(name) {
            *amount = if *amount > *before {
                amount.minus(*before)
            } else {
                Amount::ZERO
            };
        }
    }
}

/// Charges a quota, as it is stored now.
async fn book(request: &AdmissionRequest<'_>, name: &str, more: &Amounts) -> ApiResult<()> {
    let registry = request.call.server.registry.load_full();
    let quotas = registry
        .stored("", "resourcequotas")
        .ok_or_else(ApiError::no_such_path)?;
    let options = WriteOptions {
        dry_run: request.dry_run,
        field_manager: String::new(),
        field_validation: FieldValidation::Ignore,
        force: None,
    };
    let target = Target {
        call: request.call,
        resource: quotas,
        namespace: request.namespace,
        name,
        subresource: "status",
        options: &options,
    };
    let mut change = |current: &Current| {
        let mut object = current.object.clone_box();
        let quota = object
            .downcast_mut::<Quota>()
            .ok_or_else(|| ApiError::internal("no quota"))?;
        charge(quota, more).map_err(|why| request.forbidden(&why))?;
        Ok::<Box<dyn Object>, ApiError>(object)
    };
    match write::update(&target, Part::Status, &mut change).await {
        Ok(_) => Ok(()),
        // It went meanwhile: there is no limit any more.
        Err(error) if error.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}
