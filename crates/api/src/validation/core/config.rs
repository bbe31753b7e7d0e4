//! ConfigMaps and Secrets.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{count, entries, entry, set, text};
use crate::validation::names;
use crate::validation::values::{all_invalid, immutable};

/// The most that one object may hold.
const SIZE_MAX: usize = 1024 * 1024;
const SEALED: &str = "field is immutable when `immutable` is set";

/// What is wrong with a new ConfigMap, its metadata aside.
#[must_use]
pub fn validate_config_map(map: &ConfigMap) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut size = 0;
    for (key, value) in entries(&map.data) {
        let path = Path::new("data").key(key);
        all_invalid(&mut errors, &path, key, names::config_key(key));
        if entry(&map.binary_data, key).is_some() {
            let detail = "duplicate of key present in binaryData";
            errors.push(FieldError::invalid(&path, key, detail));
        }
        size += value.len();
    }
    for (key, value) in entries(&map.binary_data) {
        all_invalid(
            &mut errors,
            &Path::new("binaryData").key(key),
            key,
            names::config_key(key),
        );
        size += value.0.len();
    }
    if size > SIZE_MAX {
        errors.push(FieldError::too_long(&Path::nameless(), SIZE_MAX));
    }
    errors
}

/// What is wrong with a changed ConfigMap, its metadata aside.
#[must_use]
pub fn validate_config_map_update(new: &ConfigMap, old: &ConfigMap) -> ErrorList {
    let mut errors = ErrorList::new();
    if set(old.immutable) {
        for (name, changed) in [
            ("immutable", !set(new.immutable)),
            ("data", differs(&new.data, &old.data)),
            ("binaryData", differs(&new.binary_data, &old.binary_data)),
        ] {
            if changed {
                errors.push(FieldError::forbidden(&Path::new(name), SEALED));
            }
        }
    }
    errors.extend(validate_config_map(new));
    errors
}

fn differs<V: PartialEq>(
    new: &Option<BTreeMap<String, V>>,
    old: &Option<BTreeMap<String, V>>,
) -> bool {
    !(new == old || count(new) + count(old) == 0)
}

/// What is wrong with a new Secret, its metadata aside.
#[must_use]
pub fn validate_secret(secret: &Secret) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("data");
    for (key, _) in entries(&secret.data) {
        all_invalid(&mut errors, &path.key(key), key, names::config_key(key));
    }
    let size: usize = entries(&secret.data).map(|(_, value)| value.0.len()).sum();
    if size > SIZE_MAX {
        errors.push(FieldError::too_long(&path, SIZE_MAX));
    }
    let there = |key: &str| entry(&secret.data, key).is_some();
    let needed: &[&str] = match text(&secret.type_) {
        "kubernetes.io/service-account-token" => {
            const KEY: &str = "kubernetes.io/service-account.name";
            if entry(&secret.metadata.annotations, KEY).is_none_or(String::is_empty) {
                let path = Path::new("metadata").child("annotations").key(KEY);
                errors.push(FieldError::required(&path, ""));
            }
            &[]
        }
        "kubernetes.io/dockercfg" => {
            docker_config(
                &mut errors,
                entry(&secret.data, ".dockercfg"),
                &path.key(".dockercfg"),
            );
            &[]
        }
        "kubernetes.io/dockerconfigjson" => {
            let key = ".dockerconfigjson";
            docker_config(&mut errors, entry(&secret.data, key), &path.key(key));
            &[]
        }
        "kubernetes.io/basic-auth" if !there("username") && !there("password") => {
            &["username", "password"]
        }
        "kubernetes.io/ssh-auth" => {
            const KEY: &str = "ssh-privatekey";
            if entry(&secret.data, KEY).is_none_or(|key| key.0.is_empty()) {
                errors.push(FieldError::required(&path.key(KEY), ""));
            }
            &[]
        }
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        _ => &[],
    };
    for key in needed.iter().filter(|key| !there(key)) {
        errors.push(FieldError::required(&path.key(key), ""));
    }
    errors
}

