//! What a judgement of a pod depends on besides the pod: what an old object had wrong may stay wrong.

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{affinity, annotations, containers, scheduling, security, volumes_projected};
use crate::validation::absent::{entries, items, set, text};
use crate::validation::core::resources::{is_hugepage, is_whole_pages};

/// The rules for one judgement. The default is what a new object in a template is held to.
#[derive(Clone, Copy, Debug, Default)]
pub struct PodRules {
    /// It is a Pod, not a template.
    pub pod: bool,
    /// Huge pages need not be whole.
    pub allow_partial_pages: bool,
    /// Label values in selectors of affinity terms are not looked at.
    pub allow_invalid_selector_values: bool,
    /// Label values in required node affinity are not looked at.
    pub allow_invalid_node_affinity_values: bool,
    /// Selectors of topology spread constraints are not looked at.
    pub allow_invalid_spread_selector: bool,
    /// Label keys of topology spread constraints are held to the older, looser rule.
    pub loose_spread_keys: bool,
    /// Token paths may leave their directory.
    pub allow_token_path_anywhere: bool,
    /// Sysctls of a namespace that is the host's may be set.
    pub allow_host_sysctls: bool,
    /// The deletion cost annotation need not be a number.
    pub allow_invalid_deletion_cost: bool,
    /// Block devices may be used with user namespaces.
    pub allow_devices_in_user_namespace: bool,
    /// The host's network may be used with user namespaces.
    pub allow_host_network_in_user_namespace: bool,
    /// Init containers that are no sidecars may restart on a resize.
    pub allow_restarting_init_containers: bool,
    /// Tolerations may compare numbers.
    pub allow_comparing_tolerations: bool,
}

impl PodRules {
    /// For a new pod.
    #[must_use]
    pub fn for_pod() -> Self {
        Self {
            pod: true,
            ..Self::default()
        }
    }

    /// For a changed object that was `old`.
    #[must_use]
    pub fn after(old: Option<&PodSpec>, meta: Option<&ObjectMeta>) -> Self {
        let mut rules = Self::default();
        if let Some(meta) = meta {
            rules.allow_invalid_deletion_cost = !annotations::deletion_cost_is_valid(meta);
        }
        let Some(old) = old else {
            return rules;
        };
        let containers = || old.containers.iter().chain(items(&old.init_containers));
        let user_namespace = old.host_users == Some(false);
        rules.allow_partial_pages = has_partial_pages(old);
        rules.allow_invalid_selector_values = affinity::has_invalid_selector_value(old);
        rules.allow_invalid_node_affinity_values = affinity::has_invalid_node_value(old);
        rules.allow_invalid_spread_selector = scheduling::has_invalid_spread_selector(old);
        rules.loose_spread_keys = scheduling::has_invalid_spread_keys(old);
        rules.allow_token_path_anywhere = volumes_projected::has_token_path_outside(old);
        rules.allow_host_sysctls = security::has_host_sysctl(old);
        rules.allow_devices_in_user_namespace = user_namespace
            && containers().any(|container| !items(&container.volume_devices).is_empty());
        rules.allow_host_network_in_user_namespace = user_namespace && set(old.host_network);
        rules.allow_restarting_init_containers = items(&old.init_containers)
            .iter()
            .any(|container| !containers::is_sidecar(container) && restarts_on_resize(container));
        rules.allow_comparing_tolerations = items(&old.tolerations)
            .iter()
            .any(|toleration| matches!(text(&toleration.operator), "Lt" | "Gt"));
        rules
    }
}

fn restarts_on_resize(container: &Container) -> bool {
    items(&container.resize_policy)
        .iter()
        .any(|policy| policy.restart_policy == "RestartContainer")
}

fn has_partial_pages(spec: &PodSpec) -> bool {
    let containers = spec.containers.iter().chain(items(&spec.init_containers));
    let lists = containers
        .flat_map(|container| &container.resources)
        .flat_map(|resources| [&resources.limits, &resources.requests]);
    lists
        .chain([&spec.overhead])
        .flat_map(entries)
        .any(|(name, quantity)| is_hugepage(name) && !is_whole_pages(name, quantity))
}
