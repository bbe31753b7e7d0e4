//! How many seats each priority level has: its nominal share, and what levels lend one another.

/// What a level's specification says of its share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Share {
    pub shares: u32,
    pub lendable_percent: u32,
    /// `None`: no limit.
    pub borrowing_limit_percent: Option<u32>,
}

/// A level's bounds, in seats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bounds {
    pub nominal: u32,
    /// What it has in any case.
    pub least: u32,
    /// What it has at most, borrowed seats included.
    pub most: u32,
}

/// Per cent of a number, rounded.
fn percent(of: u32, percent: u32) -> u32 {
    u32::try_from((u64::from(of) * u64::from(percent) + 50) / 100).unwrap_or(u32::MAX)
}

/// The bounds of levels that share `total` seats, in the order given.
pub(super) fn bounds(total: u32, shares: &[Share]) -> Vec<Bounds> {
    let sum: u64 = shares
        .iter()
        .map(|share| u64::from(share.shares))
        .sum::<u64>()
        .max(1);
    let nominal = |share: &Share| {
        let seats = (u64::from(total) * u64::from(share.shares)).div_ceil(sum);
        u32::try_from(seats).unwrap_or(u32::MAX)
    };
    let all: u32 = shares.iter().map(nominal).fold(0, u32::saturating_add);
    shares
        .iter()
        .map(|share| {
            let nominal = nominal(share);
            let most = match share.borrowing_limit_percent {
                None => all,
                Some(limit) => nominal.saturating_add(percent(nominal, limit)),
            };
            Bounds {
                nominal,
                least: nominal - percent(nominal, share.lendable_percent.min(100)),
                most,
            }
        })
        .collect()
}

/// One level's part in dividing seats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Claim {
    /// What it would like to have; not below `least`.
    pub target: f64,
    pub least: f64,
    pub most: f64,
}

/// Targets below this count as this.
const MIN_TARGET: f64 = 0.001;
const STEPS: usize = 200;

fn at(claim: &Claim, proportion: f64) -> f64 {
    (claim.target.max(MIN_TARGET) * proportion).clamp(claim.least, claim.most)
}

/// Divides `total` so that every claim gets the same proportion of its target, as far as its bounds let it. `None`: the
/// bounds do not allow the sum.
pub(super) fn divide(total: f64, claims: &[Claim]) -> Option<Vec<f64>> {
    let sum = |value: fn(&Claim) -> f64| claims.iter().map(value).sum::<f64>();
    let (low, high) = (sum(|claim| claim.least), sum(|claim| claim.most));
    if total < low - 1e-7 || total > high + 1e-7 {
        return None;
    }
    // The sum grows with the proportion: look for the one that gives the total.
    let given = |proportion: f64| {
        claims
            .iter()
            .map(|claim| at(claim, proportion))
            .sum::<f64>()
    };
    let (mut below, mut above) = (0.0, 1.0);
    while given(above) < total - 1e-9 && above < 1e12 {
        above *= 2.0;
    }
    for _ in 0..STEPS {
        let middle = f64::midpoint(below, above);
        if given(middle) < total {
            below = middle;
        } else {
            above = middle;
        }
    }
    Some(claims.iter().map(|claim| at(claim, above)).collect())
}

/// A level's demand in the period that is over.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Demand {
    pub high_watermark: f64,
    pub average: f64,
    pub deviation: f64,
    /// What is remembered of earlier periods.
    pub smoothed: f64,
}

/// How slowly demand is forgotten.
const SMOOTHING: f64 = 0.977;

impl Demand {
    /// The demand after another period.
    pub fn after(self, high_watermark: f64, average: f64, deviation: f64) -> Self {
        let envelope = average + deviation;
        Self {
            high_watermark,
            average,
            deviation,
            smoothed: envelope.max(SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * envelope),
        }
    }
}

