//! Flow schemas and priority levels: what upstream refuses, in its words.

use k8s_openapi::api::flowcontrol::v1::{
    FlowSchema, FlowSchemaSpec, FlowSchemaStatus, LimitResponse, LimitedPriorityLevelConfiguration,
    NonResourcePolicyRule, PolicyRulesWithSubjects, PriorityLevelConfiguration,
    PriorityLevelConfigurationSpec, PriorityLevelConfigurationStatus, ResourcePolicyRule, Subject,
};
use serde_json::{Value, json};

use super::names::{dns_label, dns_subdomain};
use crate::field::{ErrorList, FieldError, Path};

const VERBS: [&str; 9] = [
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "proxy",
    "update",
    "watch",
];
const MAX_PRECEDENCE: i32 = 10_000;
const MAX_QUEUES: i32 = 10_000_000;
/// An older version of the API wrote this; today nobody may set it.
const PRESERVE_ZERO: &str = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares";

fn is_star(list: &[String]) -> bool {
    list.iter().any(|value| value == "*")
}

/// Checks a flow schema.
pub fn validate_flow_schema(object: &FlowSchema) -> ErrorList {
    let mut errors = ErrorList::new();
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let path = Path::new("spec");
    if let Some(spec) = &object.spec {
        check_schema(name, spec, &path, &mut errors);
        if mandatory_schema(name).is_some_and(|fixed| fixed != *spec) {
            let why = format!("spec of '{name}' must equal the fixed value");
            let value = serde_json::to_value(spec).unwrap_or_default();
            errors.push(FieldError::invalid(&path, value, &why));
        }
    }
    errors.extend(validate_flow_schema_status(object));
    errors
}

/// Checks the status of a flow schema.
pub fn validate_flow_schema_status(object: &FlowSchema) -> ErrorList {
    let status: Option<&FlowSchemaStatus> = object.status.as_ref();
    let types = status
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default()
        .iter()
        .map(|condition| condition.type_.clone().unwrap_or_default());
    check_conditions(types)
}

fn check_conditions(types: impl Iterator<Item = String>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen: Vec<String> = Vec::new();
    let path = Path::new("status").child("conditions");
    for (at, kind) in types.enumerate() {
        let path = path.index(at).child("type");
        if seen.contains(&kind) {
            errors.push(FieldError::duplicate(&path, kind.as_str()));
        }
        if kind.is_empty() {
            errors.push(FieldError::required(&path, ""));
        }
        seen.push(kind);
    }
    errors
}

fn mandatory_schema(name: &str) -> Option<FlowSchemaSpec> {
    let all = json!({
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true, "namespaces": ["*"]}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    });
    let group = |name: &str| json!({"kind": "Group", "group": {"name": name}});
    let with = |subjects: Value| {
        let mut rule = all.clone();
        rule["subjects"] = subjects;
        rule
    };
    let spec = match name {
        "exempt" => json!({
            "matchingPrecedence": 1, "priorityLevelConfiguration": {"name": "exempt"},
            "rules": [with(json!([group("system:masters")]))],
        }),
        "catch-all" => json!({
            "matchingPrecedence": 10000, "priorityLevelConfiguration": {"name": "catch-all"},
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [with(json!([group("system:unauthenticated"), group("system:authenticated")]))],
        }),
        _ => return None,
    };
    serde_json::from_value(spec).ok()
}

