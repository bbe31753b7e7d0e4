//! The audit policy: what is recorded of which requests.

use serde::Deserialize;
use skiff_api::{ErrorList, FieldError, Path};

use super::AuditError;
use crate::request::Attributes;

/// How much is recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// Nothing.
    #[default]
    None,
    /// Who, what, when.
    Metadata,
    /// And the request's object.
    Request,
    /// And the answer's object.
    RequestResponse,
}

impl Level {
    const ALL: [(Self, &'static str); 4] = [
        (Self::None, "None"),
        (Self::Metadata, "Metadata"),
        (Self::Request, "Request"),
        (Self::RequestResponse, "RequestResponse"),
    ];

    fn parse(text: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text);
        found.map(|(level, _)| *level)
    }

    pub fn text(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// When an event is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Before anything is done.
    RequestReceived,
    /// The headers of a long answer were sent.
    ResponseStarted,
    /// All is done.
    ResponseComplete,
    /// The handler broke.
    Panic,
}

impl Stage {
    const ALL: [(Self, &'static str); 4] = [
        (Self::RequestReceived, "RequestReceived"),
        (Self::ResponseStarted, "ResponseStarted"),
        (Self::ResponseComplete, "ResponseComplete"),
        (Self::Panic, "Panic"),
    ];

    fn parse(text: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, name)| *name == text);
        found.map(|(stage, _)| *stage)
    }

