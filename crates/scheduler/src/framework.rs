//! The framework: what a plugin is, which plugins there are, and what they look at.

use std::borrow::Cow;

use crate::devices::ClaimChange;
use crate::nodes::{NodeFacts, NodeRow, Usage};
use crate::plugins::{
    balanced_allocation, default_binder, default_preemption, dynamic_resources, image_locality,
    inter_pod_affinity, node_affinity, node_declared_features, node_name, node_ports,
    node_resources_fit, node_unschedulable, node_volume_limits, pod_topology_spread, priority_sort,
    scheduling_gates, taint_toleration, volume_binding, volume_restrictions, volume_zone,
};
use crate::profile::Profile;
use crate::rows::PodRow;
use crate::world::World;

/// The best score of a plugin.
pub const MAX_SCORE: i64 = 100;

/// What happens in the cluster that may let a waiting pod in, as bits.
pub mod event {
    /// A node came.
    pub const NODE_ADDED: u32 = 1;
    /// Labels of a node changed.
    pub const NODE_LABELS: u32 = 1 << 1;
    /// Taints or schedulability of a node changed.
    pub const NODE_TAINTS: u32 = 1 << 2;
    /// What a node offers changed.
    pub const NODE_ALLOCATABLE: u32 = 1 << 3;
    /// A pod on a node went.
    pub const POD_REMOVED: u32 = 1 << 4;
    /// A pod was put on a node.
    pub const POD_ADDED: u32 = 1 << 5;
    /// Labels of a pod on a node changed, or it is on its way out now.
    pub const POD_CHANGED: u32 = 1 << 6;
    /// A pod on a node needs less.
    pub const POD_SHRUNK: u32 = 1 << 7;
    /// A persistent volume claim came or changed.
    pub const CLAIM: u32 = 1 << 8;
    /// A persistent volume came or changed.
    pub const VOLUME: u32 = 1 << 9;
    /// A storage class came or changed.
    pub const CLASS: u32 = 1 << 10;
    /// What a node's volume drivers allow changed.
    pub const CSI_NODE: u32 = 1 << 11;
    /// A volume driver changed.
    pub const CSI_DRIVER: u32 = 1 << 12;
    /// There is more storage.
    pub const STORAGE_CAPACITY: u32 = 1 << 13;
    /// A volume was detached.
    pub const DETACHED: u32 = 1 << 14;
    /// Labels of a namespace changed.
    pub const NAMESPACE: u32 = 1 << 15;
    /// A claim of devices came, changed or went.
    pub const DEVICE_CLAIM: u32 = 1 << 16;
    /// A driver offers other devices.
    pub const DEVICE_SLICE: u32 = 1 << 17;
    /// A class of devices came or changed.
    pub const DEVICE_CLASS: u32 = 1 << 18;
    /// What a node's kubelet declares changed.
    pub const NODE_FEATURES: u32 = 1 << 19;
    /// How many kinds there are.
    pub const KINDS: usize = 20;
    /// Any of them.
    pub const ANY: u32 = (1 << KINDS) - 1;
}

/// One happening, for plugins that look closer.
#[derive(Clone, Copy)]
pub enum Happening<'a> {
    /// A node came or changed.
    Node(Option<&'a NodeFacts>, &'a str, &'a NodeFacts),
    /// A pod is on a node, no longer there, or as it was and as it is.
    Pod(Option<&'a PodRow>, Option<&'a PodRow>),
    /// A claim came or changed: its namespace and name.
    Claim(&'a str, &'a str),
    /// A claim of devices came or changed.
    DeviceClaim(&'a ClaimChange),
    /// A class of devices came or changed.
    DeviceClass,
    /// Anything else.
    Other,
}

/// Why a node does not do, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The first reason.
    pub reason: Cow<'static, str>,
    /// Further ones.
    pub more: Vec<Cow<'static, str>>,
    /// Whether taking other pods away would not help.
    pub unresolvable: bool,
}

impl Rejection {
    /// One reason that taking other pods away may remove.
    #[must_use]
    pub fn resolvable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason: reason.into(),
            more: Vec::new(),
            unresolvable: false,
        }
    }

    /// One reason that stays whatever pods go.
    #[must_use]
    pub fn unresolvable(reason: impl Into<Cow<'static, str>>) -> Self {
        Self {
            unresolvable: true,
            ..Self::resolvable(reason)
        }
    }

    /// All reasons.
    pub fn reasons(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.reason)
            .chain(&self.more)
            .map(AsRef::as_ref)
    }
}

/// A pod that is taken to be on a node (1) or off it (-1), unlike it is.
pub type Moved<'a> = (&'a PodRow, i64);