fn check_schema(name: &str, spec: &FlowSchemaSpec, path: &Path, errors: &mut ErrorList) {
    let precedence = spec.matching_precedence.unwrap_or(0);
    let field = path.child("matchingPrecedence");
    if precedence <= 0 {
        errors.push(FieldError::invalid(
            &field,
            i64::from(precedence),
            "must be a positive value",
        ));
    }
    if precedence > MAX_PRECEDENCE {
        let why = format!("must not be greater than {MAX_PRECEDENCE}");
        errors.push(FieldError::invalid(&field, i64::from(precedence), &why));
    }
    if precedence == 1 && name != "exempt" {
        let why = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.push(FieldError::invalid(&field, i64::from(precedence), why));
    }
    if let Some(method) = &spec.distinguisher_method
        && !matches!(method.type_.as_str(), "ByNamespace" | "ByUser")
    {
        let path = path.child("distinguisherMethod").child("type");
        let shown = serde_json::to_value(method).unwrap_or_default();
        errors.push(FieldError::not_supported(
            &path,
            shown,
            &["ByNamespace", "ByUser"],
        ));
    }
    let level = &spec.priority_level_configuration.name;
    let field = path.child("priorityLevelConfiguration").child("name");
    if level.is_empty() {
        errors.push(FieldError::required(
            &field,
            "must reference a priority level",
        ));
    } else {
        for why in dns_subdomain(level) {
            errors.push(FieldError::invalid(&field, level.as_str(), &why));
        }
    }
    for (at, rule) in spec.rules.iter().flatten().enumerate() {
        check_rule(rule, &path.child("rules").index(at), errors);
    }
}

fn check_rule(rule: &PolicyRulesWithSubjects, path: &Path, errors: &mut ErrorList) {
    let subjects = path.child("subjects");
    if rule.subjects.is_empty() {
        errors.push(FieldError::required(
            &subjects,
            "subjects must contain at least one value",
        ));
    }
    for (at, subject) in rule.subjects.iter().enumerate() {
        check_subject(subject, &subjects.index(at), errors);
    }
    let resources = rule.resource_rules.as_deref().unwrap_or_default();
    let others = rule.non_resource_rules.as_deref().unwrap_or_default();
    if resources.is_empty() && others.is_empty() {
        let why = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(FieldError::required(path, why));
    }
    for (at, rule) in resources.iter().enumerate() {
        check_resource_rule(rule, &path.child("resourceRules").index(at), errors);
    }
    for (at, rule) in others.iter().enumerate() {
        check_path_rule(rule, &path.child("nonResourceRules").index(at), errors);
    }
}

fn check_subject(subject: &Subject, path: &Path, errors: &mut ErrorList) {
    let fields = [
        (
            "ServiceAccount",
            "serviceAccount",
            subject.service_account.is_some(),
        ),
        ("User", "user", subject.user.is_some()),
        ("Group", "group", subject.group.is_some()),
    ];
    let Some((_, field, there)) = fields.iter().find(|(kind, ..)| *kind == subject.kind) else {
        let kinds = ["Group", "ServiceAccount", "User"];
        errors.push(FieldError::not_supported(
            &path.child("kind"),
            subject.kind.as_str(),
            &kinds,
        ));
        return;
    };
    if *there {
        let path = path.child(field);
        match subject.kind.as_str() {
            "ServiceAccount" => check_account(subject, &path, errors),
            "User"
                if subject
                    .user
                    .as_ref()
                    .is_some_and(|user| user.name.is_empty()) =>
            {
                errors.push(FieldError::required(&path.child("name"), ""));
            }
            "Group"
                if subject
                    .group
                    .as_ref()
                    .is_some_and(|group| group.name.is_empty()) =>
            {
                errors.push(FieldError::required(&path.child("name"), ""));
            }
            _ => {}
        }
    } else {
        let why = format!(
            "{field} is required when subject kind is '{}'",
            subject.kind
        );
        errors.push(FieldError::required(&path.child(field), &why));
    }
    for (kind, field, there) in fields {
        if there && kind != subject.kind {
            let why = format!("{field} is forbidden when subject kind is not '{kind}'");
            errors.push(FieldError::forbidden(&path.child(field), &why));
        }
    }
}

