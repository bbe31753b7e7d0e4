//! The files that a volume of an object's keys consists of.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use k8s_openapi::api::core::v1::{ConfigMap, KeyToPath, Secret};

use crate::volumes::VolumeError;

/// The permissions of files whose volume says none.
pub const DEFAULT_MODE: i32 = 0o644;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its content.
    pub content: Vec<u8>,
    /// Its permissions.
    pub mode: u32,
    /// Its owner, when it is not root.
    pub owner: Option<u32>,
}

/// Files by their path in the volume.
pub type Payload = BTreeMap<String, File>;

/// Which keys of an object become files, and where.
#[derive(Clone, Copy, Debug)]
pub struct Selection<'a> {
    /// The keys; all when there is no list.
    pub items: Option<&'a [KeyToPath]>,
    /// The permissions of files that say none.
    pub default_mode: i32,
    /// Whether missing keys are fine.
    pub optional: bool,
}

/// The files of a ConfigMap.
pub fn of_config_map(map: &ConfigMap, selection: &Selection<'_>) -> Result<Payload, VolumeError> {
    let mut contents: BTreeMap<&str, &[u8]> = BTreeMap::new();
    for (key, value) in map.data.iter().flatten() {
        contents.insert(key, value.as_bytes());
    }
    for (key, value) in map.binary_data.iter().flatten() {
        contents.insert(key, &value.0);
    }
    select(&contents, selection, "config")
}

/// The files of a Secret.
pub fn of_secret(secret: &Secret, selection: &Selection<'_>) -> Result<Payload, VolumeError> {
    let data = secret.data.iter().flatten();
    let contents = data.map(|(key, value)| (key.as_str(), value.0.as_slice()));
    select(&contents.collect(), selection, "secret")
}

fn select(
    contents: &BTreeMap<&str, &[u8]>,
    selection: &Selection<'_>,
    kind: &'static str,
) -> Result<Payload, VolumeError> {
    let file = |content: &[u8], mode: i32| File {
        content: content.to_vec(),
        mode: u32::try_from(mode).unwrap_or(0o644) & 0o777,
        owner: None,
    };
    let Some(items) = selection.items.filter(|items| !items.is_empty()) else {
        let all = contents.iter();
        return Ok(all
            .map(|(key, content)| ((*key).to_owned(), file(content, selection.default_mode)))
            .collect());
    };
    let mut payload = Payload::new();
    for item in items {
        let Some(content) = contents.get(item.key.as_str()) else {
            if selection.optional {
                continue;
            }
            return Err(VolumeError::NoKey {
                kind,
                key: item.key.clone(),
            });
        };
        check_path(&item.path)?;
        let mode = item.mode.unwrap_or(selection.default_mode);
        payload.insert(item.path.clone(), file(content, mode));
    }
    Ok(payload)
}

/// Refuses paths that lead out of the volume or clash with the writer's own names.
pub fn check_path(path: &str) -> Result<(), VolumeError> {
    let relative = Path::new(path)
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if path.is_empty() || !relative || path.starts_with("..") {
        return Err(VolumeError::Path(path.to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> ConfigMap {
        ConfigMap {
            data: Some([("a".into(), "1".into()), ("b".into(), "2".into())].into()),
            ..Default::default()
        }
    }

    fn item(key: &str, path: &str, mode: Option<i32>) -> KeyToPath {
        KeyToPath {
            key: key.into(),
            path: path.into(),
            mode,
        }
    }

    fn selected(items: &[KeyToPath], optional: bool) -> Result<Payload, VolumeError> {
        let selection = Selection {
            items: Some(items),
            default_mode: 0o400,
            optional,
        };
        of_config_map(&map(), &selection)
    }

    #[test]
    fn all_keys_or_some() {
        assert_eq!(selected(&[], false).unwrap().len(), 2);
        let some = selected(&[item("a", "x/y", Some(0o755))], false).unwrap();
        assert_eq!(some["x/y"].mode, 0o755);
        assert_eq!(some["x/y"].content, b"1");
    }

    #[test]
    fn missing_keys_and_bad_paths() {
        let error = selected(&[item("z", "z", None)], false).unwrap_err();
        assert_eq!(error.to_string(), "references non-existent config key: z");
        assert!(selected(&[item("z", "z", None)], true).unwrap().is_empty());
        for path in ["../x", "/x", "a/../b", "..x", ""] {
            assert!(selected(&[item("a", path, None)], false).is_err(), "{path}");
        }
    }
}
