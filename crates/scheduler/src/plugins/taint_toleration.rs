//! Taints keep pods off a node that do not tolerate them.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::framework::{Cycle, Happening, NOTHING, Normal, Plugin, Rejection, Score, View, event};
use crate::profile::Profile;
use crate::rows::PodRow;

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "TaintToleration",
    weight: 3,
    filter: Some(filter),
    score: Some(Score {
        prepare: |_, _| true,
        score,
        normal: Normal::Reversed,
    }),
    wakes_on: event::NODE_ADDED | event::NODE_TAINTS,
    hint: Some(hint),
    ..NOTHING
};

/// Whether the toleration covers the taint.
#[must_use]
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let covers = |stated: &Option<String>, with: &str| {
        stated
            .as_deref()
            .is_none_or(|text| text.is_empty() || text == with)
    };
    if !covers(&toleration.effect, &taint.effect) || !covers(&toleration.key, &taint.key) {
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

/// Whether all taints that keep pods off are tolerated.
#[must_use]
pub fn bears(tolerations: &[Toleration], taints: &[Taint]) -> bool {
    taints
        .iter()
        .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
        .all(|taint| tolerations.iter().any(|found| tolerates(found, taint)))
}

/// Refuses nodes with a taint that keeps the pod off.
fn filter(cycle: &Cycle, view: &View) -> Result<(), Rejection> {
    if bears(&cycle.pod.shape.tolerations, &view.facts.taints) {
        return Ok(());
    }
    Err(Rejection::unresolvable("node(s) had untolerated taint(s)"))
}

/// Counts the taints that would rather keep the pod off; fewer are better.
fn score(cycle: &Cycle, view: &View) -> i64 {
    let taints = view.facts.taints.iter();
    let soft = taints.filter(|taint| taint.effect == "PreferNoSchedule");
    let tolerations = &cycle.pod.shape.tolerations;
    let unborne = soft.filter(|taint| !tolerations.iter().any(|found| tolerates(found, taint)));
    i64::try_from(unborne.count()).unwrap_or(i64::MAX)
}

/// A node helps that the pod bears now and did not before.
fn hint(_: &Profile, pod: &PodRow, what: Happening) -> bool {
    let Happening::Node(old, _, new) = what else {
        return true;
    };
    let bears = |taints: &[Taint]| bears(&pod.shape.tolerations, taints);
    bears(&new.taints) && !old.is_some_and(|old| bears(&old.taints))
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
