//! Where our keys lie in etcd: the same tree under another root.

use std::sync::Arc;

use bytes::Bytes;

use super::messages;
use crate::{Event, KeyValue, Result, Revision, StoreError};

/// A range of etcd's keys: from the first, up to before the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeyRange {
    pub key: Bytes,
    pub end: Bytes,
}

impl KeyRange {
    /// Every key there is.
    pub fn everything() -> Self {
        Self {
            key: Bytes::from_static(b"\0"),
            end: Bytes::from_static(b"\0"),
        }
    }

    fn starting_with(prefix: &str) -> Self {
        let mut end = prefix.as_bytes().to_vec();
        while end.last() == Some(&0xff) {
            end.pop();
        }
        match end.last_mut() {
            None => Self::everything(),
            Some(last) => {
                *last += 1;
                Self {
                    key: Bytes::copy_from_slice(prefix.as_bytes()),
                    end: end.into(),
                }
            }
        }
    }
}

/// How keys are translated: what begins with `ours` with us begins with `theirs` in etcd.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    ours: String,
    theirs: String,
}

impl Keys {
    pub fn new(ours: &str, theirs: &str) -> Self {
        let without_end = |root: &str| root.trim_end_matches('/').to_owned();
        Self {
            ours: without_end(ours),
            theirs: without_end(theirs),
        }
    }

    /// A key as etcd has it.
    pub fn there(&self, key: &str) -> Result<Bytes> {
        match key.strip_prefix(&self.ours) {
            Some(rest) if rest.starts_with('/') => Ok(format!("{}{rest}", self.theirs).into()),
            _ => Err(StoreError::Failed(format!(
                "the key {key:?} is not under {:?}",
                self.ours
            ))),
        }
    }

    /// A key that never exists and that everyone who may use the tree may read.
    pub fn nowhere(&self) -> Bytes {
        format!("{}/", self.theirs).into()
    }

    /// All keys of ours that start with a prefix; `None`: none can.
    pub fn range(&self, prefix: &str) -> Option<KeyRange> {
        let root = format!("{}/", self.ours);
        if root.starts_with(prefix) {
            return Some(self.all());
        }
        let rest = prefix.strip_prefix(&self.ours)?;
        rest.starts_with('/')
            .then(|| KeyRange::starting_with(&format!("{}{rest}", self.theirs)))
    }

    /// All keys of ours.
    pub fn all(&self) -> KeyRange {
        KeyRange::starting_with(&format!("{}/", self.theirs))
    }

    /// The part of `range` that is not below `from`; `None`: nothing is left.
    pub fn not_below(&self, range: KeyRange, from: &str) -> Option<KeyRange> {
        let key = match self.there(from) {
            Ok(key) => key,
            // Not one of our keys: it lies before all of them or behind.
            Err(_) if *from < *format!("{}/", self.ours) => return Some(range),
            Err(_) => return None,
        };
        let KeyRange { key: start, end } = range;
        let within = end == Bytes::from_static(b"\0") || key < end;
        within.then(|| KeyRange {
            key: key.max(start),
            end,
        })
    }

    /// One of etcd's keys as we call it; `None` when it is not ours.
    pub fn here(&self, key: &[u8]) -> Option<Arc<str>> {
        let rest = std::str::from_utf8(key)
            .ok()?
            .strip_prefix(&self.theirs)
            .filter(|rest| rest.starts_with('/'))?;
        Some(match self.ours == self.theirs {
            true => format!("{}{rest}", self.theirs).into(),
            false => format!("{}{rest}", self.ours).into(),
        })
    }

    /// A state of one of our keys.
    pub fn key_value(&self, kv: messages::KeyValue) -> Option<KeyValue> {
        Some(KeyValue {
            key: self.here(&kv.key)?,
            value: kv.value,
            create_revision: revision(kv.create_revision),
            mod_revision: revision(kv.mod_revision),
            lease: kv.lease.cast_unsigned(),
        })
    }

