//! What pods say about other pods, made ready to be matched: label selectors with the namespaces they hold in.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Affinity, PodAffinityTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use skiff_client::LabelMatcher;

use crate::counters::{Asking, Eligible, Question, Select};

/// The labels of an object.
pub type Labels = std::collections::BTreeMap<String, String>;
/// The labels of each namespace.
pub type NamespaceLabels = HashMap<Box<str>, Labels>;

/// The namespaces that a term is about: those listed, and those that the selector selects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// Listed by name.
    pub names: Vec<Box<str>>,
    /// Selected by label.
    pub selector: Option<LabelMatcher>,
}

impl Namespaces {
    /// One namespace.
    #[must_use]
    pub fn only(name: &str) -> Self {
        Self {
            names: vec![name.into()],
            selector: None,
        }
    }

    /// Whether the namespace is among them.
    #[must_use]
    pub fn hold(&self, namespace: &str, labels: &NamespaceLabels) -> bool {
        self.names.iter().any(|name| **name == *namespace)
            || self
                .selector
                .as_ref()
                .is_some_and(|selector| selector.matches(labels.get(namespace)))
    }
}

/// A term about other pods and a topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Term {
    /// The topology key.
    pub key: Box<str>,
    /// Where the pods are that it is about.
    pub namespaces: Namespaces,
    /// Which pods it is about.
    pub matcher: LabelMatcher,
    /// The same for the same term, whoever states it.
    pub signature: Arc<str>,
}

impl Term {
    fn of(namespace: &str, labels: &Labels, term: &PodAffinityTerm) -> Self {
        let listed = term.namespaces.as_deref().unwrap_or_default();
        let selector = term.namespace_selector.as_ref();
        let namespaces = if listed.is_empty() && selector.is_none() {
            Namespaces::only(namespace)
        } else {
            let mut names: Vec<Box<str>> = listed.iter().map(|name| name.as_str().into()).collect();
            names.sort();
            names.dedup();
            Namespaces {
                names,
                selector: selector.and_then(|found| LabelMatcher::from_selector(Some(found)).ok()),
            }
        };
        let merged = with_label_keys(
            term.label_selector.as_ref(),
            labels,
            term.match_label_keys.as_deref(),
            term.mismatch_label_keys.as_deref(),
        );
        let matcher = matcher(merged.as_ref());
        let signature = format!("{}|{namespaces:?}|{matcher:?}", term.topology_key).into();
        Self {
            key: term.topology_key.as_str().into(),
            namespaces,
            matcher,
            signature,
        }
    }

    /// Whether it is about a pod of that namespace with these labels.
    #[must_use]
    pub fn matches(&self, namespace: &str, labels: &Labels, known: &NamespaceLabels) -> bool {
        self.namespaces.hold(namespace, known) && self.matcher.matches(Some(labels))
    }
}

/// A selector as a matcher; one that makes no sense matches nothing.
#[must_use]
pub fn matcher(selector: Option<&LabelSelector>) -> LabelMatcher {
    LabelMatcher::from_selector(selector).unwrap_or_else(|_| LabelMatcher::nothing())
}

/// The selector with the pod's own values of `matching` keys required and those of `differing` keys excluded.
#[must_use]
pub fn with_label_keys(
    selector: Option<&LabelSelector>,
    labels: &Labels,
    matching: Option<&[String]>,
    differing: Option<&[String]>,
) -> Option<LabelSelector> {
    let mut selector = selector?.clone();
    for (keys, operator) in [(matching, "In"), (differing, "NotIn")] {
        for key in keys.into_iter().flatten() {
            let Some(value) = labels.get(key) else {
                continue;
            };
            let requirement = LabelSelectorRequirement {
                key: key.clone(),
                operator: operator.to_owned(),
                values: Some(vec![value.clone()]),
            };
            let expressions = selector.match_expressions.get_or_insert_default();
            // The API server may have merged it already.
            if !expressions.contains(&requirement) {
                expressions.push(requirement);
            }
        }
    }
    Some(selector)
}

/// All that a pod says about other pods.
#[derive(Clone, Debug, Default)]
pub struct Terms {
    /// Pods that it must be near to.
    pub near: Vec<Term>,
    /// Pods that it must be far from.
    pub far: Vec<Term>,
    /// Pods that it would like to be near to, or far from where the weight is negative.
    pub soft: Vec<(i64, Term)>,
    /// For each of `near`: where the pods are that all of `near` are about.
    pub near_asks: Vec<Asking>,
    /// For each of `far`: where its pods are.
    pub far_asks: Vec<Asking>,
    /// The same for `soft`.
    pub soft_asks: Vec<Asking>,
}

