//! Pod disruption budgets: how many pods of a kind may be disturbed.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use skiff_client::{LabelMatcher, ObjectKey};

use crate::rows::PodRow;
use crate::terms::matcher;

/// A budget.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    matcher: LabelMatcher,
    allowed: i64,
    disrupted: BTreeSet<String>,
}

/// All budgets, by namespace.
#[derive(Debug, Default)]
pub struct Budgets {
    all: HashMap<Box<str>, HashMap<ObjectKey, Budget>>,
}

impl Budgets {
    /// Takes in a budget.
    pub fn set(&mut self, budget: &PodDisruptionBudget) {
        let key = ObjectKey::of(&budget.metadata);
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let status = budget.status.as_ref();
        let disrupted = status.and_then(|status| status.disrupted_pods.as_ref());
        let row = Budget {
            matcher: matcher(selector),
            allowed: status.map_or(0, |status| {
                i64::from(status.disruptions_allowed.unwrap_or(0))
            }),
            disrupted: disrupted
                .into_iter()
                .flat_map(|all| all.keys().cloned())
                .collect(),
        };
        let all = self.all.entry(key.namespace().into()).or_default();
        all.insert(key, row);
    }

    /// A budget is gone.
    pub fn remove(&mut self, key: &ObjectKey) {
        if let Some(all) = self.all.get_mut(key.namespace()) {
            all.remove(key);
            if all.is_empty() {
                self.all.remove(key.namespace());
            }
        }
    }

    /// All budgets' keys.
    #[must_use]
    pub fn keys(&self) -> Vec<ObjectKey> {
        self.all
            .values()
            .flat_map(|all| all.keys().cloned())
            .collect()
    }

    /// Which of the pods could not be evicted, one after another, without a budget being overdrawn.
    #[must_use]
    pub fn overdrawn(&self, pods: &[&PodRow]) -> Vec<bool> {
        if self.all.is_empty() {
            return vec![false; pods.len()];
        }
        let mut left: HashMap<&ObjectKey, i64> = HashMap::new();
        let mut over = Vec::with_capacity(pods.len());
        for pod in pods {
            let budgets = self.all.get(pod.namespace()).into_iter().flatten();
            let mut too_many = false;
            for (key, budget) in budgets {
                if pod.labels().is_empty()
                    || budget.matcher.is_everything()
                    || !budget.matcher.matches(Some(pod.labels()))
                    || budget.disrupted.contains(pod.key.name())
                {
                    continue;
                }
                let left = left.entry(key).or_insert(budget.allowed);
                *left -= 1;
                too_many |= *left < 0;
            }
            over.push(too_many);
        }
        over
    }
}
