//! `EncryptionConfiguration`: which resources are encrypted, and with what.

use std::collections::HashSet;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::Value;
use skiff_api::{ErrorList, FieldError, Path};

use super::EncryptionError;

/// The file as it is written.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct EncryptionConfiguration {
    api_version: String,
    kind: String,
    pub resources: Vec<ResourceConfiguration>,
}

/// Some resources and their providers: the first writes, all read.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ResourceConfiguration {
    pub resources: Vec<String>,
    pub providers: Vec<ProviderConfiguration>,
}

/// One provider; exactly one field is set.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ProviderConfiguration {
    pub identity: Option<Identity>,
    pub aesgcm: Option<Keys>,
    pub aescbc: Option<Keys>,
    pub secretbox: Option<Keys>,
    pub kms: Option<Kms>,
}

/// No encryption.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub(super) struct Identity {}

/// Keys by name: the first writes.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Keys {
    pub keys: Vec<Key>,
}

/// A key.
#[derive(Clone, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Key {
    pub name: String,
    /// Base64.
    pub secret: String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "key {:?}", self.name)
    }
}

/// A key management service behind a unix socket.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct Kms {
    pub api_version: Option<String>,
    pub name: String,
    pub cachesize: Option<i64>,
    pub endpoint: String,
    pub timeout: Option<String>,
}

impl Kms {
    /// How long a call may take; 3 s when nothing is said.
    pub fn timeout(&self) -> Option<Duration> {
        match self.timeout.as_deref() {
            None => Some(Duration::from_secs(3)),
            Some(text) => crate::duration::parse(text).filter(|timeout| !timeout.is_zero()),
        }
    }

    /// The version of the service's API; v1 when nothing is said, as upstream.
    pub fn version(&self) -> &str {
        self.api_version.as_deref().unwrap_or("v1")
    }

    /// The socket.
    pub fn socket(&self) -> Option<std::path::PathBuf> {
        let rest = self.endpoint.strip_prefix("unix://")?;
        // An abstract socket is written `unix:///@name`.
        let rest = match rest.strip_prefix("/@") {
            Some(name) => format!("\0{name}"),
            None => rest.to_owned(),
        };
        Some(rest.into())
    }
}

/// A resource as the file names it, `secrets`, `deployments.apps`, `*.apps`, `*.` or `*.*`: group, then resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Pattern {
    pub group: String,
    pub resource: String,
}

impl Pattern {
    pub fn parse(text: &str) -> Self {
        let (resource, group) = text.split_once('.').unwrap_or((text, ""));
        Self {
            group: group.to_owned(),
            resource: resource.to_owned(),
        }
    }

    pub fn any() -> Self {
        Self::parse("*.*")
    }

    /// The same as text.
    pub fn text(&self) -> String {
        match (self.group.as_str(), self.resource.as_str()) {
            ("", "*") => "*.".to_owned(),
            ("", resource) => resource.to_owned(),
            (group, resource) => format!("{resource}.{group}"),
        }
    }
}

impl EncryptionConfiguration {
    /// Reads and checks a file's text.
    pub fn parse(text: &str) -> Result<Self, EncryptionError> {
        if text.trim().is_empty() {
            return Err(EncryptionError::new("the file is empty"));
        }
        let read: Self = skiff_api::schema::body::parse_configuration(text.as_bytes())
            .map_err(|error| EncryptionError::new(format!("not understood: {error}")))?;
        let known = matches!(
            read.api_version.as_str(),
            "apiserver.config.k8s.io/v1" | "v1"
        );
        if read.kind != "EncryptionConfiguration" || !known {
            return Err(EncryptionError::new(format!(
                "no kind \"{}\" is registered for version \"{}\"",
                read.kind, read.api_version
            )));
        }
        let errors = read.validate();
        if errors.is_empty() {
            return Ok(read);
        }
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        Err(EncryptionError::new(match texts.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        }))
    }

    fn validate(&self) -> ErrorList {
        let root = Path::new("resources");
        let mut errors = ErrorList::new();
        if self.resources.is_empty() {
            errors.push(FieldError::required(
                &root,
                "at least one resources is required",
            ));
            return errors;
        }
        let mut names = HashSet::new();
        for (at, rule) in self.resources.iter().enumerate() {
            let path = root.index(at);
            let (resources, providers) = (path.child("resources"), path.child("providers"));
            if rule.resources.is_empty() {
                let text = format!("at least one {resources} is required");
                errors.push(FieldError::required(&resources, &text));
            }
            overlaps(&rule.resources, &resources, &mut errors);
            for (at, name) in rule.resources.iter().enumerate() {
                if let Some(why) = bad_resource(name) {
                    errors.push(FieldError::invalid(
                        &resources.index(at),
                        name.as_str(),
                        why,
                    ));
                }
            }
            if rule.providers.is_empty() {
                let text = format!("at least one {providers} is required");
                errors.push(FieldError::required(&providers, &text));
            }
            for (at, provider) in rule.providers.iter().enumerate() {
                provider.validate(&providers.index(at), &mut names, &mut errors);
            }
        }
        errors
    }
}

