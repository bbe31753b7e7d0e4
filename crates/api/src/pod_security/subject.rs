//! A pod as the rules look at it: all its containers alike.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    ContainerPort, Lifecycle, PodSecurityContext, PodSpec, Probe, SecurityContext,
};

/// The pod under judgement.
pub(super) struct Subject<'a> {
    pub annotations: Option<&'a BTreeMap<String, String>>,
    pub spec: &'a PodSpec,
    /// Init containers, containers and ephemeral containers, in this order.
    pub containers: Vec<Container<'a>>,
}

/// What the rules see of a container.
pub(super) struct Container<'a> {
    pub name: &'a str,
    pub security: Option<&'a SecurityContext>,
    pub ports: &'a [ContainerPort],
    pub probes: [Option<&'a Probe>; 3],
    pub lifecycle: Option<&'a Lifecycle>,
}

macro_rules! seen {
    ($container:expr) => {{
        let container = $container;
        Container {
            name: &container.name,
            security: container.security_context.as_ref(),
            ports: container.ports.as_deref().unwrap_or_default(),
            probes: [
                container.liveness_probe.as_ref(),
                container.readiness_probe.as_ref(),
                container.startup_probe.as_ref(),
            ],
            lifecycle: container.lifecycle.as_ref(),
        }
    }};
}

impl<'a> Subject<'a> {
    pub fn new(annotations: Option<&'a BTreeMap<String, String>>, spec: &'a PodSpec) -> Self {
        let init = spec.init_containers.iter().flatten();
        let mut containers: Vec<Container<'a>> = init.map(|one| seen!(one)).collect();
        containers.extend(spec.containers.iter().map(|one| seen!(one)));
        let ephemeral = spec.ephemeral_containers.iter().flatten();
        containers.extend(ephemeral.map(|one| seen!(one)));
        Self {
            annotations,
            spec,
            containers,
        }
    }

    /// The pod's own security context.
    pub fn security(&self) -> Option<&'a PodSecurityContext> {
        self.spec.security_context.as_ref()
    }

    /// Whether the pod is for Windows nodes.
    pub fn for_windows(&self) -> bool {
        let os = self.spec.os.as_ref();
        os.is_some_and(|os| os.name == "windows")
    }

    /// Whether the pod's users are none of the node's.
    pub fn in_user_namespace(&self) -> bool {
        self.spec.host_users == Some(false)
    }

    /// The names of the containers of which `bad` holds.
    pub fn offenders(&self, mut bad: impl FnMut(&Container<'a>) -> bool) -> Names<'a> {
        let offenders = self.containers.iter().filter(|one| bad(one));
        Names(offenders.map(|one| one.name).collect())
    }
}

/// Names of containers or volumes.
pub(super) struct Names<'a>(pub Vec<&'a str>);

impl Names<'_> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `container "a"`, `containers "a", "b"`.
    pub fn after(&self, noun: &str) -> String {
        format!("{} {}", self.plural(noun), quoted(&self.0))
    }

    /// The word in the number of the names.
    pub fn plural(&self, noun: &str) -> String {
        plural(noun, self.0.len())
    }

    /// `uses` or `use`.
    pub fn uses(&self) -> &'static str {
        if self.0.len() == 1 { "uses" } else { "use" }
    }
}

/// A noun in the number that fits.
pub(super) fn plural(noun: &str, count: usize) -> String {
    if count == 1 {
        noun.to_owned()
    } else {
        format!("{noun}s")
    }
}

/// `"a", "b"`
pub(super) fn quoted<S: AsRef<str>>(items: &[S]) -> String {
    let quoted: Vec<String> = items
        .iter()
        .map(|item| format!("\"{}\"", item.as_ref()))
        .collect();
    quoted.join(", ")
}

/// The items of a set, quoted, in order.
pub(super) fn quoted_set(items: &BTreeSet<String>) -> String {
    quoted(&items.iter().collect::<Vec<_>>())
}

/// `pod and container "a"`: who sets something; `None` for nobody.
pub(super) fn setters(pod: bool, containers: &Names<'_>) -> Option<String> {
    match (pod, containers.is_empty()) {
        (false, true) => None,
        (true, true) => Some("pod".to_owned()),
        (false, false) => Some(containers.after("container")),
        (true, false) => Some(format!("pod and {}", containers.after("container"))),
    }
}
