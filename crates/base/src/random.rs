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

    /// A UUID of version 4, as identities of objects are written.
    #[must_use]
    pub fn uuid(&self) -> String {
        let (high, low) = (self.below(u64::MAX), self.below(u64::MAX));
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xfff,
            0x8000 | low >> 48 & 0x3fff,
            low & 0xffff_ffff_ffff
        )
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
    fn uuids_are_of_version_4_and_differ() {
        let random = Random::seeded(7);
        let all: std::collections::HashSet<String> = (0..1000).map(|_| random.uuid()).collect();
        assert_eq!(all.len(), 1000);
        for uuid in &all {
            let parts: Vec<&str> = uuid.split('-').collect();
            let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
            assert_eq!(lengths, [8, 4, 4, 4, 12], "{uuid}");
            assert!(parts[2].starts_with('4'), "{uuid}");
            assert!(parts[3].starts_with(['8', '9', 'a', 'b']), "{uuid}");
        }
    }

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