    pub fn text(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// Some stages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stages(u8);

impl Stages {
    fn of<'a>(names: impl Iterator<Item = &'a String>) -> Self {
        Self(
            names
                .filter_map(|name| Stage::parse(name))
                .fold(0, |bits, stage| bits | 1 << stage as u8),
        )
    }

    pub fn contains(self, stage: Stage) -> bool {
        self.0 & (1 << stage as u8) != 0
    }
}

/// What the policy says of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub level: Level,
    pub omit_stages: Stages,
    pub omit_managed_fields: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    api_version: String,
    kind: String,
    rules: Vec<WrittenRule>,
    omit_stages: Vec<String>,
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct WrittenRule {
    level: String,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

struct Rule {
    written: WrittenRule,
    verdict: Verdict,
}

/// A policy, ready to be asked.
pub(crate) struct Policy {
    rules: Vec<Rule>,
    otherwise: Verdict,
}

impl Policy {
    /// Reads and checks a policy file's text.
    pub fn parse(text: &str) -> Result<Self, AuditError> {
        let written: Written = skiff_api::schema::body::parse_configuration(text.as_bytes())
            .map_err(|error| AuditError::new(format!("failed decoding: {error}")))?;
        if written.api_version != "audit.k8s.io/v1" || written.kind != "Policy" {
            let (version, kind) = (&written.api_version, &written.kind);
            return Err(AuditError::new(format!(
                "unknown group version field {version}, Kind={kind} in policy"
            )));
        }
        let errors = written.validate();
        if !errors.is_empty() {
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            return Err(AuditError::new(match texts.as_slice() {
                [one] => one.clone(),
                many => format!("[{}]", many.join(", ")),
            }));
        }
        if written.rules.is_empty() {
            return Err(AuditError::new("loaded illegal policy with 0 rules"));
        }
        let common = &written.omit_stages;
        let rules = written.rules.iter().map(|rule| Rule {
            verdict: Verdict {
                level: Level::parse(&rule.level).unwrap_or_default(),
                omit_stages: Stages::of(common.iter().chain(&rule.omit_stages)),
                omit_managed_fields: rule
                    .omit_managed_fields
                    .unwrap_or(written.omit_managed_fields),
            },
            written: rule.clone(),
        });
        Ok(Self {
            rules: rules.collect(),
            otherwise: Verdict {
                level: Level::None,
                omit_stages: Stages::of(common.iter()),
                omit_managed_fields: written.omit_managed_fields,
            },
        })
    }

    /// What is recorded of a request: the first rule that it matches says so.
    pub fn evaluate(&self, attributes: &Attributes) -> Verdict {
        self.rules
            .iter()
            .find(|rule| rule.written.matches(attributes))
            .map_or(self.otherwise, |rule| rule.verdict)
    }
}

fn has(list: &[String], value: &str) -> bool {
    list.iter().any(|have| have == value)
}

impl WrittenRule {
    fn matches(&self, attributes: &Attributes) -> bool {
        let user = &attributes.user;
        let in_group = |groups: &[String]| user.groups.iter().any(|group| has(groups, group));
        if (!self.users.is_empty() && !has(&self.users, &user.name))
            || (!self.user_groups.is_empty() && !in_group(&self.user_groups))
            || (!self.verbs.is_empty() && !has(&self.verbs, &attributes.verb))
        {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return attributes.is_resource
                && (self.namespaces.is_empty() || has(&self.namespaces, &attributes.namespace))
                && (self.resources.is_empty()
                    || self.resources.iter().any(|some| some.matches(attributes)));
        }
        if self.non_resource_urls.is_empty() {
            return true;
        }
        let path = &attributes.path;
        let matching = |spec: &String| {
            spec == path
                || spec
                    .strip_suffix('*')
                    .is_some_and(|prefix| path.starts_with(prefix.trim_end_matches('*')))
        };
        !attributes.is_resource && self.non_resource_urls.iter().any(matching)
    }
}

impl GroupResources {
    fn matches(&self, attributes: &Attributes) -> bool {
        if self.group != "*" && self.group != attributes.group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        if !self.resource_names.is_empty() && !has(&self.resource_names, &attributes.name) {
            return false;
        }
        let (resource, subresource) = (&attributes.resource, &attributes.subresource);
        self.resources
            .iter()
            .any(|spec| match spec.split_once('/') {
                None if spec == "*" => true,
                None => subresource.is_empty() && spec == resource,
                Some(("*", wanted)) => !subresource.is_empty() && wanted == subresource,
                Some((wanted, "*")) => wanted == resource,
                Some((wanted, sub)) => wanted == resource && sub == subresource,
            })
    }
}

impl Written {
    fn validate(&self) -> ErrorList {
        let mut errors = ErrorList::new();
        check_stages(&self.omit_stages, &Path::new("omitStages"), &mut errors);
        for (at, rule) in self.rules.iter().enumerate() {
            let path = Path::new("rules").index(at);
            if rule.level.is_empty() {
                errors.push(FieldError::required(&path.child("level"), ""));
            } else if Level::parse(&rule.level).is_none() {
                let names: Vec<&str> = Level::ALL.iter().map(|(_, name)| *name).collect();
                let level = path.child("level");
                errors.push(FieldError::not_supported(
                    &level,
                    rule.level.as_str(),
                    &names,
                ));
            }
            rule.check_urls(&path.child("nonResourceURLs"), &mut errors);
            for some in &rule.resources {
                let path = path.child("resources");
                if !matches!(some.group.as_str(), "" | "*") {
                    let why = skiff_api::validation::names::dns_subdomain(&some.group);
                    if !why.is_empty() {
                        let path = path.child("group");
                        errors.push(FieldError::invalid(
                            &path,
                            some.group.as_str(),
                            &why.join(","),
                        ));
                    }
                }
                if !some.resource_names.is_empty() && some.resources.is_empty() {
                    let why = "using resourceNames requires at least one resource";
                    let names = serde_json::json!(some.resource_names);
                    errors.push(FieldError::invalid(
                        &path.child("resourceNames"),
                        names,
                        why,
                    ));
                }
            }
            check_stages(&rule.omit_stages, &path.child("omitStages"), &mut errors);
            let of_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
            if of_resources && !rule.non_resource_urls.is_empty() {
                let why = "rules cannot apply to both regular resources and non-resource URLs";
                let urls = serde_json::json!(rule.non_resource_urls);
                errors.push(FieldError::invalid(
                    &path.child("nonResourceURLs"),
                    urls,
                    why,
                ));
            }
        }
        errors
    }
}

impl WrittenRule {
    fn check_urls(&self, path: &Path, errors: &mut ErrorList) {
        for (at, url) in self.non_resource_urls.iter().enumerate() {
            if url == "*" {
                continue;
            }
            let path = path.index(at);
            if !url.starts_with('/') {
                let why = "non-resource URL rules must begin with a '/' character";
                errors.push(FieldError::invalid(&path, url.as_str(), why));
            }
            if url.strip_suffix('*').unwrap_or(url).contains('*') {
                let why = "non-resource URL wildcards '*' must be the final character of the rule";
                errors.push(FieldError::invalid(&path, url.as_str(), why));
            }
        }
    }
}

fn check_stages(stages: &[String], path: &Path, errors: &mut ErrorList) {
    for (at, stage) in stages.iter().enumerate() {
        if Stage::parse(stage).is_none() {
            let names: Vec<&str> = Stage::ALL.iter().map(|(_, name)| *name).collect();
            let why = format!("allowed stages are {}", names.join(","));
            errors.push(FieldError::invalid(&path.index(at), stage.as_str(), &why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{RequestInfo, UserInfo};
    use std::sync::Arc;

    const HEAD: &str = "apiVersion: audit.k8s.io/v1\nkind: Policy\n";

    fn policy(rest: &str) -> Policy {
        Policy::parse(&format!("{HEAD}{rest}")).unwrap()
    }

    fn attributes(method: &http::Method, path: &str, user: &str, group: &str) -> Attributes {
        let user = Arc::new(UserInfo::new(user, &[group]));
        RequestInfo::resolve(method, path, None).attributes(user, None)
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let policy = policy(
            r#"
omitStages: [RequestReceived]
omitManagedFields: true
rules:
- {level: None, users: [noisy]}
- {level: None, userGroups: [system:nodes], verbs: [get]}
- {level: None, nonResourceURLs: ["/healthz*", "/version"]}
- {level: Metadata, resources: [{group: "", resources: [secrets, configmaps]}]}
- {level: Request, resources: [{group: "", resources: ["pods/*"]}], omitStages: [ResponseStarted], omitManagedFields: false}
- {level: RequestResponse, namespaces: [kube-system], resources: [{group: apps}]}
- {level: Request, resources: [{group: "*", resources: ["*/scale"]}]}
- {level: Metadata, resources: [{group: "", resources: [services], resourceNames: [web]}]}
- {level: Metadata, nonResourceURLs: ["*"]}
"#,
        );
        let level = |method, path, user, group| {
            policy
                .evaluate(&attributes(method, path, user, group))
                .level
        };
        let (get, post) = (&http::Method::GET, &http::Method::POST);
        for (method, path, user, group, wanted) in [
            (
                get,
                "/api/v1/namespaces/a/secrets/b",
                "noisy",
                "x",
                Level::None,
            ),
            (
                get,
                "/api/v1/namespaces/a/secrets/b",
                "node",
                "system:nodes",
                Level::None,
            ),
            (
                get,
                "/api/v1/namespaces/a/secrets",
                "node",
                "system:nodes",
                Level::Metadata,
            ),
            (get, "/healthz/etcd", "a", "x", Level::None),
            (get, "/versions", "a", "x", Level::Metadata),
            // As upstream, although it reads otherwise.
            (get, "/api/v1/namespaces/a/pods/b", "a", "x", Level::Request),
            (
                get,
                "/api/v1/namespaces/a/pods/b/log",
                "a",
                "x",
                Level::Request,
            ),
            (
                post,
                "/apis/apps/v1/namespaces/kube-system/deployments",
                "a",
                "x",
                Level::RequestResponse,
            ),
            (
                post,
                "/apis/apps/v1/namespaces/b/deployments/c/scale",
                "a",
                "x",
                Level::Request,
            ),
            (
                get,
                "/api/v1/namespaces/a/services/web",
                "a",
                "x",
                Level::Metadata,
            ),
            (
                get,
                "/api/v1/namespaces/a/services/other",
                "a",
                "x",
                Level::None,
            ),
        ] {
            assert_eq!(level(method, path, user, group), wanted, "{path} {user}");
        }
        let verdict = policy.evaluate(&attributes(
            get,
            "/api/v1/namespaces/a/pods/b/log",
            "a",
            "x",
        ));
        assert!(!verdict.omit_managed_fields);
        assert!(verdict.omit_stages.contains(Stage::RequestReceived));
        assert!(verdict.omit_stages.contains(Stage::ResponseStarted));
        assert!(!verdict.omit_stages.contains(Stage::ResponseComplete));
    }

    #[test]
    fn policies_are_checked_in_upstreams_words() {
        let refused = |rest: &str| match Policy::parse(&format!("{HEAD}{rest}")) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        };
        for (rest, wanted) in [
            ("rules: []", "loaded illegal policy with 0 rules"),
            ("rules: [{}]", "rules[0].level: Required value"),
            (
                "rules: [{level: All}]",
                "rules[0].level: Unsupported value: \"All\": supported values: \"None\", \"Metadata\", \"Request\", \"RequestResponse\"",
            ),
            (
                "rules: [{level: None, nonResourceURLs: [a]}]",
                "rules[0].nonResourceURLs[0]: Invalid value: \"a\": non-resource URL rules must begin with a '/' character",
            ),
            (
                "rules: [{level: None, nonResourceURLs: ['/a*b']}]",
                "rules[0].nonResourceURLs[0]: Invalid value: \"/a*b\": non-resource URL wildcards '*' must be the final character of the rule",
            ),
            (
                "rules: [{level: None, omitStages: [Later]}]",
                "rules[0].omitStages[0]: Invalid value: \"Later\": allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic",
            ),
        ] {
            assert_eq!(refused(rest), wanted);
        }
        assert!(Policy::parse("apiVersion: v1\nkind: Policy\nrules: [{level: None}]").is_err());
    }
}
