//! One object as it is served: shared JSON with its resourceVersion, and lazily the little that selectors need.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::registry::ServedKind;

/// What selectors see of an object.
#[derive(Debug, Default)]
struct Selectable {
    labels: BTreeMap<String, String>,
    fields: Vec<String>,
}

/// An object in the watch cache.
#[derive(Debug)]
pub struct Entry {
    /// The key in the store.
    pub key: Arc<str>,
    /// The revision of the last write: the object's resourceVersion.
    pub revision: u64,
    /// The object as JSON, resourceVersion included.
    pub bytes: Bytes,
    /// Where the digits of the resourceVersion are in `bytes`.
    digits: (u32, u32),
    selectable: OnceLock<Box<Selectable>>,
}

impl Entry {
    /// Makes the served form of a stored value; `None` when the value is no JSON object with metadata.
    #[must_use]
    pub fn new(key: Arc<str>, stored: &[u8], revision: u64) -> Option<Self> {
        let (bytes, digits) = splice(stored, revision)?;
        Some(Self {
            key,
            revision,
            bytes,
            digits,
            selectable: OnceLock::new(),
        })
    }

    /// The object with another resourceVersion, as the event of its deletion shows it.
    #[must_use]
    pub fn bytes_at(&self, revision: u64) -> Bytes {
        let (start, end) = (self.digits.0 as usize, self.digits.1 as usize);
        let digits = revision.to_string();
        let mut bytes = Vec::with_capacity(self.bytes.len() + digits.len());
        bytes.extend_from_slice(&self.bytes[..start]);
        bytes.extend_from_slice(digits.as_bytes());
        bytes.extend_from_slice(&self.bytes[end..]);
        bytes.into()
    }

    /// The last part of the key.
    #[must_use]
    pub fn name(&self) -> &str {
        self.key.rsplit('/').next().unwrap_or_default()
    }

    /// The part of the key before the name: the namespace of a namespaced object.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.key.rsplit('/').nth(1).unwrap_or_default()
    }

    /// The object decoded into a type; `None` when it does not fit.
    #[must_use]
    pub fn decode<T: serde::de::DeserializeOwned>(&self) -> Option<T> {
        match serde_json::from_slice(&self.bytes) {
            Ok(object) => Some(object),
            Err(error) => {
                tracing::warn!(key = %self.key, %error, "stored object does not decode");
                None
            }
        }
    }

    /// The labels.
    #[must_use]
    pub fn labels(&self, kind: &ServedKind) -> &BTreeMap<String, String> {
        &self.selectable(kind).labels
    }

    /// The values of the kind's selectable fields, in their order.
    #[must_use]
    pub fn fields(&self, kind: &ServedKind) -> &[String] {
        &self.selectable(kind).fields
    }

    fn selectable(&self, kind: &ServedKind) -> &Selectable {
        self.selectable.get_or_init(|| {
            let value = match kind.as_custom() {
                Some(_) => serde_json::from_slice(&self.bytes),
                None => Scalars::of(&self.bytes),
            };
            let value = value.unwrap_or_default();
            let labels = value
                .pointer("/metadata/labels")
                .and_then(Value::as_object)
                .map(|labels| {
                    labels
                        .iter()
                        .map(|(key, value)| {
                            (key.clone(), value.as_str().unwrap_or_default().to_owned())
                        })
                        .collect()
                })
                .unwrap_or_default();
            Box::new(Selectable {
                labels,
                fields: kind.field_values(&value),
            })
        })
    }
}

/// Reads objects without what they list and annotate: no selector of a built-in kind sees that, and it is the most of them.
/// Holds how deep in the object it is.
struct Scalars(u8);

impl Scalars {
    fn of(json: &[u8]) -> serde_json::Result<Value> {
        let mut text = serde_json::Deserializer::from_slice(json);
        Scalars(0).deserialize(&mut text)
    }
}

impl<'de> DeserializeSeed<'de> for Scalars {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, text: D) -> Result<Value, D::Error> {
        text.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Scalars {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut map = serde_json::Map::new();
        while let Some(key) = fields.next_key::<Cow<'de, str>>()? {
            if self.0 == 1 && key == "annotations" {
                fields.next_value::<IgnoredAny>()?;
            } else {
                let value = fields.next_value_seed(Scalars(self.0.saturating_add(1)))?;
                map.insert(key.into_owned(), value);
            }
        }
        Ok(map.into())
    }
}

/// Puts a resourceVersion into a stored object; `None` when the value is no JSON object with metadata.
#[must_use]
pub fn splice_revision(stored: &[u8], revision: u64) -> Option<Bytes> {
    splice(stored, revision).map(|(bytes, _)| bytes)
}

