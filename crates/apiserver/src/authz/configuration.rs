//! The structured authorization configuration: who is asked what users may do, in which order.

use std::collections::BTreeSet;
use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use skiff_api::{ErrorList, FieldError, Path};

use crate::duration;

const VERSIONS: [&str; 3] = [
    "apiserver.config.k8s.io/v1",
    "apiserver.config.k8s.io/v1beta1",
    "apiserver.config.k8s.io/v1alpha1",
];
/// The kinds of authorizer there are.
pub const TYPES: [&str; 5] = ["AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"];
const LONGEST_TIMEOUT: Duration = Duration::from_secs(30);
const MOST_CONDITIONS: usize = 64;

/// `AuthorizationConfiguration`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AuthorizationConfiguration {
    api_version: String,
    kind: String,
    /// In the order in which they are asked.
    pub authorizers: Vec<AuthorizerConfig>,
}

/// One authorizer.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AuthorizerConfig {
    /// One of [`TYPES`].
    #[serde(rename = "type")]
    pub kind: String,
    /// What metrics and errors call it.
    pub name: String,
    /// Of a webhook.
    pub webhook: Option<WebhookConfig>,
}

/// How a webhook is asked.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the names are upstream's own")]
pub struct WebhookConfig {
    #[serde(rename = "authorizedTTL")]
    pub authorized_ttl: String,
    pub cache_authorized_requests: Option<bool>,
    #[serde(rename = "unauthorizedTTL")]
    pub unauthorized_ttl: String,
    pub cache_unauthorized_requests: Option<bool>,
    pub timeout: String,
    pub subject_access_review_version: String,
    pub match_condition_subject_access_review_version: String,
    pub failure_policy: String,
    pub connection_info: ConnectionInfo,
    pub match_conditions: Vec<MatchCondition>,
}

/// Where a webhook is.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the names are upstream's own")]
pub struct ConnectionInfo {
    #[serde(rename = "type")]
    pub kind: String,
    pub kube_config_file: Option<PathBuf>,
}

/// An expression that must hold for the webhook to be asked.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the names are upstream's own")]
pub struct MatchCondition {
    pub expression: String,
}

fn time(text: &str, default: Duration) -> Option<Duration> {
    match text {
        "" => Some(default),
        text => duration::parse(text).map(|time| if time.is_zero() { default } else { time }),
    }
}

impl WebhookConfig {
    /// How long an allowance is kept; zero: not at all.
    #[must_use]
    pub fn allowed_for(&self) -> Duration {
        let ttl = time(&self.authorized_ttl, Duration::from_secs(300)).unwrap_or_default();
        match self.cache_authorized_requests {
            Some(false) => Duration::ZERO,
            _ => ttl,
        }
    }

    /// How long a refusal is kept; zero: not at all.
    #[must_use]
    pub fn refused_for(&self) -> Duration {
        let ttl = time(&self.unauthorized_ttl, Duration::from_secs(30)).unwrap_or_default();
        match self.cache_unauthorized_requests {
            Some(false) => Duration::ZERO,
            _ => ttl,
        }
    }

    /// How long an answer is waited for.
    #[must_use]
    pub fn patience(&self) -> Duration {
        time(&self.timeout, Duration::ZERO).unwrap_or_default()
    }

    fn validate(&self, path: &Path) -> ErrorList {
        let mut errors = ErrorList::new();
        match time(&self.timeout, Duration::ZERO) {
            Some(Duration::ZERO) => errors.push(FieldError::required(&path.child("timeout"), "")),
            Some(timeout) if timeout <= LONGEST_TIMEOUT => {}
            _ => {
                let why = "must be > 0s and <= 30s";
                errors.push(FieldError::invalid(
                    &path.child("timeout"),
                    &self.timeout,
                    why,
                ));
            }
        }
        for (name, text) in [
            ("authorizedTTL", &self.authorized_ttl),
            ("unauthorizedTTL", &self.unauthorized_ttl),
        ] {
            if time(text, LONGEST_TIMEOUT).is_none() {
                errors.push(FieldError::invalid(&path.child(name), text, "must be > 0s"));
            }
        }
        let choice = |name: &str, found: &str, known: &[&str]| {
            let path = path.child(name);
            match found {
                "" => Some(FieldError::required(&path, "")),
                found if known.contains(&found) => None,
                found => Some(FieldError::not_supported(&path, found, known)),
            }
        };
        let version = &self.subject_access_review_version;
        errors.extend(choice(
            "subjectAccessReviewVersion",
            version,
            &["v1", "v1beta1"],
        ));
        let name = "matchConditionSubjectAccessReviewVersion";
        let version = &self.match_condition_subject_access_review_version;
        if version.is_empty() && !self.match_conditions.is_empty() {
            let why = "required if match conditions are specified";
            errors.push(FieldError::required(&path.child(name), why));
        } else if !version.is_empty() {
            errors.extend(choice(name, version, &["v1"]));
        }
        errors.extend(choice(
            "failurePolicy",
            &self.failure_policy,
            &["NoOpinion", "Deny"],
        ));
        errors.extend(self.connection_info.validate(&path.child("connectionInfo")));
        errors.extend(self.check_conditions(&path.child("matchConditions")));
        errors
    }

