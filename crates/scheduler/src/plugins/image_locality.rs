//! Nodes that have the pod's images already are better.

use crate::framework::{Cycle, MAX_SCORE};
use crate::rows::{NodeFacts, NodeRow, normal_image};

/// The plugin's name.
pub const NAME: &str = "ImageLocality";

const MEBIBYTE: i64 = 1024 * 1024;
/// Images smaller than this in all do not count.
const LEAST: i64 = 23 * MEBIBYTE;
/// More than this for a container counts as this.
const MOST: i64 = 1000 * MEBIBYTE;

/// The size of the images there, the less the fewer nodes have them.
#[must_use]
pub fn score(cycle: &Cycle, _: &NodeRow, facts: &NodeFacts) -> i64 {
    let containers = i64::try_from(cycle.pod.images.len()).unwrap_or(1).max(1);
    let mut sum = 0;
    for image in &cycle.pod.images {
        let name = normal_image(image);
        let Some(size) = facts.images.get(&name) else {
            continue;
        };
        let has = |node: &&NodeRow| {
            node.facts
                .as_ref()
                .is_some_and(|facts| facts.images.contains_key(&name))
        };
        let spread = cycle.nodes.iter().filter(has).count() as f64 / cycle.nodes.len() as f64;
        sum += (*size as f64 * spread) as i64;
    }
    let most = MOST * containers;
    MAX_SCORE * (sum.clamp(LEAST, most) - LEAST) / (most - LEAST)
}
