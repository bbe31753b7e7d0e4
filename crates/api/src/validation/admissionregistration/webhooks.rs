//! Webhook configurations of both sorts, and where any webhook may be.

use std::collections::BTreeSet;

use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MutatingWebhookConfiguration, RuleWithOperations,
    ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::rules::{
    FAILURE_POLICIES, MATCH_POLICIES, REINVOCATION_POLICIES, match_conditions, rule,
};
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::items;
use crate::validation::expressions::ExpressionChecker;
use crate::validation::meta::{SelectorRules, has_invalid_value, label_selector};
use crate::validation::names;
use crate::validation::values::{all_invalid, json, one_of};

const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun", "Some", "Unknown"];
const NO_SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];
/// The versions of reviews that the API server speaks.
const REVIEW_VERSIONS: &[&str] = &["v1", "v1beta1"];

/// What webhooks of both sorts share.
struct Hook<'a> {
    name: &'a str,
    client_config: &'a WebhookClientConfig,
    rules: &'a [RuleWithOperations],
    failure_policy: Option<&'a str>,
    match_policy: Option<&'a str>,
    side_effects: &'a str,
    timeout: Option<i32>,
    selectors: [(Option<&'a LabelSelector>, &'static str); 2],
    /// Only of mutating webhooks.
    reinvocation_policy: Option<&'a str>,
    conditions: &'a [MatchCondition],
    versions: &'a [String],
}

macro_rules! hook {
    ($hook:ident, $reinvocation:expr) => {
        Hook {
            name: &$hook.name,
            client_config: &$hook.client_config,
            rules: items(&$hook.rules),
            failure_policy: $hook.failure_policy.as_deref(),
            match_policy: $hook.match_policy.as_deref(),
            side_effects: &$hook.side_effects,
            timeout: $hook.timeout_seconds,
            selectors: [
                ($hook.namespace_selector.as_ref(), "namespaceSelector"),
                ($hook.object_selector.as_ref(), "objectSelector"),
            ],
            reinvocation_policy: $reinvocation,
            conditions: items(&$hook.match_conditions),
            versions: &$hook.admission_review_versions,
        }
    };
}

fn mutating(configuration: &MutatingWebhookConfiguration) -> Vec<Hook<'_>> {
    let hooks = items(&configuration.webhooks).iter();
    hooks
        .map(|hook| hook!(hook, hook.reinvocation_policy.as_deref()))
        .collect()
}

fn validating(configuration: &ValidatingWebhookConfiguration) -> Vec<Hook<'_>> {
    let hooks = items(&configuration.webhooks).iter();
    hooks.map(|hook| hook!(hook, None)).collect()
}

/// A MutatingWebhookConfiguration; `old`: what it was, which may stay as wrong as it is.
pub fn validate_mutating(
    new: &MutatingWebhookConfiguration,
    old: Option<&MutatingWebhookConfiguration>,
    checker: &dyn ExpressionChecker,
) -> ErrorList {
    validate(&mutating(new), old.map(mutating).as_deref(), checker)
}

/// A ValidatingWebhookConfiguration; `old` as above.
pub fn validate_validating(
    new: &ValidatingWebhookConfiguration,
    old: Option<&ValidatingWebhookConfiguration>,
    checker: &dyn ExpressionChecker,
) -> ErrorList {
    validate(&validating(new), old.map(validating).as_deref(), checker)
}

/// What is not looked at because it was so before.
struct Leniency {
    conditions: bool,
    side_effects: bool,
    versions: bool,
    names: bool,
    selector: SelectorRules,
}

impl Leniency {
    fn of(new: &[Hook<'_>], old: Option<&[Hook<'_>]>) -> Self {
        let Some(old) = old else {
            return Self {
                conditions: false,
                side_effects: false,
                versions: false,
                names: false,
                selector: SelectorRules::default(),
            };
        };
        let mut seen = BTreeSet::new();
        let known = |version: &String| REVIEW_VERSIONS.contains(&version.as_str());
        let same = |(new, old): (&Hook<'_>, &Hook<'_>)| new.conditions == old.conditions;
        Self {
            conditions: new.len() == old.len() && new.iter().zip(old).all(same),
            side_effects: old
                .iter()
                .any(|hook| !NO_SIDE_EFFECTS.contains(&hook.side_effects)),
            versions: old
                .iter()
                .any(|hook| !hook.versions.is_empty() && !hook.versions.iter().any(known)),
            names: !old.iter().all(|hook| seen.insert(hook.name)),
            selector: SelectorRules {
                allow_invalid_values: old.iter().any(|hook| {
                    let mut selectors = hook.selectors.iter().filter_map(|(selector, _)| *selector);
                    selectors.any(has_invalid_value)
                }),
            },
        }
    }
}

