//! Nodes whose resources are used in like measure are better.

use crate::framework::{Cycle, MAX_SCORE, NOTHING, Normal, Plugin, Score, View};
use crate::profile::Kind;

/// The plugin.
pub const PLUGIN: Plugin = Plugin {
    name: "NodeResourcesBalancedAllocation",
    weight: 1,
    score: Some(Score {
        prepare,
        score,
        normal: Normal::As,
    }),
    ..NOTHING
};

/// Pods that ask for nothing do not change the balance.
fn prepare(cycle: &mut Cycle, _: &[usize]) -> bool {
    let requests = &cycle.pod.requests;
    let mut resources = cycle.profile.args.balanced_resources.iter();
    resources.any(|weighted| weighted.of(requests) != 0)
}

/// How balanced shares are, 100 being alike.
fn balance(shares: &[f64]) -> i64 {
    let deviation = match shares {
        [] | [_] => 0.0,
        [a, b] => (a - b).abs() / 2.0,
        all => {
            let count = all.len() as f64;
            let mean = all.iter().sum::<f64>() / count;
            let squares = all.iter().map(|share| (share - mean) * (share - mean));
            (squares.sum::<f64>() / count).sqrt()
        }
    };
    ((1.0 - deviation) * MAX_SCORE as f64) as i64
}

/// How far the pod improves the balance; 75 where it changes nothing.
fn score(cycle: &Cycle, view: &View) -> i64 {
    let (pod, used, all) = (
        &cycle.pod.requests,
        &view.usage.requested,
        &view.facts.allocatable,
    );
    let mut with = [0.0; 8];
    let mut without = [0.0; 8];
    let mut count = 0;
    for weighted in &cycle.profile.args.balanced_resources {
        let scalar = weighted.kind == Kind::Other && &*weighted.name != "ephemeral-storage";
        let (wanted, all) = (weighted.of(pod), weighted.of(all));
        if all == 0 || (wanted == 0 && scalar) {
            continue;
        }
        let share = |amount: i64| (amount as f64 / all as f64).min(1.0);
        if let (Some(with), Some(without)) = (with.get_mut(count), without.get_mut(count)) {
            *with = share(weighted.of(used) + wanted);
            *without = share(weighted.of(used));
            count += 1;
        }
    }
    let with = balance(with.get(..count).unwrap_or_default());
    let without = balance(without.get(..count).unwrap_or_default());
    MAX_SCORE / 2 + (MAX_SCORE / 2 + with - without) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balances() {
        for (shares, expected) in [
            (&[][..], 100),
            (&[0.3], 100),
            (&[0.5, 0.5], 100),
            (&[1.0, 0.0], 50),
            (&[0.0, 0.5, 1.0], 59),
        ] {
            assert_eq!(balance(shares), expected, "{shares:?}");
        }
    }
}