/// A node as a plugin looks at it: as it is, or as it would be.
#[derive(Clone, Copy)]
pub struct View<'a> {
    /// Its number.
    pub index: usize,
    /// The node as it is.
    pub node: &'a NodeRow,
    /// What its object says.
    pub facts: &'a NodeFacts,
    /// What its pods take up, with what is supposed.
    pub usage: &'a Usage,
    /// What is supposed.
    pub moved: &'a [Moved<'a>],
}

impl<'a> View<'a> {
    /// The node as it is, if it exists.
    #[must_use]
    pub fn of(world: &'a World, index: usize) -> Option<Self> {
        let node = world.cluster.nodes.get(index)?;
        Some(Self {
            index,
            node,
            facts: node.facts.as_ref()?,
            usage: &node.usage,
            moved: &[],
        })
    }

    /// The pods on it, with what is supposed.
    pub fn pods(&self) -> impl Iterator<Item = &'a PodRow> {
        let moved = self.moved;
        let gone = move |pod: &&PodRow| {
            !moved
                .iter()
                .any(|(other, by)| *by < 0 && other.uid == pod.uid)
        };
        let there = self.node.pods.values().map(AsRef::as_ref).filter(gone);
        there.chain(moved.iter().filter(|(_, by)| *by > 0).map(|(pod, _)| *pod))
    }
}

/// One attempt to find a node for one pod: what plugins have found out for all nodes.
pub struct Cycle<'a> {
    /// The pod.
    pub pod: &'a PodRow,
    /// All that is known.
    pub world: &'a World,
    /// How this scheduler is configured.
    pub profile: &'a Profile,
    /// What was asked of the counters.
    pub asked: &'a crate::world::Asked,
    /// What pods on nodes wish of this one.
    pub wishes: inter_pod_affinity::About<'a>,
    /// Claims of the pod.
    pub claims: volume_binding::Claims,
    /// Zones of the pod's volumes.
    pub zones: volume_zone::Zones,
    /// Whether a volume of the pod allows one pod only, and another has it.
    pub exclusive: volume_restrictions::Exclusive,
    /// The pod's images that any node has.
    pub images: image_locality::Present,
    /// What spreading scores go by.
    pub spread: pod_topology_spread::Scale,
    /// What the pod needs of devices.
    pub devices: dynamic_resources::Needs,
    /// Plugins that have nothing to do for this pod, by number.
    pub skipped: u32,
}

/// What a plugin says before any node is looked at.
#[derive(Debug)]
pub enum PreFilter {
    /// Look at all nodes.
    All,
    /// It has nothing to filter.
    Skip,
    /// Only these nodes can do.
    Nodes(Vec<usize>),
    /// No node does.
    Reject(Rejection),
}

/// How the scores of all nodes become comparable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normal {
    /// They are already.
    As,
    /// The highest becomes 100.
    ByHighest,
    /// The lowest becomes 100, the highest 0.
    Reversed,
    /// The lowest becomes 0, the highest 100.
    BetweenExtremes,
    /// The lowest becomes 100; nodes with [`IGNORED`] become 0.
    Fewest,
}

/// The score of a node that spreading does not look at.
pub const IGNORED: i64 = -1;

/// How a plugin scores.
pub struct Score {
    /// Called once with the nodes that do. Answers whether there is anything to score.
    pub prepare: fn(&mut Cycle, &[usize]) -> bool,
    /// The score of a node.
    pub score: fn(&Cycle, &View) -> i64,
    /// What becomes of it.
    pub normal: Normal,
}

/// Says why a node does not do.
pub type Filter = fn(&Cycle, &View) -> Result<(), Rejection>;

/// A plugin: a row in [`PLUGINS`]. What it does not do is left out.
pub struct Plugin {
    /// Upstream's name.
    pub name: &'static str,
    /// Its weight unless the configuration says otherwise.
    pub weight: i64,
    /// Orders the queue.
    pub queue_sort: bool,
    /// Says why a pod is not to be queued yet.
    pub pre_enqueue: Option<fn(&PodRow, &World) -> Option<String>>,
    /// Says before any node is looked at what is known of all.
    pub pre_filter: Option<fn(&Cycle) -> PreFilter>,
    /// Refuses nodes.
    pub filter: Option<Filter>,
    /// Looks for a way when no node does.
    pub post_filter: bool,
    /// Prefers nodes.
    pub score: Option<Score>,
    /// Holds something for the pod on its node before it is bound.
    pub reserve: bool,
    /// Binds.
    pub bind: bool,
    /// What may let in a pod that it refused.
    pub wakes_on: u32,
    /// Looks closer at that; without it anything of that kind wakes.
    pub hint: Option<fn(&Profile, &PodRow, Happening) -> bool>,
}

/// A plugin that does nothing, to be completed.
pub const NOTHING: Plugin = Plugin {
    name: "",
    weight: 0,
    queue_sort: false,
    pre_enqueue: None,
    pre_filter: None,
    filter: None,
    post_filter: false,
    score: None,
    reserve: false,
    bind: false,
    wakes_on: 0,
    hint: None,
};

