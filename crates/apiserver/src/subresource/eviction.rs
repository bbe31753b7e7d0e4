//! `pods/eviction`: deletes a pod where its disruption budget allows it.

use axum::body::Body;
use http::Response;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::api::policy::v1::{Eviction, PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde_json::json;
use skiff_api::{ApiError, ApiResult, Object, ObjectExt};

use super::{body_as, kind_of, success};
use crate::admission::{self, Operation};
use crate::delete::{DeleteOptions, check_preconditions, delete_object};
use crate::query::{Freshness, WriteOptions, dry_run};
use crate::registry::Resource;
use crate::server::Call;
use crate::write::{self, Current, Part, Target};

const ALLOWED: &str = "DisruptionAllowed";
/// A pod that changes all the time is given up on after so many tries.
const ATTEMPTS: usize = 20;
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
    let mut delete = delete;
    if options.dry_run {
        delete.dry_run = vec!["All".to_owned()];
    }
    admit(call, pods, eviction, &options).await?;
    let eviction = Evicting {
        call,
        pods,
        options: &options,
        delete: &delete,
    };
    eviction.run().await?;
    success(call, 201)
}

/// An eviction that was admitted.
struct Evicting<'a> {
    call: &'a Call,
    pods: &'a Resource,
    options: &'a WriteOptions,
    /// How the pod is to be deleted, as the client says.
    delete: &'a DeleteOptions,
}

impl Evicting<'_> {
    async fn run(&self) -> ApiResult<()> {
        for _ in 0..ATTEMPTS {
            let pod = self.pod().await?;
            if !ignores_budget(&pod) {
                return self.by_budget(&pod).await;
            }
            // A pod that starts to run in the meantime is protected.
            let may_run = !is_over(&pod);
            match self.go(may_run.then_some(&pod)).await {
                Err(error) if may_run && !self.names_version() && error.code == 409 => {}
                outcome => return outcome,
            }
        }
        let name = &self.call.info.name;
        Err(ApiError::conflict("", "pods", name, write::MODIFIED))
    }

    async fn pod(&self) -> ApiResult<Pod> {
        let info = &self.call.info;
        let entry = self
            .call
            .server
            .lookup(self.pods, &info.namespace, &info.name)
            .await?
            .ok_or_else(|| ApiError::not_found("", "pods", &info.name))?;
        entry.decode().ok_or_else(|| ApiError::internal("no pod"))
    }

    /// Whether the client says which version of the pod it means.
    fn names_version(&self) -> bool {
        let conditions = self.delete.preconditions.as_ref();
        conditions.is_some_and(|conditions| conditions.resource_version.is_some())
    }

    async fn by_budget(&self, pod: &Pod) -> ApiResult<()> {
        let Some(budget) = budget_of(self.call, pod).await? else {
            return self.go(None).await;
        };
        if !needs_none(&budget, pod) {
            take_disruption(self.call, &budget, pod, self.options).await?;
            return self.go(None).await;
        }
        // It goes only as long as it is as unready as we saw it.
        match self.go(Some(pod)).await {
            Err(error) if error.code == 409 && !self.names_version() => {
                let name = budget.metadata.name.unwrap_or_default();
                Err(still_processed(&name))
            }
            outcome => outcome,
        }
    }

    /// Says in the pod why it goes, and deletes it; `only` in that version.
    async fn go(&self, only: Option<&Pod>) -> ApiResult<()> {
        let (call, pods) = (self.call, self.pods);
        let mut delete = self.delete.clone();
        if let Some(pod) = only.filter(|_| !self.names_version()) {
            let conditions = delete.preconditions.get_or_insert_default();
            conditions
                .resource_version
                .clone_from(&pod.metadata.resource_version);
        }
        let info = &call.info;
        if !self.options.dry_run {
            let target = Target {
                call,
                resource: pods,
                namespace: &info.namespace,
                name: &info.name,
                subresource: "eviction",
                options: self.options,
            };
            let now = Time(call.server.now());
            let mut change = |current: &Current| {
                check_preconditions(&target, &delete, current)?;
                let mut object = current.object.clone_box();
                let pod = object
                    .downcast_mut::<Pod>()
                    .ok_or_else(|| ApiError::internal("no pod"))?;
                mark(pod, &now);
                Ok::<Box<dyn Object>, ApiError>(object)
            };
            let written = write::update(&target, Part::Own, &mut change).await?;
            if let Some(conditions) = &mut delete.preconditions
                && conditions.resource_version.is_some()
            {
                conditions.resource_version = Some(written.entry.revision.to_string());
            }
        }
        delete_object(call, pods, &info.namespace, &info.name, &delete)
            .await
            .map(drop)
    }
}

