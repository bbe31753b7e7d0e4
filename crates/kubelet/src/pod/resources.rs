//! What a pod and its containers ask of the node: requests, limits, QoS class, cgroup values.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use crate::pod::spec;
use crate::quantity::{self, ResourceList};

/// The class that decides who is evicted and killed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QosClass {
    /// Every container has equal requests and limits.
    Guaranteed,
    /// Some container asks for something.
    Burstable,
    /// Nothing is asked for.
    BestEffort,
}

impl QosClass {
    /// Upstream's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

fn requests(container: &Container) -> Option<&ResourceList> {
    container.resources.as_ref()?.requests.as_ref()
}

fn limits(container: &Container) -> Option<&ResourceList> {
    container.resources.as_ref()?.limits.as_ref()
}

/// The pod's QoS class: what the API says, or computed from `cpu` and `memory` of all containers.
#[must_use]
pub fn qos_class(pod: &Pod) -> QosClass {
    let known = pod.status.as_ref().and_then(|s| s.qos_class.as_deref());
    match known {
        Some("Guaranteed") => return QosClass::Guaranteed,
        Some("Burstable") => return QosClass::Burstable,
        Some("BestEffort") => return QosClass::BestEffort,
        _ => {}
    }
    let pod_level: Option<&ResourceRequirements> = spec::spec(pod).resources.as_ref();
    let lists: Vec<(Option<&ResourceList>, Option<&ResourceList>)> = match pod_level {
        Some(own) if own.requests.is_some() || own.limits.is_some() => {
            vec![(own.requests.as_ref(), own.limits.as_ref())]
        }
        _ => spec::lasting_containers(pod)
            .map(|c| (requests(c), limits(c)))
            .collect(),
    };
    let positive = |list: Option<&ResourceList>, name: &str| {
        quantity::amount(list, name).filter(|amount| *amount > 0)
    };
    let mut guaranteed = true;
    let mut nothing = true;
    for (requests, limits) in lists {
        for name in ["cpu", "memory"] {
            let (request, limit) = (positive(requests, name), positive(limits, name));
            nothing &= request.is_none() && limit.is_none();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (nothing, guaranteed) {
        (true, _) => QosClass::BestEffort,
        (_, true) => QosClass::Guaranteed,
        _ => QosClass::Burstable,
    }
}

/// Resources by name, in the units of [`quantity::amount`].
pub type Amounts = BTreeMap<String, i64>;

/// What the pod needs at its peak: its containers and sidecars together, or one init container beside the sidecars
/// before it, plus the overhead.
#[must_use]
pub fn pod_requests(pod: &Pod) -> Amounts {
    aggregate(pod, requests, |r| r.requests.as_ref())
}

/// The pod's limits, summed like its requests; a resource that some container leaves unlimited is missing.
#[must_use]
pub fn pod_limits(pod: &Pod) -> Amounts {
    let mut sums = aggregate(pod, limits, |r| r.limits.as_ref());
    let own = spec::spec(pod).resources.as_ref();
    let own = own.and_then(|r| r.limits.as_ref());
    sums.retain(|name, _| {
        own.is_some_and(|o| o.contains_key(name))
            || spec::containers(pod)
                .iter()
                .chain(
                    spec::init_containers(pod)
                        .iter()
                        .filter(|c| spec::is_sidecar(c)),
                )
                .all(|c| quantity::amount(limits(c), name).is_some())
    });
    sums
}

fn aggregate(
    pod: &Pod,
    list: impl Fn(&Container) -> Option<&ResourceList>,
    own: impl Fn(&ResourceRequirements) -> Option<&ResourceList>,
) -> Amounts {
    let mut total = Amounts::new();
    for container in spec::containers(pod) {
        add(&mut total, list(container));
    }
    let mut sidecars = Amounts::new();
    let mut peak = Amounts::new();
    for container in spec::init_containers(pod) {
        let mut moment = sidecars.clone();
        add(&mut moment, list(container));
        if spec::is_sidecar(container) {
            add(&mut total, list(container));
            sidecars = moment.clone();
        }
        for (name, amount) in moment {
            let highest = peak.entry(name).or_default();
            *highest = (*highest).max(amount);
        }
    }
    for (name, amount) in peak {
        let sum = total.entry(name).or_default();
        *sum = (*sum).max(amount);
    }
    if let Some(own) = spec::spec(pod).resources.as_ref().and_then(&own) {
        for name in own.keys() {
            if let Some(amount) = quantity::amount(Some(own), name) {
                total.insert(name.clone(), amount);
            }
        }
    }
    add(&mut total, spec::spec(pod).overhead.as_ref());
    total
}

fn add(sums: &mut Amounts, list: Option<&ResourceList>) {
    for name in list.into_iter().flat_map(BTreeMap::keys) {
        if let Some(amount) = quantity::amount(list, name) {
            let sum = sums.entry(name.clone()).or_default();
            *sum = sum.saturating_add(amount);
        }
    }
}

/// The lowest share that the kernel takes.
const MIN_SHARES: i64 = 2;
/// The highest share that the kernel takes.
const MAX_SHARES: i64 = 262_144;
/// The length of a scheduling period in microseconds.
pub const CPU_PERIOD: i64 = 100_000;

/// cgroup cpu shares for thousandths of a core.
#[must_use]
pub fn cpu_shares(milli: i64) -> i64 {
    if milli == 0 {
        return MIN_SHARES;
    }
    (milli.saturating_mul(1024) / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// Microseconds per [`CPU_PERIOD`] for thousandths of a core; 0 is no limit.
#[must_use]
pub fn cpu_quota(milli: i64) -> i64 {
    if milli == 0 {
        return 0;
    }
    (milli.saturating_mul(CPU_PERIOD) / 1000).max(1000)
}

/// What the kernel is told about one container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinuxResources {
    /// cgroup cpu shares.
    pub cpu_shares: i64,
    /// Microseconds per period; 0 is no limit.
    pub cpu_quota: i64,
    /// Bytes; 0 is no limit.
    pub memory_limit: i64,
    /// Who is killed first when memory runs out: -997 is spared, 1000 goes first.
    pub oom_score_adj: i64,
}

/// The kernel's values for one container.
#[must_use]
pub fn container_resources(
    pod: &Pod,
    container: &Container,
    node_memory: i64,
    node_cpu_milli: i64,
) -> LinuxResources {
    let limit = |name| quantity::amount(limits(container), name);
    let own_limits = spec::spec(pod).resources.as_ref();
    let own_limits = own_limits.and_then(|r| r.limits.as_ref());
    let cpu_request = quantity::amount(requests(container), "cpu").or(limit("cpu"));
    let cpu_limit = limit("cpu").or(quantity::amount(own_limits, "cpu"));
    let memory_limit = limit("memory").or(quantity::amount(own_limits, "memory"));
    LinuxResources {
        cpu_shares: cpu_shares(cpu_request.unwrap_or(0)),
        cpu_quota: cpu_quota(cpu_limit.unwrap_or(0).min(node_cpu_milli.max(1))),
        memory_limit: memory_limit.unwrap_or(0),
        oom_score_adj: oom_score_adj(pod, container, node_memory),
    }
}

/// The kernel's preference for killing this container: 1000 for pods that asked for nothing, -997 for guaranteed
/// ones, and between them the less the more memory was asked for.
#[must_use]
pub fn oom_score_adj(pod: &Pod, container: &Container, node_memory: i64) -> i64 {
    let critical = spec::spec(pod).priority.unwrap_or(0) >= 2_000_000_000;
    if critical || spec::is_static(pod) {
        return -997;
    }
    match qos_class(pod) {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let request = quantity::amount(requests(container), "memory").unwrap_or(0);
            let share = i128::from(request) * 1000 / i128::from(node_memory.max(1));
            let score = 1000 - i64::try_from(share).unwrap_or(1000);
            score.clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodSpec;
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    fn container(requests: &[(&str, &str)], limits: &[(&str, &str)]) -> Container {
        let list = |entries: &[(&str, &str)]| {
            (!entries.is_empty()).then(|| {
                entries
                    .iter()
                    .map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned())))
                    .collect()
            })
        };
        Container {
            resources: Some(ResourceRequirements {
                requests: list(requests),
                limits: list(limits),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn pod(init: Vec<Container>, containers: Vec<Container>) -> Pod {
        Pod {
            spec: Some(PodSpec {
                init_containers: Some(init),
                containers,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn classes() {
        let both = [("cpu", "1"), ("memory", "1Gi")];
        for (containers, wanted) in [
            (vec![container(&[], &[])], QosClass::BestEffort),
            (vec![container(&both, &both)], QosClass::Guaranteed),
            (vec![container(&[], &both)], QosClass::Guaranteed),
            (vec![container(&both, &[])], QosClass::Burstable),
            (
                vec![container(&both, &both), container(&[], &[])],
                QosClass::Burstable,
            ),
            (
                vec![container(&[("cpu", "500m"), ("memory", "1Gi")], &both)],
                QosClass::Burstable,
            ),
        ] {
            assert_eq!(qos_class(&pod(vec![], containers)), wanted);
        }
    }

    #[test]
    fn init_containers_raise_the_peak_and_sidecars_add() {
        let mut sidecar = container(&[("cpu", "100m")], &[]);
        sidecar.restart_policy = Some("Always".into());
        let pod = pod(
            vec![sidecar, container(&[("cpu", "2")], &[])],
            vec![
                container(&[("cpu", "500m")], &[]),
                container(&[("cpu", "500m"), ("memory", "1Mi")], &[]),
            ],
        );
        let sums = pod_requests(&pod);
        assert_eq!(sums["cpu"], 2100);
        assert_eq!(sums["memory"], 1 << 20);
    }

    #[test]
    fn kernel_values() {
        assert_eq!(cpu_shares(0), 2);
        assert_eq!(cpu_shares(1000), 1024);
        assert_eq!(cpu_quota(500), 50_000);
        assert_eq!(cpu_quota(1), 1000);
        let memory = 4i64 << 30;
        let burstable = pod(vec![], vec![container(&[("memory", "1Gi")], &[])]);
        let score = oom_score_adj(&burstable, &spec::containers(&burstable)[0], memory);
        assert_eq!(score, 750);
    }
}