/// All plugins, in the order in which they are asked. The place is the plugin's number.
pub static PLUGINS: [Plugin; 20] = [
    scheduling_gates::PLUGIN,
    priority_sort::PLUGIN,
    node_unschedulable::PLUGIN,
    node_name::PLUGIN,
    taint_toleration::PLUGIN,
    node_affinity::PLUGIN,
    node_ports::PLUGIN,
    node_resources_fit::PLUGIN,
    volume_restrictions::PLUGIN,
    node_volume_limits::PLUGIN,
    volume_binding::PLUGIN,
    volume_zone::PLUGIN,
    pod_topology_spread::PLUGIN,
    inter_pod_affinity::PLUGIN,
    dynamic_resources::PLUGIN,
    default_preemption::PLUGIN,
    balanced_allocation::PLUGIN,
    image_locality::PLUGIN,
    default_binder::PLUGIN,
    node_declared_features::PLUGIN,
];

/// The bit of refusals that come from elsewhere: extenders.
pub const ELSEWHERE: u32 = 1 << 31;

/// A plugin by its number.
#[must_use]
pub fn plugin(number: usize) -> Option<&'static Plugin> {
    PLUGINS.get(number)
}

/// The number of a plugin.
#[must_use]
pub fn number(name: &str) -> Option<usize> {
    PLUGINS.iter().position(|plugin| plugin.name == name)
}

/// What may let in a pod that these plugins refused.
#[must_use]
pub fn wakes_on(refused_by: u32) -> u32 {
    if refused_by == 0 || refused_by & ELSEWHERE != 0 {
        return event::ANY;
    }
    let refusing = PLUGINS
        .iter()
        .enumerate()
        .filter(|(number, _)| refused_by & (1 << number) != 0);
    refusing.fold(0, |events, (_, plugin)| events | plugin.wakes_on)
}

/// Whether something that happened may let in a pod that these plugins refused.
#[must_use]
pub fn may_help(
    profile: &Profile,
    pod: &PodRow,
    refused_by: u32,
    events: u32,
    what: Happening,
) -> bool {
    if refused_by == 0 || refused_by & ELSEWHERE != 0 {
        return true;
    }
    let refusing = PLUGINS
        .iter()
        .enumerate()
        .filter(|(number, _)| refused_by & (1 << number) != 0);
    refusing
        .map(|(_, plugin)| plugin)
        .filter(|plugin| plugin.wakes_on & events != 0)
        .any(|plugin| plugin.hint.is_none_or(|hint| hint(profile, pod, what)))
}

impl<'a> Cycle<'a> {
    /// A new attempt: what plugins need for this pod is counted, or was asked for in `asked`.
    #[must_use]
    pub fn new(
        pod: &'a PodRow,
        world: &'a World,
        profile: &'a Profile,
        asked: &'a crate::world::Asked,
    ) -> Self {
        Self {
            pod,
            world,
            profile,
            asked,
            wishes: inter_pod_affinity::about(pod, world, profile),
            claims: volume_binding::claims(pod, &world.volumes),
            zones: volume_zone::zones(pod, &world.volumes),
            exclusive: volume_restrictions::exclusive(pod, world),
            images: image_locality::present(pod, world),
            spread: pod_topology_spread::Scale::default(),
            devices: dynamic_resources::needs(pod, &world.devices),
            skipped: 0,
        }
    }

    /// Asks the filters one after another; the number of the one that refuses comes with its refusal.
    pub fn check(&self, view: &View) -> Result<(), (usize, Rejection)> {
        for number in &self.profile.filters {
            if self.skipped & (1 << number) != 0 {
                continue;
            }
            if let Some(filter) = plugin(*number).and_then(|plugin| plugin.filter) {
                filter(self, view).map_err(|rejection| (*number, rejection))?;
            }
        }
        Ok(())
    }

    /// The same, with the pods for which room is being made there and that come first. The node has to do with them
    /// and without them: they may need what they are near to, and they may go elsewhere.
    pub fn check_with_nominated(&self, view: &View) -> Result<(), (usize, Rejection)> {
        let first = |other: &&std::sync::Arc<PodRow>| {
            other.priority >= self.pod.priority && other.uid != self.pod.uid
        };
        if view.node.nominated.iter().any(|other| first(&other)) {
            let mut usage = view.usage.clone();
            let mut moved = view.moved.to_vec();
            for other in view.node.nominated.iter().filter(first) {
                usage.add(other);
                moved.push((other, 1));
            }
            self.check(&View {
                usage: &usage,
                moved: &moved,
                ..*view
            })?;
        }
        self.check(view)
    }
}