    /// A change of one of our keys. It is an error when the state before it is wanted and not there any more: the
    /// history has been compacted while it was under way.
    pub fn event(&self, event: messages::Event) -> Option<(Arc<str>, Result<Event>)> {
        let deleted = event.r#type() == messages::event::EventType::Delete;
        let kv = event.kv?;
        let previous = event.prev_kv.and_then(|previous| self.key_value(previous));
        let at = revision(kv.mod_revision);
        let (key, change) = if deleted {
            let key = self.here(&kv.key)?;
            let change = previous.map(|previous| Event::Delete {
                revision: at,
                previous,
            });
            (key, change)
        } else {
            let made = kv.version == 1;
            let current = self.key_value(kv)?;
            let key = current.key.clone();
            let change = (made || previous.is_some()).then_some(Event::Put { current, previous });
            (key, change)
        };
        Some((key, change.ok_or(StoreError::Compacted(at))))
    }
}

/// etcd's revisions are never negative.
pub(super) fn revision(number: i64) -> Revision {
    Revision::try_from(number).unwrap_or(0)
}

/// etcd says 0 for "now"; its first revision, 1, is as empty as our 0.
pub(super) fn number(revision: Revision) -> i64 {
    i64::try_from(revision.max(1)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(key: &str, end: &str) -> Option<KeyRange> {
        Some(KeyRange {
            key: Bytes::copy_from_slice(key.as_bytes()),
            end: Bytes::copy_from_slice(end.as_bytes()),
        })
    }

    #[test]
    fn keys_lie_under_the_prefix() {
        let keys = Keys::new("/registry", "/other/");
        let there = keys.there("/registry/pods/a/b").unwrap();
        assert_eq!(there, "/other/pods/a/b");
        assert_eq!(keys.here(&there).as_deref(), Some("/registry/pods/a/b"));
        assert_eq!(keys.here(b"/others/pods"), None);
        assert_eq!(keys.here(b"/registry/pods"), None);
        assert_eq!(keys.here(b"/other/\xff"), None);
        assert!(keys.there("/registryx/pods").is_err());
        assert!(keys.there("").is_err());
    }

    #[test]
    fn ranges_hold_what_starts_with_the_prefix() {
        let keys = Keys::new("/registry", "/other");
        for all in ["", "/", "/reg", "/registry", "/registry/"] {
            assert_eq!(keys.range(all), range("/other/", "/other0"), "{all}");
        }
        assert_eq!(keys.range("/registry/po"), range("/other/po", "/other/pp"));
        assert_eq!(keys.range("/other/"), None);
        assert_eq!(keys.range("/registryx"), None);
        assert_eq!(KeyRange::starting_with(""), KeyRange::everything());
        let open = Keys::new("", "");
        assert_eq!(open.range(""), range("/", "0"));
    }

    #[test]
    fn a_page_goes_on_where_it_is_told() {
        let keys = Keys::new("/registry", "/r");
        let pods = || keys.range("/registry/pods/").unwrap();
        for (from, expected) in [
            ("", range("/r/pods/", "/r/pods0")),
            ("/a", range("/r/pods/", "/r/pods0")),
            ("/registry/a", range("/r/pods/", "/r/pods0")),
            ("/registry/pods/x\0", range("/r/pods/x\0", "/r/pods0")),
            ("/registry/z", None),
            ("/z", None),
        ] {
            assert_eq!(keys.not_below(pods(), from), expected, "{from}");
        }
    }

    #[test]
    fn a_change_without_its_past_is_an_error() {
        let keys = Keys::new("", "");
        let state = |version, revision| messages::KeyValue {
            key: "/a".into(),
            version,
            create_revision: 3,
            mod_revision: revision,
            ..messages::KeyValue::default()
        };
        let event = |kind, version, previous: Option<i64>| {
            let event = messages::Event {
                r#type: kind,
                kv: Some(state(version, 7)),
                prev_kv: previous.map(|revision| state(1, revision)),
            };
            keys.event(event).unwrap().1
        };
        assert!(matches!(
            event(0, 1, None),
            Ok(Event::Put { previous: None, .. })
        ));
        assert!(matches!(event(0, 2, Some(5)), Ok(Event::Put { .. })));
        assert!(matches!(
            event(1, 0, Some(5)),
            Ok(Event::Delete { revision: 7, .. })
        ));
        assert!(matches!(event(0, 2, None), Err(StoreError::Compacted(7))));
        assert!(matches!(event(1, 0, None), Err(StoreError::Compacted(7))));
    }
}
