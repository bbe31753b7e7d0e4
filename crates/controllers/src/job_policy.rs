//! What a Job's own rules say: of a pod that failed, and of the indexes that succeeded.

use k8s_openapi::api::batch::v1::{
    PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule, SuccessPolicy,
};

use crate::job_indexes::Indexes;
use crate::seen_pod::Pod;

/// What follows from the failure of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It counts against the back-off limit.
    Counts,
    /// It is as if it had not happened.
    Ignored,
    /// The pod's index has failed for good.
    FailsIndex,
    /// The whole Job has failed; why.
    FailsJob(String),
}

/// Judges a failed pod by the first rule that matches it.
pub(crate) fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Judgement {
    let rules = policy.iter().flat_map(|policy| &policy.rules);
    for (position, rule) in rules.enumerate() {
        let Some(what) = matched(rule, pod) else {
            continue;
        };
        match rule.action.as_str() {
            "Ignore" => return Judgement::Ignored,
            "FailIndex" => return Judgement::FailsIndex,
            "Count" => return Judgement::Counts,
            "FailJob" => {
                let text = format!("{what} matching FailJob rule at index {position}");
                return Judgement::FailsJob(text);
            }
            // An action of a later version.
            _ => {}
        }
    }
    Judgement::Counts
}

/// In which way the rule matches the pod, if it does.
fn matched(rule: &PodFailurePolicyRule, pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    if let Some(wanted) = &rule.on_exit_codes {
        let containers = status.container_statuses.iter().flatten();
        let mut all = containers.chain(status.init_container_statuses.iter().flatten());
        return all.find_map(|container| {
            let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
            exits(wanted, &container.name, code).then(|| {
                let container = &container.name;
                format!(
                    "Container {container} for pod {namespace}/{name} failed with exit code {code}"
                )
            })
        });
    }
    let patterns = rule.on_pod_conditions.as_ref()?;
    let mut conditions = status.conditions.iter().flatten();
    let found = conditions.find(|condition| {
        let same = |pattern: &str, status: Option<&str>| {
            condition.type_ == pattern && condition.status == status.unwrap_or("True")
        };
        patterns
            .iter()
            .any(|pattern| same(&pattern.type_, pattern.status.as_deref()))
    })?;
    let type_ = &found.type_;
    Some(format!("Pod {namespace}/{name} has condition {type_}"))
}

fn exits(wanted: &PodFailurePolicyOnExitCodesRequirement, container: &str, code: i32) -> bool {
    let meant = wanted.container_name.as_deref();
    let listed = wanted.values.contains(&code);
    code != 0
        && meant.is_none_or(|meant| meant == container)
        && match wanted.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
}

/// Which rule says that enough indexes have succeeded, if one does.
pub(crate) fn enough(
    policy: Option<&SuccessPolicy>,
    succeeded: &Indexes,
    completions: i32,
) -> Option<String> {
    let rules = &policy.filter(|_| succeeded.count() > 0)?.rules;
    let met = rules.iter().position(|rule| match &rule.succeeded_indexes {
        Some(listed) => {
            let listed = Indexes::parse(listed, completions);
            let common = listed.common(succeeded);
            let all = listed.count();
            all > 0 && (common == all || rule.succeeded_count.is_some_and(|few| common >= few))
        }
        None => rule
            .succeeded_count
            .is_some_and(|few| succeeded.count() >= few),
    });
    met.map(|position| format!("Matched rules at index {position}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn judged(rules: Value, status: Value) -> Judgement {
        let policy: PodFailurePolicy = serde_json::from_value(json!({"rules": rules})).unwrap();
        let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "status": status});
        judge(Some(&policy), &serde_json::from_value(pod).unwrap())
    }

    #[test]
    fn failed_pods_are_judged_by_the_first_rule_that_matches() {
        let exit = |name: &str, code: i32| json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {"exitCode": code}}});
        let ended = |code| json!({"containerStatuses": [exit("c", code)]});
        let on_exit = |action: &str, operator: &str, values: Value| json!([{"action": action, "onExitCodes": {"operator": operator, "values": values}}]);
        let disrupted = json!({"conditions": [{"type": "DisruptionTarget", "status": "True"}]});
        let on_disruption = |action: &str| json!([{"action": action, "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]);
        let fails = |text: &str| Judgement::FailsJob(text.to_owned());
        for (rules, status, expected) in [
            (json!([]), ended(1), Judgement::Counts),
            (
                on_exit("Ignore", "In", json!([1, 2])),
                ended(2),
                Judgement::Ignored,
            ),
            (
                on_exit("Ignore", "In", json!([1, 2])),
                ended(3),
                Judgement::Counts,
            ),
            (
                on_exit("FailIndex", "NotIn", json!([1, 2])),
                ended(3),
                Judgement::FailsIndex,
            ),
            // What did not fail matches nothing.
            (
                on_exit("FailIndex", "NotIn", json!([1, 2])),
                ended(0),
                Judgement::Counts,
            ),
            (
                on_exit("FailJob", "In", json!([42])),
                ended(42),
                fails(
                    "Container c for pod n/p failed with exit code 42 matching FailJob rule at index 0",
                ),
            ),
            (
                json!([{"action": "FailJob", "onExitCodes": {"containerName": "other", "operator": "In", "values": [42]}}]),
                ended(42),
                Judgement::Counts,
            ),
            (
                on_disruption("Ignore"),
                disrupted.clone(),
                Judgement::Ignored,
            ),
            (on_disruption("Ignore"), ended(1), Judgement::Counts),
            (
                on_disruption("FailJob"),
                disrupted.clone(),
                fails("Pod n/p has condition DisruptionTarget matching FailJob rule at index 0"),
            ),
            (
                json!([{"action": "Count", "onExitCodes": {"operator": "In", "values": [1]}}, {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [1, 2]}}]),
                ended(2),
                fails(
                    "Container c for pod n/p failed with exit code 2 matching FailJob rule at index 1",
                ),
            ),
            // The init container is looked at after the others.
            (
                on_exit("FailJob", "In", json!([7, 8])),
                json!({"initContainerStatuses": [exit("i", 7)], "containerStatuses": [exit("c", 8)]}),
                fails(
                    "Container c for pod n/p failed with exit code 8 matching FailJob rule at index 0",
                ),
            ),
        ] {
            assert_eq!(judged(rules.clone(), status), expected, "{rules}");
        }
    }

    #[test]
    fn success_policies() {
        for (rules, succeeded, expected) in [
            (json!([{"succeededCount": 2}]), "1", None),
            (json!([{"succeededCount": 2}]), "1,4", Some(0)),
            (json!([{"succeededIndexes": "0-2"}]), "0,2", None),
            (json!([{"succeededIndexes": "0-2"}]), "0-5", Some(0)),
            (
                json!([{"succeededIndexes": "0-2", "succeededCount": 2}]),
                "1-4",
                Some(0),
            ),
            (
                json!([{"succeededIndexes": "0-2", "succeededCount": 2}]),
                "2-4",
                None,
            ),
            (
                json!([{"succeededIndexes": "9"}, {"succeededIndexes": "3"}]),
                "3",
                Some(1),
            ),
            (json!([{"succeededCount": 0}]), "", None),
        ] {
            let policy: SuccessPolicy =
                serde_json::from_value(json!({"rules": rules.clone()})).unwrap();
            let met = enough(Some(&policy), &Indexes::parse(succeeded, 9), 9);
            let expected = expected.map(|index: i32| format!("Matched rules at index {index}"));
            assert_eq!(met, expected, "{rules} {succeeded}");
        }
    }
}