fn check_account(subject: &Subject, path: &Path, errors: &mut ErrorList) {
    let Some(account) = &subject.service_account else {
        return;
    };
    let field = path.child("name");
    if account.name.is_empty() {
        errors.push(FieldError::required(&field, ""));
    } else if account.name != "*" {
        for why in dns_subdomain(&account.name) {
            errors.push(FieldError::invalid(&field, account.name.as_str(), &why));
        }
    }
    let field = path.child("namespace");
    if account.namespace.is_empty() {
        errors.push(FieldError::required(
            &field,
            "must specify namespace for service account",
        ));
    }
    for why in dns_label(&account.namespace) {
        if !account.namespace.is_empty() {
            errors.push(FieldError::invalid(
                &field,
                account.namespace.as_str(),
                &why,
            ));
        }
    }
}

fn check_verbs(verbs: &[String], path: &Path, errors: &mut ErrorList) {
    let path = path.child("verbs");
    if verbs.is_empty() {
        errors.push(FieldError::required(
            &path,
            "verbs must contain at least one value",
        ));
    } else if is_star(verbs) {
        if verbs.len() > 1 {
            let why = "if '*' is present, must not specify other verbs";
            errors.push(FieldError::invalid(&path, json!(verbs), why));
        }
    } else if !verbs.iter().all(|verb| VERBS.contains(&verb.as_str())) {
        errors.push(FieldError::not_supported(&path, json!(verbs), &VERBS));
    }
}

fn check_resource_rule(rule: &ResourcePolicyRule, path: &Path, errors: &mut ErrorList) {
    check_verbs(&rule.verbs, path, errors);
    let lists = [
        (
            &rule.api_groups,
            "apiGroups",
            "resource rules must supply at least one api group",
            "if '*' is present, must not specify other api groups",
        ),
        (
            &rule.resources,
            "resources",
            "resource rules must supply at least one resource",
            "if '*' is present, must not specify other resources",
        ),
    ];
    for (list, field, none, many) in lists {
        let path = path.child(field);
        if list.is_empty() {
            errors.push(FieldError::required(&path, none));
        } else if list.len() > 1 && is_star(list) {
            errors.push(FieldError::invalid(&path, json!(list), many));
        }
    }
    let path = path.child("namespaces");
    let namespaces = rule.namespaces.as_deref().unwrap_or_default();
    if namespaces.is_empty() && rule.cluster_scope != Some(true) {
        let why = "resource rules that are not cluster scoped must supply at least one namespace";
        errors.push(FieldError::required(&path, why));
    } else if is_star(namespaces) {
        if namespaces.len() > 1 {
            let why = "if '*' is present, must not specify other namespaces";
            errors.push(FieldError::invalid(&path, json!(namespaces), why));
        }
    } else {
        for (at, namespace) in namespaces.iter().enumerate() {
            for why in dns_label(namespace) {
                let why =
                    format!("each member of this list must be '*' or a DNS-1123 label; {why}");
                errors.push(FieldError::invalid(
                    &path.index(at),
                    namespace.as_str(),
                    &why,
                ));
            }
        }
    }
}

fn check_path_rule(rule: &NonResourcePolicyRule, path: &Path, errors: &mut ErrorList) {
    check_verbs(&rule.verbs, path, errors);
    let path = path.child("nonResourceURLs");
    let urls = &rule.non_resource_urls;
    if urls.is_empty() {
        let why = "nonResourceURLs must contain at least one value";
        errors.push(FieldError::required(&path, why));
    } else if is_star(urls) {
        if urls.len() > 1 {
            let why = "if '*' is present, must not specify other non-resource URLs";
            errors.push(FieldError::invalid(&path, json!(urls), why));
        }
    } else {
        for (at, url) in urls.iter().enumerate() {
            if let Some(why) = bad_url(url) {
                errors.push(FieldError::invalid(&path.index(at), url.as_str(), why));
            }
        }
    }
}

