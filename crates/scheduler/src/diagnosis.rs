//! Why no node does, in upstream's words.

use std::collections::BTreeMap;

use crate::framework::{ELSEWHERE, PLUGINS, Rejection};

/// What was found out while nodes were looked at.
#[derive(Debug, Default, PartialEq)]
pub struct Diagnosis {
    /// How many nodes there are.
    pub total: usize,
    /// The nodes that were refused, by which plugin (by its number), and why.
    pub rejected: Vec<(usize, usize, Rejection)>,
    /// Why nodes were refused that were not looked at.
    pub unseen: Option<String>,
    /// Why all were refused before any was looked at.
    pub before: Option<Rejection>,
    /// The plugins that refused, by number, as bits.
    pub refused_by: u32,
    /// What came of looking for another way.
    pub after: String,
}

impl Diagnosis {
    /// Nothing is known yet of so many nodes.
    #[must_use]
    pub fn new(total: usize) -> Self {
        Self {
            total,
            ..Self::default()
        }
    }

    /// A node was refused.
    pub fn refuse(&mut self, plugin: usize, node: usize, rejection: Rejection) {
        self.refused_by |= 1 << plugin;
        self.rejected.push((node, plugin, rejection));
    }

    /// A node that does by all plugins was refused by somebody else.
    pub fn refuse_elsewhere(&mut self, rejection: Rejection) {
        self.refused_by |= ELSEWHERE;
        self.rejected.push((usize::MAX, usize::MAX, rejection));
    }

    /// All nodes were refused.
    pub fn refuse_all(&mut self, plugin: usize, rejection: Rejection) {
        self.refused_by |= 1 << plugin;
        self.before = Some(rejection);
    }

    /// These plugins said that only some nodes can do.
    pub fn restrict(&mut self, plugins: u32) {
        self.refused_by |= plugins;
        let mut names: Vec<&str> = PLUGINS
            .iter()
            .enumerate()
            .filter(|(number, _)| plugins & (1 << number) != 0)
            .map(|(_, plugin)| plugin.name)
            .collect();
        names.sort_unstable();
        self.unseen = Some(format!(
            "node(s) didn't satisfy plugin(s) [{}]",
            names.join(" ")
        ));
    }

    /// The nodes where taking pods away may help.
    #[must_use]
    pub fn resolvable(&self) -> Vec<usize> {
        if self.before.is_some() {
            return Vec::new();
        }
        let rejected = self.rejected.iter();
        rejected
            .filter(|(_, _, rejection)| !rejection.unresolvable)
            .map(|(node, _, _)| *node)
            .collect()
    }

    /// The text of event and condition.
    #[must_use]
    pub fn message(&self) -> String {
        if self.total == 0 && self.before.is_none() {
            return "no nodes available to schedule pods".to_owned();
        }
        let mut text = format!("0/{} nodes are available:", self.total);
        if let Some(before) = &self.before {
            let reasons: Vec<&str> = before.reasons().collect();
            text.push_str(&format!(" {}.", reasons.join(", ")));
        } else {
            let reasons = self
                .rejected
                .iter()
                .flat_map(|(_, _, rejection)| rejection.reasons());
            let unseen = self.unseen.as_deref().into_iter();
            let unseen = unseen.flat_map(|reason| {
                std::iter::repeat_n(reason, self.total.saturating_sub(self.rejected.len()))
            });
            let why = histogram(reasons.chain(unseen));
            if !why.is_empty() {
                text.push_str(&format!(" {why}."));
            }
        }
        if !self.after.is_empty() {
            text.push(' ');
            text.push_str(&self.after);
        }
        text
    }
}

/// `1 this, 2 that`, sorted as text.
#[must_use]
pub fn histogram<'a>(reasons: impl Iterator<Item = &'a str>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut texts: Vec<String> = counts
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    texts.sort();
    texts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_counted_and_sorted_as_text() {
        let reasons = ["b", "a"].into_iter().chain(std::iter::repeat_n("c", 10));
        assert_eq!(histogram(reasons), "1 a, 1 b, 10 c");
    }

    #[test]
    fn messages() {
        let mut diagnosis = Diagnosis::new(3);
        diagnosis.refuse(7, 0, Rejection::resolvable("Insufficient cpu"));
        diagnosis.restrict(1 << 5);
        diagnosis.after = "no new claims to deallocate".to_owned();
        assert_eq!(
            diagnosis.message(),
            "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]. \
             no new claims to deallocate"
        );
        let mut diagnosis = Diagnosis::new(1);
        diagnosis.refuse_all(
            10,
            Rejection::unresolvable("pod has unbound immediate PersistentVolumeClaims"),
        );
        assert_eq!(
            diagnosis.message(),
            "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims."
        );
        assert_eq!(diagnosis.resolvable(), Vec::<usize>::new());
        assert_eq!(
            Diagnosis::new(0).message(),
            "no nodes available to schedule pods"
        );
    }
}
