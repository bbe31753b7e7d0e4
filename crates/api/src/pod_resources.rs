//! How much a pod asks for and may use at most, summed over its containers.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::validation::quantity::Amount;

/// An amount of each resource.
pub type Amounts = BTreeMap<String, Amount>;

type Pick = fn(&ResourceRequirements) -> Option<&BTreeMap<String, Quantity>>;

fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = total.entry(name.clone()).or_insert(Amount::ZERO);
        *sum = sum.plus(*amount);
    }
}

fn raise(total: &mut Amounts, least: &Amounts) {
    for (name, amount) in least {
        let entry = total.entry(name.clone()).or_insert(*amount);
        *entry = (*entry).max(*amount);
    }
}

fn amounts(resources: Option<&ResourceRequirements>, pick: Pick) -> Amounts {
    let list = resources.and_then(pick).into_iter().flatten();
    list.map(|(name, quantity)| (name.clone(), Amount::of(quantity)))
        .collect()
}

/// Whether both ask for the same and allow the same, however the amounts are written.
#[must_use]
pub fn same_amounts(
    one: Option<&ResourceRequirements>,
    other: Option<&ResourceRequirements>,
) -> bool {
    let picks: [Pick; 2] = [|all| all.limits.as_ref(), |all| all.requests.as_ref()];
    let mut picks = picks.into_iter();
    picks.all(|pick| amounts(one, pick) == amounts(other, pick))
}

fn total(spec: &PodSpec, pick: Pick) -> Amounts {
    let mut sum = Amounts::new();
    for container in &spec.containers {
        add(&mut sum, &amounts(container.resources.as_ref(), pick));
    }
    // Init containers run one after another, beside the restartable ones that started before them.
    let (mut beside, mut peak) = (Amounts::new(), Amounts::new());
    for container in spec.init_containers.iter().flatten() {
        let mut own = amounts(container.resources.as_ref(), pick);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sum, &own);
            add(&mut beside, &own);
            raise(&mut peak, &beside);
        } else {
            add(&mut own, &beside);
            raise(&mut peak, &own);
        }
    }
    raise(&mut sum, &peak);
    // What the pod says as a whole counts instead, for the resources that can be said so.
    for (name, amount) in amounts(spec.resources.as_ref(), pick) {
        if name == "cpu" || name == "memory" || name.starts_with("hugepages-") {
            sum.insert(name, amount);
        }
    }
    sum
}

/// What a pod requests, its overhead excluded.
#[must_use]
pub fn requests(spec: &PodSpec) -> Amounts {
    total(spec, |resources| resources.requests.as_ref())
}

/// What a pod is limited to, its overhead excluded. A resource that only some containers limit counts with those.
#[must_use]
pub fn limits(spec: &PodSpec) -> Amounts {
    total(spec, |resources| resources.limits.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn cpu(spec: serde_json::Value) -> String {
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        requests(&spec)["cpu"].canonical()
    }

    #[test]
    fn sums_peaks_and_what_the_pod_says() {
        let of = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let beside = |cpu: &str| json!({"name": "c", "restartPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
        let cases = [
            (json!({"containers": [of("1"), of("500m")]}), "1500m"),
            (
                json!({"containers": [of("1")], "initContainers": [of("2"), of("3")]}),
                "3",
            ),
            (
                json!({"containers": [of("1")], "initContainers": [beside("1"), of("3"), beside("1")]}),
                "4",
            ),
            (
                json!({"containers": [of("1")], "initContainers": [of("3"), beside("1")]}),
                "3",
            ),
            (
                json!({"containers": [of("1")], "resources": {"requests": {"cpu": "7"}}}),
                "7",
            ),
        ];
        for (spec, sum) in cases {
            assert_eq!(cpu(spec.clone()), sum, "{spec}");
        }
    }
}
