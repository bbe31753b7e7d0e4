//! Where randomness comes from: seeded, so that a run can be repeated.

use std::sync::{Arc, Mutex, PoisonError};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// The letters that Kubernetes uses in generated names: no vowels, no easily confused digits.
const NAME_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A shared, seeded source of random numbers. Not for keys: those come from the TLS library.
#[derive(Clone, Debug)]
pub struct Random(Arc<Mutex<StdRng>>);

impl Random {
    /// The same seed gives the same sequence.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    /// A source seeded by the operating system.
    #[must_use]
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the seam through which randomness comes in"
    )]
    pub fn from_system() -> Self {
        Self::seeded(rand::random())
    }

    /// A number in `0..bound`; 0 when `bound` is 0.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .random_range(0..bound)
    }

    /// A number in `[0, 1)`.
    #[must_use]
    pub fn fraction(&self) -> f64 {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .random()
    }

    /// The random suffix of a generated name, as upstream's `rand.String`.
    #[must_use]
    pub fn name_suffix(&self, length: usize) -> String {
        (0..length)
            .map(|_| NAME_ALPHABET[self.below(NAME_ALPHABET.len() as u64) as usize] as char)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_names() {
        let (a, b) = (Random::seeded(7), Random::seeded(7));
        assert_eq!(a.name_suffix(5), b.name_suffix(5));
        assert!(
            a.name_suffix(200)
                .bytes()
                .all(|c| NAME_ALPHABET.contains(&c))
        );
    }
}