fn ask<'a>(key: &str, terms: impl Iterator<Item = &'a Term>) -> Asking {
    let terms = terms.map(|term| (term.namespaces.clone(), term.matcher.clone()));
    Asking::new(Question {
        key: key.into(),
        select: Select {
            terms: terms.collect(),
            only_staying: false,
        },
        eligible: Eligible::default(),
    })
}

impl Terms {
    /// The terms of a pod of that namespace with these labels.
    #[must_use]
    pub fn of(namespace: &str, labels: &Labels, affinity: Option<&Affinity>) -> Self {
        let Some(affinity) = affinity else {
            return Self::default();
        };
        let make = |term: &PodAffinityTerm| Term::of(namespace, labels, term);
        let mut terms = Self::default();
        if let Some(near) = &affinity.pod_affinity {
            let required = &near.required_during_scheduling_ignored_during_execution;
            terms.near = required.iter().flatten().map(make).collect();
            let preferred = &near.preferred_during_scheduling_ignored_during_execution;
            let preferred = preferred.iter().flatten();
            terms.soft.extend(
                preferred.map(|found| (i64::from(found.weight), make(&found.pod_affinity_term))),
            );
        }
        if let Some(far) = &affinity.pod_anti_affinity {
            let required = &far.required_during_scheduling_ignored_during_execution;
            terms.far = required.iter().flatten().map(make).collect();
            let preferred = &far.preferred_during_scheduling_ignored_during_execution;
            let preferred = preferred.iter().flatten();
            terms.soft.extend(
                preferred.map(|found| (-i64::from(found.weight), make(&found.pod_affinity_term))),
            );
        }
        let near = terms.near.iter();
        terms.near_asks = near.map(|term| ask(&term.key, terms.near.iter())).collect();
        let alone = |term: &Term| ask(&term.key, std::iter::once(term));
        terms.far_asks = terms.far.iter().map(alone).collect();
        terms.soft_asks = terms.soft.iter().map(|(_, term)| alone(term)).collect();
        terms
    }

    /// Whether nothing is said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.near.is_empty() && self.far.is_empty() && self.soft.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn term(own: &Labels, json: serde_json::Value) -> Term {
        Term::of("a", own, &serde_json::from_value(json).unwrap())
    }

    #[test]
    fn namespaces_are_the_own_the_listed_and_the_selected() {
        let known = NamespaceLabels::from([
            ("a".into(), labels(&[])),
            ("b".into(), labels(&[("team", "x")])),
            ("c".into(), labels(&[])),
        ]);
        let select = json!({"matchLabels": {"team": "x"}});
        for (extra, expected) in [
            (json!({}), "a"),
            (json!({"namespaces": ["c"]}), "c"),
            (json!({"namespaceSelector": {}}), "abc"),
            (json!({"namespaceSelector": select}), "b"),
            (
                json!({"namespaceSelector": select, "namespaces": ["a"]}),
                "ab",
            ),
        ] {
            let mut object = json!({"topologyKey": "z", "labelSelector": {}});
            for (key, value) in extra.as_object().unwrap() {
                object[key] = value.clone();
            }
            let term = term(&labels(&[]), object);
            let held: String = ["a", "b", "c"]
                .into_iter()
                .filter(|name| term.matches(name, &labels(&[]), &known))
                .collect();
            assert_eq!(held, expected, "{extra}");
        }
    }

    #[test]
    fn label_keys_are_merged_once() {
        let own = labels(&[("hash", "1"), ("tenant", "t")]);
        let term = term(
            &own,
            json!({"topologyKey": "z", "matchLabelKeys": ["hash", "absent"], "mismatchLabelKeys": ["tenant"],
                "labelSelector": {"matchExpressions": [{"key": "hash", "operator": "In", "values": ["1"]}]}}),
        );
        let known = NamespaceLabels::new();
        for (pod, expected) in [
            (labels(&[("hash", "1")]), true),
            (labels(&[("hash", "1"), ("tenant", "u")]), true),
            (labels(&[("hash", "1"), ("tenant", "t")]), false),
            (labels(&[("hash", "2")]), false),
        ] {
            assert_eq!(term.matches("a", &pod, &known), expected, "{pod:?}");
        }
        assert_eq!(term.signature.matches("\"hash\"").count(), 1);
    }
}