    fn check_conditions(&self, root: &Path) -> ErrorList {
        let mut errors = ErrorList::new();
        let conditions = &self.match_conditions;
        if conditions.len() > MOST_CONDITIONS {
            errors.push(FieldError::too_many(
                root,
                conditions.len(),
                MOST_CONDITIONS,
            ));
            return errors;
        }
        let mut seen = BTreeSet::new();
        for (index, condition) in conditions.iter().enumerate() {
            let (path, text) = (root.index(index).child("expression"), &condition.expression);
            if text.trim().is_empty() {
                errors.push(FieldError::required(&path, ""));
            } else if !seen.insert(text) {
                errors.push(FieldError::duplicate(&path, text));
            } else if let Err(why) = super::condition::Condition::compile(text) {
                errors.push(FieldError::invalid(&path, text, &why));
            }
        }
        errors
    }
}

impl ConnectionInfo {
    fn validate(&self, path: &Path) -> ErrorList {
        let mut errors = ErrorList::new();
        let file = self.kube_config_file.as_deref();
        let shown = file.unwrap_or(FilePath::new("")).display().to_string();
        let file_path = path.child("kubeConfigFile");
        match self.kind.as_str() {
            "" => errors.push(FieldError::required(&path.child("type"), "")),
            "InClusterConfig" => {
                if file.is_some() {
                    let why = "can only be set when type=KubeConfigFile";
                    errors.push(FieldError::invalid(&file_path, &shown, why));
                }
            }
            "KubeConfigFile" if shown.is_empty() => {
                errors.push(FieldError::required(&file_path, ""));
            }
            "KubeConfigFile" => {
                let file = FilePath::new(&shown);
                if !file.is_absolute() {
                    let why = "must be an absolute path";
                    errors.push(FieldError::invalid(&file_path, &shown, why));
                } else if !file.exists() {
                    let why = "error loading file: no such file or directory";
                    errors.push(FieldError::invalid(&file_path, &shown, why));
                } else if !file.is_file() {
                    let why = "must be a regular file";
                    errors.push(FieldError::invalid(&file_path, &shown, why));
                }
            }
            other => {
                let known = ["InClusterConfig", "KubeConfigFile"];
                errors.push(FieldError::not_supported(
                    &path.child("type"),
                    other,
                    &known,
                ));
            }
        }
        errors
    }
}