fn bad_url(url: &str) -> Option<&'static str> {
    if url.is_empty() {
        return Some("must not be empty");
    }
    if url == "/" {
        return None;
    }
    if !url.starts_with('/') {
        return Some("must start with slash");
    }
    if url.contains(' ') {
        return Some("must not contain white-space");
    }
    if url.contains("//") {
        return Some("must not contain double slash");
    }
    let stars = url.matches('*').count();
    if stars > 1 || (stars == 1 && !url.ends_with("/*")) {
        return Some("wildcard can only do suffix matching");
    }
    None
}

/// Checks a priority level.
pub fn validate_priority_level(object: &PriorityLevelConfiguration) -> ErrorList {
    let mut errors = ErrorList::new();
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let annotations = object.metadata.annotations.as_ref();
    if annotations.is_some_and(|annotations| annotations.contains_key(PRESERVE_ZERO)) {
        let path = Path::new("metadata").child("annotations");
        let why = format!("annotation '{PRESERVE_ZERO}' is forbidden");
        errors.push(FieldError::forbidden(&path, &why));
    }
    let path = Path::new("spec");
    if let Some(spec) = &object.spec {
        check_level(name, spec, &path, &mut errors);
        check_mandatory_level(name, spec, &path, &mut errors);
    }
    errors.extend(validate_priority_level_status(object));
    errors
}

/// Checks the status of a priority level.
pub fn validate_priority_level_status(object: &PriorityLevelConfiguration) -> ErrorList {
    let status: Option<&PriorityLevelConfigurationStatus> = object.status.as_ref();
    let types = status
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default()
        .iter()
        .map(|condition| condition.type_.clone().unwrap_or_default());
    check_conditions(types)
}

fn check_mandatory_level(
    name: &str,
    spec: &PriorityLevelConfigurationSpec,
    path: &Path,
    errors: &mut ErrorList,
) {
    let shown = || serde_json::to_value(spec).unwrap_or_default();
    match name {
        "exempt" if spec.type_ != "Exempt" || spec.limited.is_some() => {
            let why = "spec of 'exempt' except the 'spec.exempt' field must equal the fixed value";
            errors.push(FieldError::invalid(path, shown(), why));
        }
        "catch-all" => {
            let fixed = json!({"type": "Limited", "limited": {
                "nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"}}});
            if shown() != fixed {
                let why = "spec of 'catch-all' must equal the fixed value";
                errors.push(FieldError::invalid(path, shown(), why));
            }
        }
        _ => {}
    }
}

fn check_level(
    name: &str,
    spec: &PriorityLevelConfigurationSpec,
    path: &Path,
    errors: &mut ErrorList,
) {
    if (name == "exempt") != (spec.type_ == "Exempt") {
        let why = "must be 'Exempt' if and only if `name` is 'exempt'";
        errors.push(FieldError::invalid(
            &path.child("type"),
            spec.type_.as_str(),
            why,
        ));
    }
    match spec.type_.as_str() {
        "Exempt" => {
            if spec.limited.is_some() {
                let why = "must be nil if the type is not Limited";
                errors.push(FieldError::forbidden(&path.child("limited"), why));
            }
            if let Some(exempt) = &spec.exempt {
                let path = path.child("exempt");
                check_shares(exempt.nominal_concurrency_shares, &path, errors);
                check_lendable(exempt.lendable_percent, &path, errors);
            }
        }
        "Limited" => {
            if spec.exempt.is_some() {
                let why = "must be nil if the type is Limited";
                errors.push(FieldError::forbidden(&path.child("exempt"), why));
            }
            let path = path.child("limited");
            match &spec.limited {
                Some(limited) => check_limited(limited, &path, errors),
                None => {
                    let why = "must not be empty when type is Limited";
                    errors.push(FieldError::required(&path, why));
                }
            }
        }
        other => {
            let path = path.child("type");
            errors.push(FieldError::not_supported(
                &path,
                other,
                &["Exempt", "Limited"],
            ));
        }
    }
}