fn validate(
    hooks: &[Hook<'_>],
    old: Option<&[Hook<'_>]>,
    checker: &dyn ExpressionChecker,
) -> ErrorList {
    let lenient = Leniency::of(hooks, old);
    let mut errors = ErrorList::new();
    let mut seen = BTreeSet::new();
    for (index, hook) in hooks.iter().enumerate() {
        let path = Path::new("webhooks").index(index);
        webhook(&mut errors, hook, &lenient, checker, &path);
        review_versions(
            &mut errors,
            hook.versions,
            !lenient.versions,
            &path.child("admissionReviewVersions"),
        );
        if !lenient.names && !hook.name.is_empty() && !seen.insert(hook.name) {
            errors.push(FieldError::duplicate(&path.child("name"), hook.name));
        }
    }
    errors
}

fn webhook(
    errors: &mut ErrorList,
    hook: &Hook<'_>,
    lenient: &Leniency,
    checker: &dyn ExpressionChecker,
    path: &Path,
) {
    qualified(errors, hook.name, &path.child("name"));
    for (index, entry) in hook.rules.iter().enumerate() {
        rule(errors, entry, &path.child("rules").index(index));
    }
    for (value, supported, name) in [
        (hook.failure_policy, FAILURE_POLICIES, "failurePolicy"),
        (hook.match_policy, MATCH_POLICIES, "matchPolicy"),
    ] {
        if let Some(value) = value {
            one_of(errors, &path.child(name), value, supported);
        }
    }
    let allowed = if lenient.side_effects {
        SIDE_EFFECTS
    } else {
        NO_SIDE_EFFECTS
    };
    let at = path.child("sideEffects");
    if hook.side_effects.is_empty() {
        let detail = format!("must specify one of {}", allowed.join(", "));
        errors.push(FieldError::required(&at, &detail));
    } else {
        one_of(errors, &at, hook.side_effects, allowed);
    }
    if let Some(seconds) = hook.timeout.filter(|seconds| !(1..=30).contains(seconds)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.push(FieldError::invalid(
            &path.child("timeoutSeconds"),
            seconds,
            detail,
        ));
    }
    for (selector, name) in hook.selectors {
        label_selector(errors, selector, lenient.selector, &path.child(name));
    }
    if let Some(policy) = hook.reinvocation_policy {
        one_of(
            errors,
            &path.child("reinvocationPolicy"),
            policy,
            REINVOCATION_POLICIES,
        );
    }
    place(errors, hook.client_config, &path.child("clientConfig"));
    if !lenient.conditions {
        let at = path.child("matchConditions");
        match_conditions(errors, hook.conditions, false, checker, &at);
    }
}

/// A webhook's name: a domain of three parts at least.
fn qualified(errors: &mut ErrorList, name: &str, path: &Path) {
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    let wrong = names::dns_subdomain(name);
    if !wrong.is_empty() {
        errors.push(FieldError::invalid(path, name, &wrong.join(",")));
    } else if name.split('.').count() < 3 {
        let detail = "should be a domain with at least three segments separated by dots";
        errors.push(FieldError::invalid(path, name, detail));
    }
}

fn review_versions(errors: &mut ErrorList, versions: &[String], known: bool, path: &Path) {
    let accepted = REVIEW_VERSIONS.join(", ");
    if versions.is_empty() {
        errors.push(FieldError::required(
            path,
            &format!("must specify one of {accepted}"),
        ));
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, version) in versions.iter().enumerate() {
        let path = path.index(index);
        if seen.insert(version) {
            all_invalid(errors, &path, version, names::dns_1035_label(version));
        } else {
            errors.push(FieldError::invalid(&path, version, "duplicate version"));
        }
    }
    if known
        && !versions
            .iter()
            .any(|version| REVIEW_VERSIONS.contains(&version.as_str()))
    {
        let detail = format!("must include at least one of {accepted}");
        errors.push(FieldError::invalid(path, json(versions), &detail));
    }
}

fn place(errors: &mut ErrorList, config: &WebhookClientConfig, path: &Path) {
    match (&config.url, &config.service) {
        (Some(url), None) => webhook_url(errors, url, true, &path.child("url")),
        (None, Some(service)) => webhook_service(
            errors,
            (&service.namespace, &service.name),
            service.path.as_deref(),
            service.port.unwrap_or(443),
            &path.child("service"),
        ),
        _ => errors.push(FieldError::required(
            path,
            "exactly one of url or service is required",
        )),
    }
}

/// A URL as far as it is looked at: scheme, user, host, query and fragment.
struct Url<'a> {
    scheme: &'a str,
    user: Option<&'a str>,
    host: &'a str,
    query: &'a str,
    fragment: &'a str,
}

impl<'a> Url<'a> {
    fn split(text: &'a str) -> Self {
        let (rest, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (scheme, rest) = rest.split_once(':').unwrap_or(("", rest));
        let authority = rest.strip_prefix("//").unwrap_or_default();
        let authority = authority.split('/').next().unwrap_or_default();
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        Self {
            scheme,
            user,
            host,
            query,
            fragment,
        }
    }
}

/// The URL of a webhook.
pub fn webhook_url(errors: &mut ErrorList, text: &str, https: bool, path: &Path) {
    const FORM: &str = "; desired format: https://host[/path]";
    let bad = text.chars().find(|c| c.is_ascii_control());
    if bad.is_some() || text.starts_with(':') {
        let why = if bad.is_some() {
            "net/url: invalid control character in URL"
        } else {
            "missing protocol scheme"
        };
        let detail = format!("url must be a valid URL: parse {text:?}: {why}{FORM}");
        errors.push(FieldError::required(path, &detail));
        return;
    }
    let url = Url::split(text);
    if https && url.scheme != "https" {
        let detail = format!("'https' is the only allowed URL scheme{FORM}");
        errors.push(FieldError::invalid(path, url.scheme, &detail));
    }
    if url.host.is_empty() {
        let detail = format!("host must be specified{FORM}");
        errors.push(FieldError::invalid(path, url.host, &detail));
    }
    if let Some(user) = url.user {
        let detail = "user information is not permitted in the URL";
        errors.push(FieldError::invalid(path, user, detail));
    }
    if !url.fragment.is_empty() {
        let detail = "fragments are not permitted in the URL";
        errors.push(FieldError::invalid(path, url.fragment, detail));
    }
    if !url.query.is_empty() {
        let detail = "query parameters are not permitted in the URL";
        errors.push(FieldError::invalid(path, url.query, detail));
    }
}

/// The service of a webhook: (namespace, name), path and port.
pub fn webhook_service(
    errors: &mut ErrorList,
    (namespace, name): (&str, &str),
    url_path: Option<&str>,
    port: i32,
    path: &Path,
) {
    for (value, field) in [(name, "name"), (namespace, "namespace")] {
        if value.is_empty() {
            errors.push(FieldError::required(&path.child(field), ""));
        }
    }
    let wrong = names::port_number(port);
    if !wrong.is_empty() {
        let detail = format!("port is not valid: {}", wrong.join(", "));
        errors.push(FieldError::invalid(&path.child("port"), port, &detail));
    }
    if let Some(text) = url_path.filter(|text| !matches!(*text, "" | "/")) {
        service_path(errors, text, &path.child("path"));
    }
}

fn service_path(errors: &mut ErrorList, text: &str, path: &Path) {
    let mut wrong = |detail: &str| errors.push(FieldError::invalid(path, text, detail));
    if text == "//" {
        wrong("segment[0] may not be empty");
        return;
    }
    if !text.starts_with('/') {
        wrong("must start with a '/'");
    }
    let mut rest = text.chars();
    rest.next();
    let rest = rest.as_str();
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    for (index, step) in rest.split('/').enumerate() {
        if step.is_empty() {
            wrong(&format!("segment[{index}] may not be empty"));
            continue;
        }
        for message in names::dns_subdomain(step) {
            wrong(&format!("segment[{index}]: {message}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::validation::expressions::Unchecked;

    fn base() -> Value {
        json!({
            "name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"name": "s", "namespace": "n", "port": 443}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        })
    }

    fn with(changes: &Value) -> MutatingWebhookConfiguration {
        let mut hook = base();
        for (name, value) in changes.as_object().unwrap() {
            hook[name] = value.clone();
        }
        serde_json::from_value(json!({"metadata": {"name": "c"}, "webhooks": [hook]})).unwrap()
    }

    fn wrong(changes: &Value) -> Vec<String> {
        let errors = validate_mutating(&with(changes), None, &Unchecked);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_field_is_judged_in_upstreams_words() {
        assert_eq!(wrong(&json!({})), [""; 0]);
        let url = |url: &str| json!({"clientConfig": {"url": url}});
        let service = |path: &str, port: i32| json!({"clientConfig": {"service": {"name": "s", "namespace": "n", "port": port, "path": path}}});
        let table: Vec<(Value, &[&str])> = vec![
            (json!({"name": ""}), &["webhooks[0].name: Required value"]),
            (
                json!({"name": "a.b"}),
                &[
                    "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
                ],
            ),
            (
                json!({"sideEffects": ""}),
                &[
                    "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
                ],
            ),
            (
                json!({"sideEffects": "Some"}),
                &[
                    "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
                ],
            ),
            (
                json!({"timeoutSeconds": 31}),
                &[
                    "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
                ],
            ),
            (
                json!({"failurePolicy": "x"}),
                &[
                    "webhooks[0].failurePolicy: Unsupported value: \"x\": supported values: \"Fail\", \"Ignore\"",
                ],
            ),
            (
                json!({"reinvocationPolicy": "x"}),
                &[
                    "webhooks[0].reinvocationPolicy: Unsupported value: \"x\": supported values: \"IfNeeded\", \"Never\"",
                ],
            ),
            (
                json!({"admissionReviewVersions": []}),
                &[
                    "webhooks[0].admissionReviewVersions: Required value: must specify one of v1, v1beta1",
                ],
            ),
            (
                json!({"admissionReviewVersions": ["v2", "v2"]}),
                &[
                    "webhooks[0].admissionReviewVersions[1]: Invalid value: \"v2\": duplicate version",
                    "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\",\"v2\"]: must include at least one of v1, v1beta1",
                ],
            ),
            (
                json!({"clientConfig": {}}),
                &[
                    "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
                ],
            ),
            (
                url("http://u@/x?q#f"),
                &[
                    "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
                    "webhooks[0].clientConfig.url: Invalid value: \"\": host must be specified; desired format: https://host[/path]",
                    "webhooks[0].clientConfig.url: Invalid value: \"u\": user information is not permitted in the URL",
                    "webhooks[0].clientConfig.url: Invalid value: \"f\": fragments are not permitted in the URL",
                    "webhooks[0].clientConfig.url: Invalid value: \"q\": query parameters are not permitted in the URL",
                ],
            ),
            (url("https://host:8443/a/b"), &[]),
            (service("/a/b/", 443), &[]),
            (
                service("a", 0),
                &[
                    "webhooks[0].clientConfig.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
                    "webhooks[0].clientConfig.service.path: Invalid value: \"a\": must start with a '/'",
                    "webhooks[0].clientConfig.service.path: Invalid value: \"a\": segment[0] may not be empty",
                ],
            ),
            (
                service("//", 443),
                &[
                    "webhooks[0].clientConfig.service.path: Invalid value: \"//\": segment[0] may not be empty",
                ],
            ),
        ];
        for (changes, texts) in table {
            assert_eq!(wrong(&changes), texts, "{changes}");
        }
    }

    #[test]
    fn what_was_wrong_before_may_stay() {
        let old = with(&json!({"sideEffects": "Unknown", "admissionReviewVersions": ["v0"]}));
        assert_eq!(validate_mutating(&old, None, &Unchecked).len(), 2);
        assert!(validate_mutating(&old, Some(&old), &Unchecked).is_empty());
        let mut twice = with(&json!({}));
        let hooks = twice.webhooks.as_mut().unwrap();
        hooks.push(hooks[0].clone());
        let errors = validate_mutating(&twice, Some(&with(&json!({}))), &Unchecked);
        assert_eq!(
            errors[0].to_string(),
            "webhooks[1].name: Duplicate value: \"a.example.com\""
        );
        assert!(validate_mutating(&twice, Some(&twice), &Unchecked).is_empty());
    }
}
