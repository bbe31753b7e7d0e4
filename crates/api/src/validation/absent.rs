//! What an absent field means: upstream's types have zero values where ours have `None`.

use std::collections::BTreeMap;

/// The text, empty where absent.
pub(crate) fn text(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

/// The elements, none where absent.
pub(crate) fn items<T>(value: &Option<Vec<T>>) -> &[T] {
    value.as_deref().unwrap_or_default()
}

/// The entries in the order of their keys, none where absent.
pub(crate) fn entries<V>(
    value: &Option<BTreeMap<String, V>>,
) -> impl Iterator<Item = (&String, &V)> {
    value.iter().flatten()
}

/// The entry with that key.
pub(crate) fn entry<'a, V>(value: &'a Option<BTreeMap<String, V>>, key: &str) -> Option<&'a V> {
    value.as_ref().and_then(|map| map.get(key))
}

/// How many entries there are.
pub(crate) fn count<V>(value: &Option<BTreeMap<String, V>>) -> usize {
    value.as_ref().map_or(0, BTreeMap::len)
}

/// Whether the flag is there and set.
pub(crate) fn set(value: Option<bool>) -> bool {
    value.unwrap_or(false)
}

/// Fills an absent or empty text.
pub(crate) fn default_text(value: &mut Option<String>, default: &str) {
    if text(value).is_empty() {
        *value = Some(default.to_owned());
    }
}

/// Fills an absent value.
pub(crate) fn default_value<T>(value: &mut Option<T>, default: T) {
    if value.is_none() {
        *value = Some(default);
    }
}

/// Fills an absent or zero number.
pub(crate) fn default_number(value: &mut Option<i32>, default: i32) {
    if value.unwrap_or(0) == 0 {
        *value = Some(default);
    }
}
