//! Sets of completion indexes, as Jobs write them: `1,3-5,7`.

use std::fmt;

/// A set of indexes, kept as ranges (both ends included) in order that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Reads a set; parts that cannot be read and indexes from `limit` on are left out.
    pub fn parse(text: &str, limit: i32) -> Self {
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.parse().ok()?, last.parse::<i32>().ok()?);
            let last = last.min(limit.saturating_sub(1));
            (0 <= first && first <= last).then_some((first, last))
        };
        Self::of_ranges(text.split(',').filter_map(range).collect())
    }

    fn of_ranges(mut ranges: Vec<(i32, i32)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(i32, i32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match joined.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => {
                    before.1 = before.1.max(last);
                }
                _ => joined.push((first, last)),
            }
        }
        Self(joined)
    }

    /// The set and these indexes.
    pub fn with(&self, indexes: impl IntoIterator<Item = i32>) -> Self {
        let more = indexes.into_iter().map(|index| (index, index));
        Self::of_ranges(self.0.iter().copied().chain(more).collect())
    }

    /// What is in either set.
    pub fn union(&self, other: &Self) -> Self {
        Self::of_ranges(self.0.iter().chain(&other.0).copied().collect())
    }

    /// Whether `index` is in the set.
    pub fn contains(&self, index: i32) -> bool {
        let next = self.0.partition_point(|range| range.1 < index);
        self.0.get(next).is_some_and(|range| range.0 <= index)
    }

    /// How many indexes are in the set.
    pub fn count(&self) -> i32 {
        self.0.iter().map(|(first, last)| last - first + 1).sum()
    }

    /// How many indexes are in both sets.
    pub fn common(&self, other: &Self) -> i32 {
        // What both hold is what the two counts hold more than their union.
        self.count() + other.count() - self.union(other).count()
    }

    /// The indexes below `limit` that are not in the set, in order.
    pub fn missing(&self, limit: i32) -> impl Iterator<Item = i32> + '_ {
        let starts = self.0.iter().map(|range| range.1.saturating_add(1));
        let ends = self.0.iter().map(|range| range.0);
        let gaps = std::iter::once(0)
            .chain(starts)
            .zip(ends.chain(std::iter::once(limit)));
        gaps.flat_map(move |(start, end)| start..end.min(limit))
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (first, last)) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str(",")?;
            }
            match last - first {
                0 => write!(f, "{first}")?,
                1 => write!(f, "{first},{last}")?,
                _ => write!(f, "{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn text_forms() {
        for (text, limit, shown) in [
            ("", 5, ""),
            ("0", 5, "0"),
            ("0,1", 5, "0,1"),
            ("0-2,4", 5, "0-2,4"),
            ("0-2,4-9", 6, "0-2,4,5"),
            ("3,7", 6, "3"),
            ("1,x,3-y,2", 6, "1,2"),
            ("-3,2", 6, "2"),
            ("0,1-3", 6, "0-3"),
        ] {
            assert_eq!(Indexes::parse(text, limit).to_string(), shown, "{text}");
        }
    }

    proptest! {
        /// Against plain sets.
        #[test]
        fn is_a_set(a in proptest::collection::btree_set(0_i32..60, 0..40), b in proptest::collection::btree_set(0_i32..60, 0..40), limit in 0_i32..70) {
            let (left, right) = (Indexes::default().with(a.clone()), Indexes::default().with(b.clone()));
            let union: BTreeSet<i32> = a.union(&b).copied().collect();
            let common = i32::try_from(a.intersection(&b).count()).unwrap();
            prop_assert_eq!(left.union(&right), Indexes::default().with(union));
            prop_assert_eq!(left.common(&right), common);
            prop_assert_eq!(left.count(), i32::try_from(a.len()).unwrap());
            let missing: Vec<i32> = (0..limit).filter(|index| !a.contains(index)).collect();
            prop_assert_eq!(left.missing(limit).collect::<Vec<_>>(), missing);
            for index in 0..60 {
                prop_assert_eq!(left.contains(index), a.contains(&index));
            }
            prop_assert_eq!(Indexes::parse(&left.to_string(), 60), left);
        }
    }
}