fn splice(stored: &[u8], revision: u64) -> Option<(Bytes, (u32, u32))> {
    let at = metadata_start(stored)?;
    if revision == 0 {
        // Never written: what a dry run would have made.
        return Some((Bytes::copy_from_slice(stored), (0, 0)));
    }
    let empty = stored[at..].iter().find(|c| !c.is_ascii_whitespace()) == Some(&b'}');
    let digits = revision.to_string();
    let mut bytes = Vec::with_capacity(stored.len() + digits.len() + 24);
    bytes.extend_from_slice(&stored[..at]);
    bytes.extend_from_slice(b"\"resourceVersion\":\"");
    let start = bytes.len();
    bytes.extend_from_slice(digits.as_bytes());
    let end = bytes.len();
    bytes.extend_from_slice(if empty { b"\"" } else { b"\"," });
    bytes.extend_from_slice(&stored[at..]);
    Some((
        bytes.into(),
        (u32::try_from(start).ok()?, u32::try_from(end).ok()?),
    ))
}

/// The offset behind the opening brace of the top-level `metadata` object.
fn metadata_start(json: &[u8]) -> Option<usize> {
    let mut scan = Scan { json, at: 0 };
    scan.expect(b'{')?;
    loop {
        let key = scan.string()?;
        scan.expect(b':')?;
        scan.space();
        if key == b"metadata" {
            scan.expect(b'{')?;
            return Some(scan.at);
        }
        scan.skip_value()?;
        scan.expect(b',')?;
    }
}

struct Scan<'a> {
    json: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn space(&mut self) {
        while self.json.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        self.space();
        (*self.json.get(self.at)? == byte).then(|| self.at += 1)
    }

    fn string(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            match *self.json.get(self.at)? {
                b'"' => break,
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        self.at += 1;
        self.json.get(start..self.at - 1)
    }

    fn skip_value(&mut self) -> Option<()> {
        self.space();
        let mut depth = 0usize;
        loop {
            match *self.json.get(self.at)? {
                b'"' => {
                    self.string()?;
                    if depth == 0 {
                        return Some(());
                    }
                    continue;
                }
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    if depth == 0 {
                        return Some(());
                    }
                    depth -= 1;
                    if depth == 0 {
                        self.at += 1;
                        return Some(());
                    }
                }
                b',' if depth == 0 => return Some(()),
                _ => {}
            }
            self.at += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn splices_into_metadata_only() {
        let table = [
            (
                r#"{"metadata":{}}"#,
                r#"{"metadata":{"resourceVersion":"7"}}"#,
            ),
            (
                r#"{"kind":"P","x":{"metadata":{"a":1}},"y":[{"z":"}]"}],"n":1.5,"metadata": {"name":"a"},"spec":{}}"#,
                r#"{"kind":"P","x":{"metadata":{"a":1}},"y":[{"z":"}]"}],"n":1.5,"metadata": {"resourceVersion":"7","name":"a"},"spec":{}}"#,
            ),
        ];
        for (stored, served) in table {
            assert_eq!(splice_revision(stored.as_bytes(), 7).unwrap(), served);
            // A dry run has no version.
            assert_eq!(splice_revision(stored.as_bytes(), 0).unwrap(), stored);
        }
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"metadata":1}"#,
            r#"{"a":"\"#,
            r#"{"a":{"#,
            "null",
        ] {
            assert!(splice_revision(bad.as_bytes(), 7).is_none(), "{bad}");
        }
    }

    #[test]
    fn selectors_see_scalars() {
        let json = r#"{"metadata":{"name":"a\"","labels":{"annotations":"b"},"annotations":{"c":"d"},"managedFields":[{"f":{}}]},"spec":{"n":1,"m":-1.5,"yes":true,"list":[[],{}],"none":null}}"#;
        let seen = serde_json::json!({"metadata": {"name": "a\"", "labels": {"annotations": "b"}, "managedFields": null},
            "spec": {"n": 1, "m": -1.5, "yes": true, "list": null, "none": null}});
        assert_eq!(Scalars::of(json.as_bytes()).unwrap(), seen);
    }

    #[test]
    fn a_deletion_shows_another_revision() {
        let entry = Entry::new("/r/p/ns/a".into(), br#"{"metadata":{"name":"a"}}"#, 99).unwrap();
        assert_eq!(
            entry.bytes_at(100),
            r#"{"metadata":{"resourceVersion":"100","name":"a"}}"#
        );
        assert_eq!((entry.namespace(), entry.name()), ("ns", "a"));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..64), tail in ".{0,40}") {
            let _ = splice_revision(&bytes, 1);
            let _ = splice_revision(format!("{{\"a\":{tail}").as_bytes(), 1);
        }
    }
}