fn docker_config(errors: &mut ErrorList, value: Option<&ByteString>, path: &Path) {
    type Map = serde_json::Map<String, serde_json::Value>;
    match value {
        None => errors.push(FieldError::required(path, "")),
        Some(value) => {
            if let Err(error) = serde_json::from_slice::<Option<Map>>(&value.0) {
                let detail = go_json_error(&value.0, &error);
                errors.push(FieldError::invalid(
                    path,
                    "<secret contents redacted>",
                    &detail,
                ));
            }
        }
    }
}

/// The error in the words of Go's JSON reader, for the common mistakes.
fn go_json_error(text: &[u8], error: &serde_json::Error) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    match text.iter().find(|c| !c.is_ascii_whitespace()) {
        Some(b'{') | None => error.to_string(),
        Some(c) if !b"[\"tfn-0123456789".contains(c) => format!(
            "invalid character {:?} looking for beginning of value",
            char::from(*c)
        ),
        Some(_) => error.to_string(),
    }
}

/// What is wrong with a changed Secret, its metadata aside.
#[must_use]
pub fn validate_secret_update(new: &Secret, old: &Secret) -> ErrorList {
    let mut errors = ErrorList::new();
    let (kind, old_kind) = (text(&new.type_), text(&old.type_));
    immutable(&mut errors, &Path::new("type"), &kind, &old_kind, kind);
    if set(old.immutable) {
        for (name, changed) in [
            ("immutable", !set(new.immutable)),
            ("data", differs(&new.data, &old.data)),
        ] {
            if changed {
                errors.push(FieldError::forbidden(&Path::new(name), SEALED));
            }
        }
    }
    errors.extend(validate_secret(new));
    errors
}

/// What the client is told about a Secret: a TLS pair that holds no certificate or no key.
#[must_use]
pub fn warnings_secret(new: &Secret, _old: Option<&Secret>) -> Vec<String> {
    if text(&new.type_) != "kubernetes.io/tls" {
        return Vec::new();
    }
    let has = |key: &str, what: &str| {
        let pem = entry(&new.data, key).map(|value| String::from_utf8_lossy(&value.0).into_owned());
        pem.is_some_and(|pem| {
            pem.lines()
                .any(|line| line.starts_with("-----BEGIN ") && line.contains(what))
        })
    };
    let input = if !has("tls.crt", "CERTIFICATE-----") {
        "certificate"
    } else if !has("tls.key", "PRIVATE KEY-----") {
        "key"
    } else {
        return Vec::new();
    };
    vec![format!("tls: failed to find any PEM data in {input} input")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn secret_errors(secret: Value) -> Vec<String> {
        let mut secret: Secret = serde_json::from_value(secret).unwrap_or_default();
        crate::defaults::core::default_secret(&mut secret);
        validate_secret(&secret)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn secret_types() {
        let table: [(Value, &[&str]); 5] = [
            (json!({"stringData": {"a": "b"}}), &[]),
            (
                json!({"type": "kubernetes.io/tls", "stringData": {"tls.crt": "x"}}),
                &["data[tls.key]: Required value"],
            ),
            (
                json!({"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": "{"}}),
                &[
                    "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": unexpected end of JSON input",
                ],
            ),
            (
                json!({"type": "kubernetes.io/basic-auth"}),
                &[
                    "data[username]: Required value",
                    "data[password]: Required value",
                ],
            ),
            (
                json!({"type": "kubernetes.io/service-account-token"}),
                &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
            ),
        ];
        for (secret, expected) in table {
            assert_eq!(secret_errors(secret.clone()), expected, "{secret}");
        }
    }

    #[test]
    fn keys_and_seals() {
        let map: ConfigMap = serde_json::from_value(
            json!({"data": {"a b": "", "c": ""}, "binaryData": {"c": ""}, "immutable": true}),
        )
        .unwrap_or_default();
        let texts = |errors: ErrorList| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            texts(validate_config_map(&map)),
            [
                "data[a b]: Invalid value: \"a b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
                "data[c]: Invalid value: \"c\": duplicate of key present in binaryData",
            ]
        );
        let empty = ConfigMap::default();
        assert_eq!(
            texts(validate_config_map_update(&empty, &map)),
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
                "binaryData: Forbidden: field is immutable when `immutable` is set",
            ]
        );
    }
}