fn check_shares(shares: Option<i32>, path: &Path, errors: &mut ErrorList) {
    if let Some(shares) = shares.filter(|shares| *shares < 0) {
        let path = path.child("nominalConcurrencyShares");
        errors.push(FieldError::invalid(
            &path,
            i64::from(shares),
            "must be a non-negative integer",
        ));
    }
}

fn check_lendable(percent: Option<i32>, path: &Path, errors: &mut ErrorList) {
    if let Some(percent) = percent.filter(|percent| !(0..=100).contains(percent)) {
        let path = path.child("lendablePercent");
        let why = "must be between 0 and 100, inclusive";
        errors.push(FieldError::invalid(&path, i64::from(percent), why));
    }
}

fn check_limited(limited: &LimitedPriorityLevelConfiguration, path: &Path, errors: &mut ErrorList) {
    check_shares(limited.nominal_concurrency_shares, path, errors);
    check_response(
        limited.limit_response.as_ref(),
        &path.child("limitResponse"),
        errors,
    );
    check_lendable(limited.lendable_percent, path, errors);
    if let Some(percent) = limited
        .borrowing_limit_percent
        .filter(|percent| *percent < 0)
    {
        let path = path.child("borrowingLimitPercent");
        let why = "if specified, must be a non-negative integer";
        errors.push(FieldError::invalid(&path, i64::from(percent), why));
    }
}

fn check_response(response: Option<&LimitResponse>, path: &Path, errors: &mut ErrorList) {
    let kind = response.map_or("", |response| response.type_.as_str());
    let queuing = response.and_then(|response| response.queuing.as_ref());
    let field = path.child("queuing");
    match (kind, queuing) {
        ("Reject", Some(_)) => {
            let why = "must be nil if limited.limitResponse.type is not Limited";
            errors.push(FieldError::forbidden(&field, why));
        }
        ("Reject", None) => {}
        ("Queue", None) => {
            let why = "must not be empty if limited.limitResponse.type is Limited";
            errors.push(FieldError::required(&field, why));
        }
        ("Queue", Some(queuing)) => {
            let (length, queues, hand) = (
                queuing.queue_length_limit.unwrap_or(0),
                queuing.queues.unwrap_or(0),
                queuing.hand_size.unwrap_or(0),
            );
            let mut refuse = |name: &str, value: i32, why: &str| {
                errors.push(FieldError::invalid(
                    &field.child(name),
                    i64::from(value),
                    why,
                ));
            };
            if length <= 0 {
                refuse("queueLengthLimit", length, "must be positive");
            }
            if queues <= 0 {
                refuse("queues", queues, "must be positive");
            } else if queues > MAX_QUEUES {
                refuse(
                    "queues",
                    queues,
                    &format!("must not be greater than {MAX_QUEUES}"),
                );
            }
            if hand <= 0 {
                refuse("handSize", hand, "must be positive");
            } else if hand > queues {
                let why = format!("should not be greater than queues ({queues})");
                refuse("handSize", hand, &why);
            } else if entropy(queues, hand).is_none_or(|bits| bits > 60) {
                let why = format!(
                    "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than 60"
                );
                refuse("handSize", hand, &why);
            }
        }
        (other, _) => {
            let path = path.child("type");
            errors.push(FieldError::not_supported(
                &path,
                other,
                &["Queue", "Reject"],
            ));
        }
    }
}