fn overlaps(resources: &[String], path: &Path, errors: &mut ErrorList) {
    let patterns: Vec<Pattern> = resources.iter().map(|text| Pattern::parse(text)).collect();
    let pairs = || {
        patterns
            .iter()
            .enumerate()
            .flat_map(|(at, one)| patterns.iter().skip(at + 1).map(move |other| (one, other)))
    };
    let shown = || Value::from(resources.to_vec());
    if pairs().any(|(one, other)| one == other) {
        let why = "the same resource cannot be specified multiple times";
        errors.push(FieldError::invalid(path, shown(), why));
    }
    let any = Pattern::any();
    let masked = pairs().any(|(one, other)| {
        let star = one.resource == "*" || other.resource == "*";
        one != other && (*one == any || *other == any || (one.group == other.group && star))
    });
    if masked {
        let why = "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked";
        errors.push(FieldError::invalid(path, shown(), why));
    }
}

fn bad_resource(name: &str) -> Option<&'static str> {
    if name.chars().any(char::is_uppercase) {
        return Some("resource name should not contain capital letters");
    }
    let pattern = Pattern::parse(name);
    match (name, pattern.group.as_str(), pattern.resource.as_str()) {
        ("*", ..) => Some(
            "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources",
        ),
        ("apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations", ..) => {
            Some("resources which do not have REST API/s cannot be encrypted")
        }
        (_, "events.k8s.io", _) => Some(
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file",
        ),
        (_, "extensions", _) => {
            Some("'extensions' group has been removed and cannot be used for encryption")
        }
        (_, "*", resource) if resource != "*" => {
            Some("encrypting the same resource across groups is not supported")
        }
        _ => None,
    }
}

impl ProviderConfiguration {
    fn validate(&self, path: &Path, names: &mut HashSet<String>, errors: &mut ErrorList) {
        let found = [
            self.identity.is_some(),
            self.aesgcm.is_some(),
            self.aescbc.is_some(),
            self.secretbox.is_some(),
            self.kms.is_some(),
        ];
        let why = match found.iter().filter(|found| **found).count() {
            0 => {
                "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity"
            }
            1 => "",
            _ => {
                "more than one provider specified in a single element, should split into different list elements"
            }
        };
        if !why.is_empty() {
            errors.push(FieldError::invalid(
                path,
                Value::Object(Default::default()),
                why,
            ));
        }
        if let Some(kms) = &self.kms {
            kms.validate(&path.child("kms"), names, errors);
        }
        let sets: [(&str, &Option<Keys>, &[usize]); 3] = [
            ("aesgcm", &self.aesgcm, &[16, 24, 32]),
            ("aescbc", &self.aescbc, &[16, 24, 32]),
            ("secretbox", &self.secretbox, &[32]),
        ];
        for (name, keys, lengths) in sets {
            if let Some(keys) = keys {
                keys.validate(&path.child(name).child("keys"), lengths, errors);
            }
        }
    }
}

impl Keys {
    fn validate(&self, path: &Path, lengths: &[usize], errors: &mut ErrorList) {
        if self.keys.is_empty() {
            errors.push(FieldError::required(path, "at least one keys is required"));
        }
        for (at, key) in self.keys.iter().enumerate() {
            let path = path.index(at);
            if key.name.is_empty() {
                let why = "name is a mandatory field for a key";
                errors.push(FieldError::required(&path.child("name"), why));
            }
            let path = path.child("secret");
            if key.secret.is_empty() {
                let why = "secret is a mandatory field for a key";
                errors.push(FieldError::required(&path, why));
                continue;
            }
            let why = match STANDARD.decode(&key.secret) {
                Err(_) => "secrets must be base64 encoded".to_owned(),
                Ok(secret) if !lengths.contains(&secret.len()) => format!(
                    "secret is not of the expected length, got {}, expected one of [{}]",
                    secret.len(),
                    lengths
                        .iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join(" ")
                ),
                Ok(_) => continue,
            };
            errors.push(FieldError::invalid(&path, "REDACTED", &why));
        }
    }
}

