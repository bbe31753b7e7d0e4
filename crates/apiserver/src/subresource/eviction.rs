//! `pods/eviction`: deletes a pod where its disruption budget allows it.

use axum::body::Body;
use http::Response;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{Eviction, PodDisruptionBudget};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;
use skiff_api::{ApiError, ApiResult, Object, ObjectExt};

use super::{body_as, kind_of, success};
use crate::admission::{self, Operation};
use crate::delete::{DeleteOptions, delete_object};
use crate::query::{Freshness, WriteOptions, dry_run};
use crate::registry::Resource;
use crate::server::Call;
use crate::write::{self, Current, Part, Target};

/// A budget remembers so many disrupted pods at most.
const MAX_DISRUPTED: usize = 2000;

/// Answers a POST of an eviction.
pub(crate) async fn evict(call: &Call, pods: &Resource, body: Body) -> ApiResult<Response<Body>> {
    let mut options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let eviction: Eviction =
        body_as(call, &kind_of("policy/v1", "Eviction")?, &options, body).await?;
    let name = &call.info.name;
    if eviction
        .metadata
        .name
        .as_deref()
        .is_some_and(|other| !other.is_empty() && other != name)
    {
        return Err(ApiError::bad_request(
            "name in URL does not match name in Eviction object",
        ));
    }
    let delete: DeleteOptions = match &eviction.delete_options {
        Some(options) => serde_json::to_value(options)
            .and_then(serde_json::from_value)
            .map_err(|error| ApiError::bad_request(error.to_string()))?,
        None => DeleteOptions::default(),
    };
    options.dry_run |= dry_run(delete.dry_run.iter().map(String::as_str), "DeleteOptions")?;
    let entry = call
        .server
        .lookup(pods, &call.info.namespace, name)
        .await?
        .ok_or_else(|| ApiError::not_found("", "pods", name))?;
    let pod: Pod = entry.decode().ok_or_else(|| ApiError::internal("no pod"))?;
    let target = Target {
        call,
        resource: pods,
        namespace: &call.info.namespace,
        name,
        subresource: "eviction",
        options: &options,
    };
    admission::validate(&target.admission(Operation::Create), Some(&eviction), None).await?;
    let mut delete = delete;
    if options.dry_run {
        delete.dry_run = vec!["All".to_owned()];
    }
    admit(call, pods, eviction, &options).await?;
    if !ignores_budget(&pod)
        && let Some(budget) = budget_of(call, &pod).await?
    {
        take_disruption(call, &budget, &pod, &options).await?;
    }
    delete_object(call, pods, &call.info.namespace, name, &delete).await?;
    success(call, 201)
}

async fn admit(
    call: &Call,
    pods: &Resource,
    eviction: Eviction,
    options: &WriteOptions,
) -> ApiResult<()> {
    let target = Target {
        call,
        resource: pods,
        namespace: &call.info.namespace,
        name: &call.info.name,
        subresource: "eviction",
        options,
    };
    let request = target.admission(Operation::Create);
    let mut eviction: Box<dyn Object> = Box::new(eviction);
    admission::mutate(&request, &mut eviction, None).await?;
    admission::validate(&request, Some(&*eviction), None).await
}

