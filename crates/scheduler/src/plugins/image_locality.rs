//! Nodes that have the pod's images already are better.

use crate::framework::{Cycle, MAX_SCORE, NOTHING, Normal, Plugin, Score, View};
use crate::nodes::ImageId;
use crate::rows::PodRow;
use crate::world::World;

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "ImageLocality",
    weight: 1,
    score: Some(Score {
        prepare: |cycle, _| !cycle.images.is_empty(),
        score,
        normal: Normal::As,
    }),
    ..NOTHING
};

const MEBIBYTE: i64 = 1024 * 1024;
/// Images smaller than this in all do not count.
const LEAST: i64 = 23 * MEBIBYTE;
/// More than this for a container counts as this.
const MOST: i64 = 1000 * MEBIBYTE;

/// The pod's images that any node has, with the share of nodes that have them.
pub type Present = Vec<(ImageId, f64)>;

/// Looks the pod's images up.
#[must_use]
pub fn present(pod: &PodRow, world: &World) -> Present {
    let total = world.cluster.ready.max(1) as f64;
    let known = pod
        .shape
        .images
        .iter()
        .filter_map(|name| world.images.find(name));
    known
        .map(|(id, nodes)| (id, f64::from(nodes) / total))
        .collect()
}

/// The size of the images there, the less the fewer nodes have them.
fn score(cycle: &Cycle, view: &View) -> i64 {
    let sizes = cycle.images.iter().filter_map(|(id, share)| {
        let size = view.facts.image(*id)?;
        Some((size as f64 * share) as i64)
    });
    weigh(sizes.sum(), cycle.pod.shape.containers)
}

fn weigh(sum: i64, containers: usize) -> i64 {
    let most = MOST * i64::try_from(containers).unwrap_or(1).max(1);
    MAX_SCORE * (sum.clamp(LEAST, most) - LEAST) / (most - LEAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_weighed_between_the_extremes() {
        for (mebibytes, containers, expected) in [
            (0, 1, 0),
            (23, 1, 0),
            (1000, 1, 100),
            (9000, 1, 100),
            (1000, 2, 49),
        ] {
            assert_eq!(weigh(mebibytes * MEBIBYTE, containers), expected);
        }
    }
}