/// Puts the condition into the pod that says why it goes.
fn mark(pod: &mut Pod, now: &Time) {
    let conditions = pod
        .status
        .get_or_insert_default()
        .conditions
        .get_or_insert_default();
    let known = conditions
        .iter_mut()
        .find(|found| found.type_ == "DisruptionTarget");
    let since = known
        .as_ref()
        .filter(|known| known.status == "True")
        .and_then(|known| known.last_transition_time.clone());
    let condition = PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some("EvictionByEvictionAPI".to_owned()),
        message: Some("Eviction API: evicting".to_owned()),
        last_transition_time: Some(since.unwrap_or_else(|| now.clone())),
        ..PodCondition::default()
    };
    match known {
        Some(known) => *known = condition,
        None => conditions.push(condition),
    }
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

fn phase(pod: &Pod) -> &str {
    let status = pod.status.as_ref();
    status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

/// Whether the pod has ended or is on its way out.
fn is_over(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed") || pod.metadata.deletion_timestamp.is_some()
}

/// Pods that are over, not yet running or on their way out disrupt nothing when they go.
fn ignores_budget(pod: &Pod) -> bool {
    is_over(pod) || phase(pod) == "Pending"
}

/// Whether the pod is unready and may go without one of the budget's disruptions.
fn needs_none(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let policy = budget
        .spec
        .as_ref()
        .and_then(|spec| spec.unhealthy_pod_eviction_policy.as_deref());
    let enough = budget.status.as_ref().is_some_and(|status| {
        status.current_healthy >= status.desired_healthy && status.desired_healthy.unwrap_or(0) > 0
    });
    !is_ready(pod) && (policy == Some("AlwaysAllow") || enough)
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

/// Takes one of the budget's allowed disruptions.
async fn take_disruption(
    call: &Call,
    budget: &PodDisruptionBudget,
    pod: &Pod,
    options: &WriteOptions,
) -> ApiResult<()> {
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

fn too_many(message: &str, retry: Option<u64>) -> ApiError {
    let mut details = json!({"causes": [{"reason": "DisruptionBudget", "message": message}]});
    if let Some(seconds) = retry {
        details["retryAfterSeconds"] = json!(seconds);
    }
    ApiError {
        details: Some(details),
        ..ApiError::new(
            429,
            "TooManyRequests",
            "Cannot evict pod as it would violate the pod's disruption budget.",
        )
    }
}

fn still_processed(budget: &str) -> ApiError {
    too_many(
        &format!("The disruption budget {budget} is still being processed by the server."),
        Some(10),
    )
}

fn decrement(budget: &mut PodDisruptionBudget, pod: &str, now: &Time) -> ApiResult<()> {
    let name = budget.metadata.name.clone().unwrap_or_default();
    let generation = budget.metadata.generation.unwrap_or(0);
    let status = budget.status.get_or_insert_default();
    if status.observed_generation.unwrap_or(0) < generation {
        return Err(still_processed(&name));
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
        return Err(too_many(&refusal(&name, status), None));
    }
    status.disruptions_allowed = Some(allowed - 1);
    if allowed == 1 {
        use_up(status, now);
    }
    status
        .disrupted_pods
        .get_or_insert_default()
        .insert(pod.to_owned(), now.clone());
    Ok(())
}

/// Why a budget allows no disruption.
fn refusal(name: &str, status: &PodDisruptionBudgetStatus) -> String {
    let mut conditions = status.conditions.iter().flatten();
    let told = conditions.find(|found| {
        found.type_ == ALLOWED && found.status == "False" && !found.message.is_empty()
    });
    let (healthy, desired) = (status.current_healthy, status.desired_healthy);
    let (healthy, desired) = (healthy.unwrap_or(0), desired.unwrap_or(0));
    match told {
        Some(told) if told.reason == "SyncFailed" => format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {}",
            told.message
        ),
        _ if healthy <= desired => format!(
            "The disruption budget {name} needs {desired} healthy pods and has {healthy} currently"
        ),
        Some(told) => format!(
            "The disruption budget {name} does not allow evicting pods currently ({}): {}",
            told.reason, told.message
        ),
        None => format!("The disruption budget {name} does not allow evicting pods currently"),
    }
}

/// The condition of a budget whose last disruption was taken.
fn use_up(status: &mut PodDisruptionBudgetStatus, now: &Time) {
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|found| found.type_ != ALLOWED);
    conditions.push(Condition {
        type_: ALLOWED.to_owned(),
        status: "False".to_owned(),
        reason: "InsufficientPods".to_owned(),
        message: String::new(),
        observed_generation: status.observed_generation,
        last_transition_time: now.clone(),
    });
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
            "The disruption budget b does not allow evicting pods currently"
        );
        let condition = &budget.status.as_ref().unwrap().conditions.as_ref().unwrap()[0];
        assert_eq!(condition.reason, "InsufficientPods");
        budget.status.as_mut().unwrap().current_healthy = Some(2);
        let error = decrement(&mut budget, "q", &now).unwrap_err();
        let details = error.details.unwrap();
        assert_eq!(
            details["causes"][0]["message"],
            "The disruption budget b needs 2 healthy pods and has 2 currently"
        );
        assert!(details.get("retryAfterSeconds").is_none());
        budget.metadata.generation = Some(2);
        assert_eq!(decrement(&mut budget, "q", &now).unwrap_err().code, 429);
    }
}
