//! How one scheduler is set up: which plugins it asks at which point, with which weights and arguments.

use std::time::Duration;

use k8s_openapi::api::core::v1::{NodeAffinity, TopologySpreadConstraint};

use crate::devices::allocator::steps_within;
use crate::framework::PLUGINS;
use crate::metrics::Measured;
use crate::resources::Resources;

/// The scheduler that pods get which name none.
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";

/// The resources that nearly all are about, apart from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `cpu`.
    Cpu,
    /// `memory`.
    Memory,
    /// Any other.
    Other,
}

/// A resource and how much it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weighted {
    /// The resource.
    pub name: Box<str>,
    /// What it is.
    pub kind: Kind,
    /// The weight.
    pub weight: i64,
}

impl Weighted {
    /// A resource with its weight.
    #[must_use]
    pub fn new(name: &str, weight: i64) -> Self {
        Self {
            name: name.into(),
            kind: match name {
                "cpu" => Kind::Cpu,
                "memory" => Kind::Memory,
                _ => Kind::Other,
            },
            weight,
        }
    }

    /// The amount of it.
    #[must_use]
    pub fn of(&self, resources: &Resources) -> i64 {
        match self.kind {
            Kind::Cpu => resources.cpu,
            Kind::Memory => resources.memory,
            Kind::Other => resources.get(&self.name),
        }
    }
}

/// How nodes with room are compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The emptier, the better.
    #[default]
    LeastAllocated,
    /// The fuller, the better.
    MostAllocated,
    /// By a line through points: use in percent, and the score (to 100).
    Ratio(Vec<(i64, i64)>),
}

/// The arguments of all plugins.
#[derive(Clone, Debug, PartialEq)]
pub struct Args {
    /// NodeAffinity: holds for all pods beside their own.
    pub added_affinity: Option<NodeAffinity>,
    /// NodeResourcesFit: extended resources that are not looked at.
    pub ignored_resources: Vec<String>,
    /// NodeResourcesFit: the same by the part before the slash.
    pub ignored_groups: Vec<String>,
    /// NodeResourcesFit: how nodes are compared.
    pub strategy: Strategy,
    /// NodeResourcesFit: by which resources.
    pub fit_resources: Vec<Weighted>,
    /// NodeResourcesBalancedAllocation: by which resources.
    pub balanced_resources: Vec<Weighted>,
    /// InterPodAffinity: how much the required affinity of pods on nodes draws others near.
    pub hard_pod_affinity_weight: i64,
    /// InterPodAffinity: whether what pods on nodes would like is ignored.
    pub ignore_preferred_of_others: bool,
    /// PodTopologySpread: holds for pods that say nothing themselves.
    pub spread_defaults: Vec<TopologySpreadConstraint>,
    /// PodTopologySpread: whether that is upstream's own default.
    pub spread_by_system: bool,
    /// VolumeBinding: how long volumes are waited for, in seconds.
    pub bind_timeout_seconds: u64,
    /// DynamicResources: after so many steps the search for devices on a node is given up.
    pub device_steps: u32,
    /// DynamicResources: how long devices may take to become ready, in seconds.
    pub device_timeout_seconds: u64,
    /// DefaultPreemption: so many nodes in a hundred are tried.
    pub min_candidates_percentage: usize,
    /// DefaultPreemption: at least so many.
    pub min_candidates_absolute: usize,
}

impl Args {
    /// Whether an extended resource is not to be looked at.
    #[must_use]
    pub fn ignores(&self, resource: &str) -> bool {
        if self.ignored_resources.is_empty() && self.ignored_groups.is_empty() {
            return false;
        }
        let group = resource.split('/').next().unwrap_or_default();
        self.ignored_resources.iter().any(|name| name == resource)
            || self.ignored_groups.iter().any(|name| name == group)
    }
}

/// CPU and memory alike.
#[must_use]
pub fn cpu_and_memory() -> Vec<Weighted> {
    ["cpu", "memory"].map(|name| Weighted::new(name, 1)).into()
}

fn system_spread() -> Vec<TopologySpreadConstraint> {
    [
        ("kubernetes.io/hostname", 3),
        ("topology.kubernetes.io/zone", 5),
    ]
    .map(|(key, max_skew)| TopologySpreadConstraint {
        topology_key: key.to_owned(),
        max_skew,
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        ..TopologySpreadConstraint::default()
    })
    .into()
}

impl Default for Args {
    fn default() -> Self {
        Self {
            added_affinity: None,
            ignored_resources: Vec::new(),
            ignored_groups: Vec::new(),
            strategy: Strategy::default(),
            fit_resources: cpu_and_memory(),
            balanced_resources: cpu_and_memory(),
            hard_pod_affinity_weight: 1,
            ignore_preferred_of_others: false,
            spread_defaults: system_spread(),
            spread_by_system: true,
            bind_timeout_seconds: 600,
            device_steps: steps_within(Duration::from_secs(10)),
            device_timeout_seconds: 600,
            min_candidates_percentage: 10,
            min_candidates_absolute: 100,
        }
    }
}

/// One scheduler. Plugins are listed by their numbers, in the order in which they are asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// The name that pods choose it by.
    pub name: Box<str>,
    /// So many nodes in a hundred are looked for in a large cluster; 0 for as many as its size suggests.
    pub percentage: u32,
    /// Who says whether a pod is to be queued.
    pub pre_enqueue: Vec<usize>,
    /// Who is asked before any node is looked at.
    pub pre_filters: Vec<usize>,
    /// Who refuses nodes.
    pub filters: Vec<usize>,
    /// Who looks for another way.
    pub post_filters: Vec<usize>,
    /// Who prefers nodes, and how much that counts.
    pub scores: Vec<(usize, i64)>,
    /// Who holds something for the pod.
    pub reserves: Vec<usize>,
    /// Who binds.
    pub binds: Vec<usize>,
    /// The arguments.
    pub args: Args,
    /// What is measured of it.
    pub measured: Measured,
}

impl Default for Profile {
    fn default() -> Self {
        Self::with_defaults(DEFAULT_SCHEDULER)
    }
}

impl Profile {
    /// A scheduler with upstream's plugins.
    #[must_use]
    pub fn with_defaults(name: &str) -> Self {
        let which = |does: fn(&crate::framework::Plugin) -> bool| {
            let all = PLUGINS.iter().enumerate();
            all.filter(|(_, plugin)| does(plugin))
                .map(|(number, _)| number)
                .collect::<Vec<usize>>()
        };
        let weight = |number: usize| {
            let plugin = PLUGINS.get(number);
            (number, plugin.map_or(1, |plugin| plugin.weight))
        };
        Self {
            name: name.into(),
            percentage: 0,
            pre_enqueue: which(|plugin| plugin.pre_enqueue.is_some()),
            pre_filters: which(|plugin| plugin.pre_filter.is_some()),
            filters: which(|plugin| plugin.filter.is_some()),
            post_filters: which(|plugin| plugin.post_filter),
            scores: which(|plugin| plugin.score.is_some())
                .into_iter()
                .map(weight)
                .collect(),
            reserves: which(|plugin| plugin.reserve),
            binds: which(|plugin| plugin.bind),
            args: Args::default(),
            measured: Measured::default(),
        }
    }

    /// Whether a plugin is among those that are asked at a point.
    #[must_use]
    pub fn asks(list: &[usize], name: &str) -> bool {
        crate::framework::number(name).is_some_and(|number| list.contains(&number))
    }
}