impl Kms {
    fn validate(&self, path: &Path, names: &mut HashSet<String>, errors: &mut ErrorList) {
        let field = path.child("name");
        if self.name.is_empty() {
            let why = "name is a mandatory field for a provider";
            errors.push(FieldError::required(&field, why));
        } else if self.version() != "v1" && self.name.contains(':') {
            let why = format!(
                "invalid KMS provider name {}, must not contain ':'",
                self.name
            );
            errors.push(FieldError::invalid(&field, self.name.as_str(), &why));
        } else if !names.insert(self.name.clone()) {
            let why = format!(
                "duplicate KMS provider name {}, names must be unique",
                self.name
            );
            errors.push(FieldError::invalid(&field, self.name.as_str(), &why));
        }
        if self.timeout().is_none() {
            let shown = self.timeout.as_deref().unwrap_or_default();
            let why = "timeout should be a positive value";
            errors.push(FieldError::invalid(&path.child("timeout"), shown, why));
        }
        let field = path.child("endpoint");
        let scheme = self
            .endpoint
            .split_once("://")
            .map_or("", |(scheme, _)| scheme);
        if self.endpoint.is_empty() {
            let why = "endpoint is a mandatory field for a kms";
            errors.push(FieldError::invalid(&field, "", why));
        } else if scheme != "unix" {
            let why =
                format!("unsupported scheme {scheme:?} for KMS provider, only unix is supported");
            errors.push(FieldError::invalid(&field, self.endpoint.as_str(), &why));
        }
        if let (true, Some(size)) = (self.version() != "v1", self.cachesize) {
            let why = "cachesize is not supported in v2";
            errors.push(FieldError::invalid(&path.child("cachesize"), size, why));
        }
        if !matches!(self.version(), "v1" | "v2") {
            let why = format!(
                "unsupported apiVersion {} for KMS provider, only v1 and v2 are supported",
                self.version()
            );
            errors.push(FieldError::invalid(
                &path.child("apiVersion"),
                self.version(),
                &why,
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(rules: &str) -> String {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: {rules}"
        );
        EncryptionConfiguration::parse(&text)
            .map(|_| String::new())
            .unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn configurations_are_checked_in_upstreams_words() {
        let key = "{name: a, secret: AAAAAAAAAAAAAAAAAAAAAA==}";
        let cases: &[(&str, &str)] = &[
            (
                "[]",
                "resources: Required value: at least one resources is required",
            ),
            (
                "[{resources: [secrets], providers: []}]",
                "resources[0].providers: Required value: at least one resources[0].providers is required",
            ),
            (
                "[{resources: [Secrets], providers: [{identity: {}}]}]",
                "resources[0].resources[0]: Invalid value: \"Secrets\": resource name should not contain capital letters",
            ),
            (
                "[{resources: ['*'], providers: [{identity: {}}]}]",
                "resources[0].resources[0]: Invalid value: \"*\": use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources",
            ),
            (
                "[{resources: [secrets], providers: [{aesgcm: {keys: [{name: a, secret: AAAA}]}}]}]",
                "resources[0].providers[0].aesgcm.keys[0].secret: Invalid value: \"REDACTED\": secret is not of the expected length, got 3, expected one of [16 24 32]",
            ),
            (
                "[{resources: [secrets], providers: [{kms: {apiVersion: v2, name: a, endpoint: 'tcp://x'}}]}]",
                "resources[0].providers[0].kms.endpoint: Invalid value: \"tcp://x\": unsupported scheme \"tcp\" for KMS provider, only unix is supported",
            ),
        ];
        for (rules, wanted) in cases {
            assert_eq!(refused(rules), *wanted);
        }
        let overlapping = "[{resources: [secrets, '*.'], providers: [{identity: {}}]}]";
        assert!(refused(overlapping).contains("overlapping resources"));
        for good in ["secrets", "'*.*'", "'*.apps', pods", "deployments.apps"] {
            let rules = format!(
                "[{{resources: [{good}], providers: [{{aesgcm: {{keys: [{key}]}}}}, {{identity: {{}}}}]}}]"
            );
            assert_eq!(refused(&rules), "");
        }
        assert!(refused("[{resourcez: []}]").contains("not understood"));
    }
}