/// How many bits of a hash it takes to deal a hand.
fn entropy(deck: i32, hand: i32) -> Option<i64> {
    let (deck, hand) = (u32::try_from(deck).ok()?, u32::try_from(hand).ok()?);
    let bits: f64 = (0..hand.min(deck))
        .map(|dealt| f64::from(deck - dealt).log2())
        .sum();
    #[allow(clippy::cast_possible_truncation, reason = "some millions at most")]
    let bits = bits.ceil() as i64;
    Some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(name: &str, spec: Value) -> Vec<String> {
        let object = json!({"metadata": {"name": name}, "spec": spec});
        let errors = validate_flow_schema(&serde_json::from_value(object).unwrap());
        errors.iter().map(ToString::to_string).collect()
    }

    fn level(name: &str, spec: Value) -> Vec<String> {
        let object = json!({"metadata": {"name": name}, "spec": spec});
        let errors = validate_priority_level(&serde_json::from_value(object).unwrap());
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn flow_schemas_are_checked() {
        let good = json!({
            "matchingPrecedence": 50, "priorityLevelConfiguration": {"name": "system"},
            "distinguisherMethod": {"type": "ByUser"},
            "rules": [{
                "subjects": [{"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "a"}}],
                "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["*"]}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["/a", "/b/*"]}],
            }],
        });
        assert!(schema("x", good.clone()).is_empty());
        let cases: &[(&str, Value, &str)] = &[
            (
                "/matchingPrecedence",
                json!(0),
                "spec.matchingPrecedence: Invalid value: 0: must be a positive value",
            ),
            (
                "/matchingPrecedence",
                json!(1),
                "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
            ),
            (
                "/priorityLevelConfiguration/name",
                json!(""),
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
            ),
            (
                "/rules/0/subjects",
                json!([]),
                "spec.rules[0].subjects: Required value: subjects must contain at least one value",
            ),
            (
                "/rules/0/subjects/0/kind",
                json!("Robot"),
                "spec.rules[0].subjects[0].kind: Unsupported value: \"Robot\": supported values: \"Group\", \"ServiceAccount\", \"User\"",
            ),
            (
                "/rules/0/resourceRules/0/namespaces",
                json!([]),
                "spec.rules[0].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace",
            ),
            (
                "/rules/0/nonResourceRules/0/nonResourceURLs/0",
                json!("a"),
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"a\": must start with slash",
            ),
        ];
        for (pointer, value, wanted) in cases {
            let mut spec = good.clone();
            *spec.pointer_mut(pointer).unwrap() = value.clone();
            assert_eq!(schema("x", spec), [*wanted]);
        }
        let errors = schema("exempt", good);
        assert!(
            errors[0].ends_with("spec of 'exempt' must equal the fixed value"),
            "{errors:?}"
        );
    }

    #[test]
    fn priority_levels_are_checked() {
        let good = json!({"type": "Limited", "limited": {
            "nominalConcurrencyShares": 10, "lendablePercent": 50,
            "limitResponse": {"type": "Queue", "queuing": {"queues": 64, "handSize": 6, "queueLengthLimit": 50}}}});
        assert!(level("x", good.clone()).is_empty());
        let cases: &[(&str, Value, &str)] = &[
            (
                "/limited/nominalConcurrencyShares",
                json!(-1),
                "spec.limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer",
            ),
            (
                "/limited/lendablePercent",
                json!(101),
                "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
            ),
            (
                "/limited/limitResponse/queuing/handSize",
                json!(65),
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 65: should not be greater than queues (64)",
            ),
            (
                "/limited/limitResponse/queuing/queues",
                json!(0),
                "spec.limited.limitResponse.queuing.queues: Invalid value: 0: must be positive",
            ),
        ];
        for (pointer, value, wanted) in cases {
            let mut spec = good.clone();
            *spec.pointer_mut(pointer).unwrap() = value.clone();
            assert_eq!(level("x", spec)[0], *wanted);
        }
        assert_eq!(
            level("x", json!({"type": "Exempt"})),
            [
                "spec.type: Invalid value: \"Exempt\": must be 'Exempt' if and only if `name` is 'exempt'"
            ]
        );
        assert!(
            level("catch-all", good)[0].ends_with("spec of 'catch-all' must equal the fixed value")
        );
        assert!(
            level(
                "exempt",
                json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 5}})
            )
            .is_empty()
        );
    }
}