impl AuthorizationConfiguration {
    /// Reads YAML or JSON; unknown fields are refused.
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = skiff_api::schema::body::parse_configuration(text.as_bytes())?;
        if config.kind != "AuthorizationConfiguration"
            || !VERSIONS.contains(&config.api_version.as_str())
        {
            return Err(format!(
                "no kind {:?} is registered for version {:?}",
                config.kind, config.api_version
            ));
        }
        Ok(config)
    }

    /// The modes of a flag, in their order; `webhook`: what the mode of that name asks.
    #[must_use]
    pub fn of(modes: &[String], webhook: Option<&WebhookConfig>) -> Self {
        let authorizers = modes.iter().map(|mode| AuthorizerConfig {
            kind: mode.clone(),
            name: mode.to_lowercase(),
            webhook: webhook.filter(|_| mode == "Webhook").cloned(),
        });
        Self {
            authorizers: authorizers.collect(),
            ..Self::default()
        }
    }

    /// What is wrong with the configuration.
    #[must_use]
    pub fn validate(&self) -> ErrorList {
        let root = Path::new("authorizers");
        let mut errors = ErrorList::new();
        if self.authorizers.is_empty() {
            let why = "at least one authorization mode must be defined";
            errors.push(FieldError::required(&root, why));
        }
        let (mut kinds, mut names) = (BTreeSet::new(), BTreeSet::new());
        for (index, authorizer) in self.authorizers.iter().enumerate() {
            let path = root.index(index);
            let (kind, name) = (&authorizer.kind, &authorizer.name);
            let kind_path = path.child("type");
            if kind.is_empty() {
                errors.push(FieldError::required(&kind_path, ""));
                continue;
            }
            if !TYPES.contains(&kind.as_str()) {
                errors.push(FieldError::not_supported(&kind_path, kind, &TYPES));
                continue;
            }
            if !kinds.insert(kind) && kind != "Webhook" {
                errors.push(FieldError::duplicate(&kind_path, kind));
                continue;
            }
            let name_path = path.child("name");
            if name.is_empty() {
                errors.push(FieldError::required(&name_path, ""));
            } else if names.contains(name) {
                errors.push(FieldError::duplicate(&name_path, name));
            } else if !crate::authn::impersonation::is_subdomain(name) {
                let why = "authorizer name is invalid: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
                errors.push(FieldError::invalid(&name_path, name, why));
            }
            names.insert(name);
            let path = path.child("webhook");
            match (&authorizer.webhook, kind == "Webhook") {
                (None, true) => {
                    errors.push(FieldError::required(&path, "required when type=Webhook"));
                }
                // As upstream, the webhook's fields are told under the authorizer.
                (Some(webhook), true) => errors.extend(webhook.validate(&root.index(index))),
                (Some(_), false) => {
                    let why = "may only be specified when type=Webhook";
                    errors.push(FieldError::invalid(&path, "non-null", why));
                }
                (None, false) => {}
            }
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(yaml: &str) -> Vec<String> {
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\n";
        let config = AuthorizationConfiguration::parse(&format!("{head}{yaml}")).unwrap();
        config.validate().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn good_configurations_pass_and_mistakes_are_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().display();
        let good = format!(
            "authorizers:\n- {{type: Node, name: node}}\n- {{type: RBAC, name: rbac}}\n- type: Webhook\n  name: hook\n  webhook:\n    timeout: 3s\n    authorizedTTL: 1m\n    cacheUnauthorizedRequests: false\n    subjectAccessReviewVersion: v1\n    failurePolicy: NoOpinion\n    connectionInfo: {{type: KubeConfigFile, kubeConfigFile: {path}}}\n"
        );
        assert_eq!(texts(&good), [""; 0]);
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\n";
        let config = AuthorizationConfiguration::parse(&format!("{head}{good}")).unwrap();
        let webhook = config.authorizers[2].webhook.as_ref().unwrap();
        assert_eq!(webhook.patience(), Duration::from_secs(3));
        assert_eq!(webhook.allowed_for(), Duration::from_secs(60));
        assert_eq!(webhook.refused_for(), Duration::ZERO);
        assert_eq!(
            texts("authorizers: []"),
            ["authorizers: Required value: at least one authorization mode must be defined"]
        );
        let bad = "authorizers:\n- {type: ABAC, name: a}\n- {type: RBAC, name: r}\n- {type: RBAC, name: r2}\n- {type: Node, name: r}\n- {type: Webhook, name: h}\n- type: Webhook\n  name: h2\n  webhook: {timeout: 31s, subjectAccessReviewVersion: v2, connectionInfo: {type: KubeConfigFile, kubeConfigFile: relative}}\n";
        assert_eq!(
            texts(bad),
            [
                "authorizers[0].type: Unsupported value: \"ABAC\": supported values: \"AlwaysAllow\", \"AlwaysDeny\", \"Node\", \"RBAC\", \"Webhook\"",
                "authorizers[2].type: Duplicate value: \"RBAC\"",
                "authorizers[3].name: Duplicate value: \"r\"",
                "authorizers[4].webhook: Required value: required when type=Webhook",
                "authorizers[5].timeout: Invalid value: \"31s\": must be > 0s and <= 30s",
                "authorizers[5].subjectAccessReviewVersion: Unsupported value: \"v2\": supported values: \"v1\", \"v1beta1\"",
                "authorizers[5].failurePolicy: Required value",
                "authorizers[5].connectionInfo.kubeConfigFile: Invalid value: \"relative\": must be an absolute path",
            ]
        );
    }
}
