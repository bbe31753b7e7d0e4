//! Taints keep pods off a node that do not tolerate them.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::framework::{Cycle, Rejection};
use crate::rows::{NodeFacts, NodeRow};

/// The plugin's name.
pub const NAME: &str = "TaintToleration";

/// Whether the toleration covers the taint.
#[must_use]
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let stated = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let same = |stated: Option<String>, with: &str| stated.is_none_or(|text| text == with);
    if !same(stated(&toleration.effect), &taint.effect)
        || !same(stated(&toleration.key), &taint.key)
    {
        return false;
    }
    match toleration.operator.as_deref() {
        None | Some("" | "Equal") => {
            toleration.value.as_deref().unwrap_or_default()
                == taint.value.as_deref().unwrap_or_default()
        }
        Some("Exists") => true,
        Some(_) => false,
    }
}

/// Refuses nodes with a taint that keeps the pod off.
pub fn filter(cycle: &Cycle, _: &NodeRow, facts: &NodeFacts) -> Result<(), Rejection> {
    let keeps_off = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    let borne = |taint: &Taint| {
        cycle
            .pod
            .tolerations
            .iter()
            .any(|found| tolerates(found, taint))
    };
    if facts.taints.iter().filter(keeps_off).all(borne) {
        return Ok(());
    }
    Err(Rejection::unresolvable("node(s) had untolerated taint(s)"))
}

/// Counts the taints that would rather keep the pod off; fewer are better.
#[must_use]
pub fn score(cycle: &Cycle, _: &NodeRow, facts: &NodeFacts) -> i64 {
    let soft = facts
        .taints
        .iter()
        .filter(|taint| taint.effect == "PreferNoSchedule");
    let unborne = soft.filter(|taint| {
        !cycle
            .pod
            .tolerations
            .iter()
            .any(|found| tolerates(found, taint))
    });
    i64::try_from(unborne.count()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toleration_table() {
        let taint = Taint {
            key: "k".into(),
            value: Some("v".into()),
            effect: "NoSchedule".into(),
            ..Taint::default()
        };
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        for (key, operator, value, effect, expected) in [
            ("k", "", "v", "", true),
            ("k", "Equal", "v", "NoSchedule", true),
            ("k", "Equal", "w", "NoSchedule", false),
            ("k", "Exists", "", "", true),
            ("", "Exists", "", "", true),
            ("k", "Exists", "", "NoExecute", false),
            ("j", "Exists", "", "", false),
        ] {
            let toleration = Toleration {
                key: some(key),
                operator: some(operator),
                value: some(value),
                effect: some(effect),
                ..Toleration::default()
            };
            assert_eq!(tolerates(&toleration, &taint), expected, "{toleration:?}");
        }
    }
}