/// Pods that are over, not yet running or on their way out disrupt nothing when they go.
fn ignores_budget(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default();
    matches!(phase, "Succeeded" | "Failed" | "Pending") || pod.metadata.deletion_timestamp.is_some()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

async fn budget_of(call: &Call, pod: &Pod) -> ApiResult<Option<PodDisruptionBudget>> {
    let registry = call.server.registry.load_full();
    let Some(budgets) = registry.stored("policy", "poddisruptionbudgets") else {
        return Ok(None);
    };
    let cache = call.server.hub_cache(budgets).await?;
    call.server.wait_fresh(Freshness::Newest).await?;
    let labels = pod.metadata.labels.clone();
    let (entries, _) = cache.list(&budgets.prefix(&call.info.namespace), None, 0);
    let mut matching = entries
        .iter()
        .filter_map(|entry| entry.decode::<PodDisruptionBudget>())
        .filter(|budget| {
            let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            selector.is_some_and(|selector| {
                skiff_api::validation::meta::selector_matches(selector, &labels)
            })
        });
    let first = matching.next();
    if matching.next().is_some() {
        return Err(ApiError::new(
            500,
            "",
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        ));
    }
    Ok(first)
}

/// Takes one of the budget's allowed disruptions, unless an unready pod needs none.
async fn take_disruption(
    call: &Call,
    budget: &PodDisruptionBudget,
    pod: &Pod,
    options: &WriteOptions,
) -> ApiResult<()> {
    let status = budget.status.clone().unwrap_or_default();
    if !is_ready(pod) {
        let policy = budget
            .spec
            .as_ref()
            .and_then(|spec| spec.unhealthy_pod_eviction_policy.as_deref());
        let enough = status.current_healthy >= status.desired_healthy
            && status.desired_healthy.unwrap_or(0) > 0;
        if policy == Some("AlwaysAllow") || enough {
            return Ok(());
        }
    }
    let registry = call.server.registry.load_full();
    let budgets = registry
        .stored("policy", "poddisruptionbudgets")
        .ok_or_else(ApiError::no_such_path)?;
    let name = budget.metadata.name.clone().unwrap_or_default();
    let target = Target {
        call,
        resource: budgets,
        namespace: &call.info.namespace,
        name: &name,
        subresource: "status",
        options,
    };
    let pod_name = pod.metadata.name.clone().unwrap_or_default();
    let now = Time(call.server.now());
    let mut change = |current: &Current| {
        let mut object = current.object.clone_box();
        let budget = object
            .downcast_mut::<PodDisruptionBudget>()
            .ok_or_else(|| ApiError::internal("no budget"))?;
        decrement(budget, &pod_name, &now)?;
        Ok::<Box<dyn Object>, ApiError>(object)
    };
    write::update(&target, Part::Own, &mut change)
        .await
        .map(drop)
}

fn decrement(budget: &mut PodDisruptionBudget, pod: &str, now: &Time) -> ApiResult<()> {
    let name = budget.metadata.name.clone().unwrap_or_default();
    let generation = budget.metadata.generation.unwrap_or(0);
    let status = budget.status.get_or_insert_default();
    let too_many = |message: String, retry: u64| ApiError {
        details: Some(json!({
            "causes": [{"reason": "DisruptionBudget", "message": message}], "retryAfterSeconds": retry,
        })),
        ..ApiError::new(
            429,
            "TooManyRequests",
            "Cannot evict pod as it would violate the pod's disruption budget.",
        )
    };
    if status.observed_generation.unwrap_or(0) < generation {
        return Err(too_many(
            format!("The disruption budget {name} is still being processed by the server."),
            10,
        ));
    }
    let allowed = status.disruptions_allowed.unwrap_or(0);
    if allowed < 0 {
        return Err(ApiError::forbidden(
            "policy",
            "poddisruptionbudget",
            &name,
            "pdb disruptions allowed is negative",
        ));
    }
    if status
        .disrupted_pods
        .as_ref()
        .is_some_and(|pods| pods.len() > MAX_DISRUPTED)
    {
        return Err(ApiError::forbidden(
            "policy",
            "poddisruptionbudget",
            &name,
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if allowed == 0 {
        let message = format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            status.desired_healthy.unwrap_or(0),
            status.current_healthy.unwrap_or(0)
        );
        return Err(too_many(message, 0));
    }
    status.disruptions_allowed = Some(allowed - 1);
    status
        .disrupted_pods
        .get_or_insert_default()
        .insert(pod.to_owned(), now.clone());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_used_up() {
        let mut budget: PodDisruptionBudget = serde_json::from_value(json!({
            "metadata": {"name": "b", "generation": 1},
            "status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 3, "desiredHealthy": 2, "expectedPods": 3},
        }))
        .unwrap();
        let now = Time(jiff::Timestamp::UNIX_EPOCH);
        decrement(&mut budget, "p", &now).unwrap();
        let error = decrement(&mut budget, "q", &now).unwrap_err();
        assert_eq!(error.code, 429);
        assert_eq!(
            error.details.unwrap()["causes"][0]["message"],
            "The disruption budget b needs 2 healthy pods and has 3 currently"
        );
        budget.metadata.generation = Some(2);
        assert_eq!(decrement(&mut budget, "q", &now).unwrap_err().code, 429);
    }
}
