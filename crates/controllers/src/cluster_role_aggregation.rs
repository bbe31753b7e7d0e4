//! Keeps the rules of ClusterRoles with an aggregation rule equal to those of the roles that it selects.

use async_trait::async_trait;
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use skiff_client::{LabelMatcher, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache};

use crate::Context;

/// The name of this controller.
pub const NAME: &str = "clusterrole-aggregation-controller";

struct Aggregation {
    client: Client,
    roles: SharedCache<ClusterRole>,
}

/// Runs the controller.
pub async fn run(context: Context) {
    let roles = context.caches.of::<ClusterRole>();
    let queue = context.queue();
    roles.wait_synced().await;
    let aggregating = "aggregating";
    roles.add_index(aggregating, |role: &ClusterRole| {
        let aggregates = role.aggregation_rule.is_some();
        aggregates.then(String::new).into_iter().collect()
    });
    let _roles = {
        let (queue, roles) = (queue.clone(), roles.clone());
        roles.clone().on_event(move |_| {
            for role in roles.by_index(aggregating, "") {
                queue.add(ObjectKey::of(&role.metadata));
            }
        })
    };
    let reconciler = Aggregation {
        client: context.client(NAME),
        roles,
    };
    context.run(reconciler, queue, 1).await;
}

/// The rules of a role that aggregates: each of the selected roles', once, in the order of selectors and names.
fn rules<'a>(
    role: &ClusterRole,
    all: impl Iterator<Item = &'a ClusterRole> + Clone,
) -> Vec<PolicyRule> {
    let mut rules: Vec<PolicyRule> = Vec::new();
    let aggregation = role.aggregation_rule.as_ref();
    let selectors = aggregation.and_then(|rule| rule.cluster_role_selectors.as_ref());
    for selector in selectors.into_iter().flatten() {
        let Ok(matcher) = LabelMatcher::from_selector(Some(selector)) else {
            continue;
        };
        let selected = all.clone().filter(|found| {
            found.metadata.name != role.metadata.name
                && matcher.matches(found.metadata.labels.as_ref())
        });
        for rule in selected.flat_map(|found| found.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    rules
}

#[async_trait]
impl Reconciler for Aggregation {
    fn name(&self) -> &'static str {
        NAME
    }

    fn queue(&self) -> &'static str {
        "ClusterRoleAggregator"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(role) = self.roles.get(key) else {
            return Ok(Outcome::Done);
        };
        if role.aggregation_rule.is_none() {
            return Ok(Outcome::Done);
        }
        let all = self.roles.list();
        let rules = rules(&role, all.iter().map(|role| &**role));
        if role.rules.as_deref().unwrap_or_default() == rules {
            return Ok(Outcome::Done);
        }
        let patch = Patch::Merge(json!({
            "metadata": {"resourceVersion": role.metadata.resource_version}, "rules": rules}));
        let parameters = PatchParams {
            field_manager: Some(NAME.to_owned()),
            ..PatchParams::default()
        };
        let api: Api<ClusterRole> = Api::all(self.client.clone());
        api.patch(key.name(), &parameters, &patch).await?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_of_the_selected_roles_come_once() {
        let role = |name: &str, labels: serde_json::Value, verbs: &[&str]| -> ClusterRole {
            let rules: Vec<_> = verbs
                .iter()
                .map(|verb| json!({"verbs": [verb], "resources": ["pods"], "apiGroups": [""]}))
                .collect();
            serde_json::from_value(
                json!({"metadata": {"name": name, "labels": labels}, "rules": rules}),
            )
            .unwrap()
        };
        let mut view = role("view", json!({"to": "view"}), &["old"]);
        view.aggregation_rule = serde_json::from_value(
            json!({"clusterRoleSelectors": [{"matchLabels": {"to": "view"}}, {"matchLabels": {"also": "yes"}}]}),
        )
        .unwrap();
        let all = [
            role("a", json!({"to": "view"}), &["get", "list"]),
            role(
                "b",
                json!({"to": "view", "also": "yes"}),
                &["list", "watch"],
            ),
            role("c", json!({"to": "edit"}), &["delete"]),
            view.clone(),
        ];
        let verbs: Vec<_> = rules(&view, all.iter())
            .into_iter()
            .map(|rule| rule.verbs.join(","))
            .collect();
        assert_eq!(verbs, ["get", "list", "watch"]);
    }
}
