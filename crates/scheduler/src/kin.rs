//! Which pods are of one kind with a pod: those that its services and its controller select.
//!
//! Pods that say nothing of spreading are spread by this.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use skiff_client::{LabelMatcher, ObjectKey};

use crate::rows::PodRow;
use crate::terms::{Labels, matcher};

/// The selectors of services and controllers.
#[derive(Debug, Default)]
pub struct Kin {
    services: HashMap<Box<str>, HashMap<ObjectKey, Arc<Labels>>>,
    controllers: HashMap<(Box<str>, ObjectKey), Arc<LabelSelector>>,
}

impl Kin {
    /// A service selects these pods; none if it is gone or selects none.
    pub fn set_service(&mut self, key: &ObjectKey, selector: Option<Labels>) {
        let all = self.services.entry(key.namespace().into()).or_default();
        match selector {
            Some(selector) => drop(all.insert(key.clone(), Arc::new(selector))),
            None => drop(all.remove(key)),
        }
        if all.is_empty() {
            self.services.remove(key.namespace());
        }
    }

    /// A controller of that kind selects these pods; none if it is gone.
    pub fn set_controller(&mut self, kind: &str, key: &ObjectKey, selector: Option<LabelSelector>) {
        let entry = (kind.into(), key.clone());
        match selector {
            Some(selector) => drop(self.controllers.insert(entry, Arc::new(selector))),
            None => drop(self.controllers.remove(&entry)),
        }
    }

    /// All services.
    #[must_use]
    pub fn services(&self) -> Vec<ObjectKey> {
        let all = self.services.values();
        all.flat_map(|all| all.keys().cloned()).collect()
    }

    /// All controllers of a kind.
    #[must_use]
    pub fn controllers(&self, kind: &str) -> Vec<ObjectKey> {
        let of_kind = self
            .controllers
            .keys()
            .filter(|(found, _)| **found == *kind);
        of_kind.map(|(_, key)| key.clone()).collect()
    }

    /// What finds the pods of the same kind; everything where nothing is known of the pod.
    #[must_use]
    pub fn matcher(&self, pod: &PodRow) -> LabelMatcher {
        let mut labels = Labels::new();
        let selects = |selector: &Labels| {
            selector
                .iter()
                .all(|(key, value)| pod.labels().get(key) == Some(value))
        };
        let services = self.services.get(pod.namespace()).into_iter();
        for selector in services.flat_map(|all| all.values()) {
            if selects(selector) {
                labels.extend(
                    selector
                        .iter()
                        .map(|(key, value)| (key.clone(), value.clone())),
                );
            }
        }
        let mut expressions: Vec<LabelSelectorRequirement> = Vec::new();
        if let Some((kind, name)) = &pod.shape.owner {
            let key = (kind.clone(), ObjectKey::new(pod.namespace(), name));
            if let Some(selector) = self.controllers.get(&key) {
                let more = selector.match_labels.iter().flatten();
                labels.extend(more.map(|(key, value)| (key.clone(), value.clone())));
                expressions.extend(selector.match_expressions.iter().flatten().cloned());
            }
        }
        if labels.is_empty() && expressions.is_empty() {
            return LabelMatcher::everything();
        }
        matcher(Some(&LabelSelector {
            match_labels: Some(labels),
            match_expressions: Some(expressions),
        }))
    }
}