/// The seats that levels have until the next adjustment: those with demand borrow from those that lend.
pub(super) fn borrow(levels: &[(Bounds, Demand, bool)]) -> Vec<u32> {
    let total: f64 = levels
        .iter()
        .map(|(bounds, ..)| f64::from(bounds.nominal))
        .sum();
    let least = |(bounds, demand, exempt): &(Bounds, Demand, bool)| {
        let wanted = if *exempt {
            demand.high_watermark
        } else {
            demand.high_watermark.min(f64::from(bounds.nominal))
        };
        wanted.max(f64::from(bounds.least))
    };
    // Exempt levels take what they take.
    let taken: f64 = levels
        .iter()
        .filter(|(.., exempt)| *exempt)
        .map(least)
        .sum();
    let left = (total - taken).max(0.0);
    let limited: Vec<_> = levels.iter().filter(|(.., exempt)| !exempt).collect();
    let needed: f64 = limited.iter().map(|level| least(level)).sum();
    let bound: f64 = limited
        .iter()
        .map(|(bounds, ..)| f64::from(bounds.least))
        .sum();
    let claims: Vec<Claim> = limited
        .iter()
        .map(|level| {
            let (bounds, demand, _) = level;
            // Where not all have what they need, what is above the lowest bounds is divided.
            let least = if needed > left {
                f64::from(bounds.least)
            } else {
                least(level)
            };
            let target = demand.smoothed.max(least);
            Claim {
                target,
                least,
                most: f64::from(bounds.most).max(least),
            }
        })
        .collect();
    let given = divide(left, &claims).unwrap_or_else(|| {
        let scale = if bound > 0.0 { left / bound } else { 0.0 };
        let lowest = limited.iter().map(|(bounds, ..)| f64::from(bounds.least));
        lowest.map(|least| least * scale.min(1.0)).collect()
    });
    let mut given = given.into_iter();
    levels
        .iter()
        .map(|level| {
            let seats = if level.2 {
                least(level)
            } else {
                given.next().unwrap_or_default()
            };
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "saturates, and is never below zero"
            )]
            let seats = seats.round() as u32;
            seats
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shares_become_seats() {
        let share = |shares, lendable_percent, borrowing_limit_percent| Share {
            shares,
            lendable_percent,
            borrowing_limit_percent,
        };
        // Upstream's levels with its default of 600 seats.
        let levels = [
            share(5, 0, None),
            share(0, 0, None),
            share(20, 50, None),
            share(10, 0, Some(50)),
            share(40, 25, None),
            share(30, 33, None),
            share(40, 50, None),
            share(100, 90, None),
        ];
        let found = bounds(600, &levels);
        let nominal: Vec<u32> = found.iter().map(|bounds| bounds.nominal).collect();
        assert_eq!(nominal, [13, 0, 49, 25, 98, 74, 98, 245]);
        let least: Vec<u32> = found.iter().map(|bounds| bounds.least).collect();
        assert_eq!(least, [13, 0, 24, 25, 73, 50, 49, 24]);
        assert_eq!(found[3].most, 38);
        assert_eq!(found[7].most, 602);
    }

    #[test]
    fn an_idle_level_lends_to_a_busy_one() {
        let bounds = |nominal, least| Bounds {
            nominal,
            least,
            most: 200,
        };
        let idle = Demand::default();
        let busy = Demand::default().after(100.0, 100.0, 0.0);
        let seats = borrow(&[
            (bounds(100, 10), idle, false),
            (bounds(100, 10), busy, false),
        ]);
        // The idle one keeps its least and no more.
        assert_eq!(seats, [18, 182]);
        let seats = borrow(&[
            (bounds(100, 10), busy, false),
            (bounds(100, 10), busy, false),
        ]);
        assert_eq!(seats, [100, 100]);
    }

    #[test]
    fn exempt_levels_take_what_they_use() {
        let bounds = |nominal, least| Bounds {
            nominal,
            least,
            most: 100,
        };
        let using = Demand::default().after(30.0, 30.0, 0.0);
        let seats = borrow(&[(bounds(0, 0), using, true), (bounds(100, 10), using, false)]);
        assert_eq!(seats, [30, 70]);
    }

    proptest! {
        #[test]
        fn what_is_divided_keeps_to_sum_bounds_and_proportion(
            parts in proptest::collection::vec((0.0..100.0f64, 0.0..1.0f64, 0.0..100.0f64), 1..8),
            position in 0.0..1.0f64,
        ) {
            let claims: Vec<Claim> = parts
                .iter()
                .map(|(target, low, above)| Claim { target: *target, least: target * low, most: target + above })
                .collect();
            let low: f64 = claims.iter().map(|claim| claim.least).sum();
            let high: f64 = claims.iter().map(|claim| claim.most).sum();
            let total = low + (high - low) * position;
            let given = divide(total, &claims).unwrap();
            prop_assert!((given.iter().sum::<f64>() - total).abs() < 1e-3);
            for (one, claim) in given.iter().zip(&claims) {
                prop_assert!(*one >= claim.least - 1e-6 && *one <= claim.most + 1e-6);
            }
            // Nobody free of bounds has a smaller proportion than another free of bounds.
            let free: Vec<f64> = given
                .iter()
                .zip(&claims)
                .filter(|(one, claim)| **one > claim.least + 1e-3 && **one < claim.most - 1e-3 && claim.target > 0.1)
                .map(|(one, claim)| one / claim.target)
                .collect();
            for pair in free.windows(2) {
                prop_assert!((pair[0] - pair[1]).abs() < 1e-3 * pair[0].max(1.0), "{free:?}");
            }
        }

        #[test]
        fn borrowing_never_gives_more_than_there_is(
            levels in proptest::collection::vec((1..100u32, 0..=100u32, 0.0..300.0f64), 1..8),
        ) {
            let shares: Vec<Share> = levels
                .iter()
                .map(|(shares, lendable, _)| Share { shares: *shares, lendable_percent: *lendable, borrowing_limit_percent: None })
                .collect();
            let bounds = bounds(600, &shares);
            let states: Vec<_> = bounds
                .iter()
                .zip(&levels)
                .map(|(bounds, (_, _, demand))| (*bounds, Demand::default().after(*demand, demand / 2.0, demand / 4.0), false))
                .collect();
            let seats = borrow(&states);
            let total: u32 = bounds.iter().map(|bounds| bounds.nominal).sum();
            prop_assert!(seats.iter().sum::<u32>() <= total + 8, "rounding only");
            for (seats, bounds) in seats.iter().zip(&bounds) {
                prop_assert!(*seats >= bounds.least && *seats <= bounds.most);
            }
        }
    }
}
