//! Jobs.

use std::collections::BTreeSet;

use k8s_openapi::api::batch::v1::{
    Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule,
    SuccessPolicyRule,
};
use k8s_openapi::api::core::v1::{Container, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::field::{ErrorList, ErrorType, FieldError, Path};
use crate::validation::absent::{entry, items, set, text};
use crate::validation::core::pod::{template_warnings, validate_template};
use crate::validation::meta::{SelectorRules, label_selector, selector_matches, shown_selector};
use crate::validation::names;
use crate::validation::values::{Bare, all_invalid, immutable, json, non_negative, one_of};
use crate::validation::workload::{is_usable, mismatch, name_warnings};

const INDEXED: &str = "Indexed";
const INDEXED_MAX: i32 = 100_000;
const HIGH_MAX: i32 = 10_000;
const RULES: usize = 20;
const EXIT_CODES: usize = 255;
const INDEXES_TEXT: usize = 64 * 1024;
const NEEDS_INDEXES: &str = "requires indexed completion mode";

/// An error that names no value.
pub(super) fn bare_invalid(path: &Path, detail: &str) -> FieldError {
    FieldError {
        kind: ErrorType::Invalid,
        path: path.clone(),
        body: format!("Invalid value: {detail}"),
    }
}

pub(super) fn is_indexed(spec: &JobSpec) -> bool {
    text(&spec.completion_mode) == INDEXED
}

fn spec_of(job: &Job) -> JobSpec {
    job.spec.clone().unwrap_or_default()
}

/// What is wrong with a new Job, its metadata aside; its selector has been generated.
#[must_use]
pub fn validate_job(job: &Job) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = spec_of(job);
    generated_selector(&mut errors, job, &spec);
    whole_spec(&mut errors, &spec, None, &Path::new("spec"));
    if is_indexed(&spec)
        && let Some(last) = spec.completions.filter(|count| *count > 0)
    {
        let name = text(&job.metadata.name);
        let host = format!("{name}-{}", last - 1);
        if !names::dns_label(&host).is_empty() {
            let path = Path::new("metadata").child("name");
            let detail = format!("will not able to create pod with invalid DNS label: {host}");
            errors.push(FieldError::invalid(&path, name, &detail));
        }
    }
    errors
}

fn generated_selector(errors: &mut ErrorList, job: &Job, spec: &JobSpec) {
    let Some(selector) = spec
        .selector
        .as_ref()
        .filter(|_| !set(spec.manual_selector))
    else {
        return;
    };
    let (uid, name) = (text(&job.metadata.uid), text(&job.metadata.name));
    if uid.is_empty() {
        errors.push(FieldError::required(
            &Path::new("metadata").child("uid"),
            "",
        ));
    }
    let labels = spec
        .template
        .metadata
        .as_ref()
        .and_then(|meta| meta.labels.clone());
    let path = Path::new("spec")
        .child("template")
        .child("metadata")
        .child("labels");
    let expected = [
        ("controller-uid", uid),
        ("job-name", name),
        ("batch.kubernetes.io/controller-uid", uid),
        ("batch.kubernetes.io/job-name", name),
    ];
    for (key, value) in expected {
        let detail = format!("must be '{value}'");
        match entry(&labels, key) {
            None => errors.push(FieldError::required(&path.key(key), &detail)),
            Some(label) if label != value => {
                errors.push(FieldError::invalid(&path.key(key), json(&labels), &detail));
            }
            Some(_) => {}
        }
    }
    let own = expected
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    if is_usable(selector) && !selector_matches(selector, &Some(own)) {
        errors.push(FieldError::invalid(
            &Path::new("spec").child("selector"),
            shown_selector(Some(selector)),
            "`selector` not auto-generated",
        ));
    }
}

fn whole_spec(errors: &mut ErrorList, spec: &JobSpec, old: Option<&PodTemplateSpec>, path: &Path) {
    template_spec(errors, spec, old, path);
    let selector_path = path.child("selector");
    let nothing = LabelSelector::default();
    let selector = spec.selector.as_ref();
    if selector.is_none() {
        errors.push(FieldError::required(&selector_path, ""));
    }
    label_selector(errors, selector, SelectorRules::default(), &selector_path);
    let labels = spec
        .template
        .metadata
        .as_ref()
        .and_then(|meta| meta.labels.clone());
    let usable = is_usable(selector.unwrap_or(&nothing));
    let matches = selector.is_some_and(|selector| selector_matches(selector, &labels));
    if usable && !matches {
        mismatch(errors, &labels, &path.child("template"));
    }
}

/// What Jobs and the templates of CronJobs are both held to.
pub(super) fn template_spec(
    errors: &mut ErrorList,
    spec: &JobSpec,
    old: Option<&PodTemplateSpec>,
    path: &Path,
) {
    for (name, count) in [
        ("parallelism", spec.parallelism.map(i64::from)),
        ("completions", spec.completions.map(i64::from)),
        ("activeDeadlineSeconds", spec.active_deadline_seconds),
        ("backoffLimit", spec.backoff_limit.map(i64::from)),
        (
            "ttlSecondsAfterFinished",
            spec.ttl_seconds_after_finished.map(i64::from),
        ),
        (
            "backoffLimitPerIndex",
            spec.backoff_limit_per_index.map(i64::from),
        ),
        ("maxFailedIndexes", spec.max_failed_indexes.map(i64::from)),
    ] {
        non_negative(errors, &path.child(name), count.unwrap_or(0));
    }
    if spec.max_failed_indexes.is_some() && spec.backoff_limit_per_index.is_none() {
        let path = path.child("backoffLimitPerIndex");
        errors.push(FieldError::required(
            &path,
            "when maxFailedIndexes is specified",
        ));
    }
    if let Some(manager) = &spec.managed_by {
        managed_by(errors, manager, &path.child("managedBy"));
    }
    if let Some(mode) = &spec.completion_mode {
        one_of(
            errors,
            &path.child("completionMode"),
            mode,
            &["NonIndexed", INDEXED],
        );
    }
    match text(&spec.completion_mode) {
        INDEXED => indexed(errors, spec, path),
        "" | "NonIndexed" => {
            for (name, value) in [
                ("backoffLimitPerIndex", spec.backoff_limit_per_index),
                ("maxFailedIndexes", spec.max_failed_indexes),
            ] {
                if let Some(value) = value {
                    errors.push(FieldError::invalid(&path.child(name), value, NEEDS_INDEXES));
                }
            }
        }
        _ => {}
    }
    if let Some(policy) = &spec.pod_failure_policy {
        failure_policy(errors, policy, spec, &path.child("podFailurePolicy"));
    }
    if let Some(policy) = &spec.success_policy {
        success_policy(errors, &policy.rules, spec, &path.child("successPolicy"));
    }
    if let Some(policy) = &spec.pod_replacement_policy {
        let supported: &[&str] = if spec.pod_failure_policy.is_some() {
            &["Failed"]
        } else {
            &["Failed", "TerminatingOrFailed"]
        };
        one_of(
            errors,
            &path.child("podReplacementPolicy"),
            policy,
            supported,
        );
    }
    let template_path = path.child("template");
    validate_template(errors, &spec.template, old, &template_path);
    restart_policy(
        errors,
        spec,
        &template_path.child("spec").child("restartPolicy"),
    );
}

fn restart_policy(errors: &mut ErrorList, spec: &JobSpec, path: &Path) {
    let policy = spec
        .template
        .spec
        .as_ref()
        .map_or("", |spec| text(&spec.restart_policy));
    match policy {
        "Always" | "" => {
            errors.push(FieldError::required(
                path,
                "valid values: \"OnFailure\", \"Never\"",
            ));
        }
        "Never" => {}
        "OnFailure" if spec.pod_failure_policy.is_some() => errors.push(FieldError::invalid(
            path,
            policy,
            "only \"Never\" is supported when podFailurePolicy is specified",
        )),
        _ => one_of(errors, path, policy, &["OnFailure", "Never"]),
    }
}

fn managed_by(errors: &mut ErrorList, manager: &str, path: &Path) {
    const PATTERN: &str = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+";
    match manager.split_once('/') {
        _ if manager.is_empty() => errors.push(FieldError::required(path, "")),
        Some((host, rest)) if !host.is_empty() && !rest.is_empty() => {
            all_invalid(errors, path, host, names::dns_subdomain(host));
            let allowed = |c: char| c.is_ascii_alphanumeric() || "/-._~%!$&'()*+,;=:".contains(c);
            if !rest.chars().all(allowed) {
                let detail = names::pattern_error("Invalid path", PATTERN, &[]);
                errors.push(FieldError::invalid(path, rest, &detail));
            }
        }
        _ => errors.push(FieldError::invalid(
            path,
            manager,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        )),
    }
    if manager.len() > names::LABEL_MAX {
        errors.push(FieldError::too_long(path, names::LABEL_MAX));
    }
}

fn indexed(errors: &mut ErrorList, spec: &JobSpec, path: &Path) {
    let (parallelism_path, failed_path) =
        (path.child("parallelism"), path.child("maxFailedIndexes"));
    if spec.completions.is_none() {
        let detail = "when completion mode is Indexed";
        errors.push(FieldError::required(&path.child("completions"), detail));
    }
    let parallelism = spec.parallelism.unwrap_or(0);
    if parallelism > INDEXED_MAX {
        let detail =
            format!("must be less than or equal to {INDEXED_MAX} when completion mode is Indexed");
        errors.push(FieldError::invalid(&parallelism_path, parallelism, &detail));
    }
    if let Some(failed) = spec.max_failed_indexes {
        if spec
            .completions
            .is_some_and(|completions| failed > completions)
        {
            let detail = "must be less than or equal to completions";
            errors.push(FieldError::invalid(&failed_path, failed, detail));
        }
        if failed > INDEXED_MAX {
            let detail = format!("must be less than or equal to {INDEXED_MAX}");
            errors.push(FieldError::invalid(&failed_path, failed, &detail));
        }
    }
    let many = spec
        .completions
        .is_some_and(|completions| completions > INDEXED_MAX);
    if !many || spec.backoff_limit_per_index.is_none() {
        return;
    }
    let limit = format!(
        "must be less than or equal to {HIGH_MAX} when completions are above {INDEXED_MAX} and used with backoff limit per index"
    );
    if spec.max_failed_indexes.is_none() {
        let detail = format!("must be specified when completions is above {INDEXED_MAX}");
        errors.push(FieldError::required(&failed_path, &detail));
    }
    if parallelism > HIGH_MAX {
        errors.push(FieldError::invalid(&parallelism_path, parallelism, &limit));
    }
    if let Some(failed) = spec.max_failed_indexes.filter(|failed| *failed > HIGH_MAX) {
        errors.push(FieldError::invalid(&failed_path, failed, &limit));
    }
}

fn failure_policy(errors: &mut ErrorList, policy: &PodFailurePolicy, spec: &JobSpec, path: &Path) {
    let path = path.child("rules");
    if policy.rules.len() > RULES {
        errors.push(FieldError::too_many(&path, policy.rules.len(), RULES));
    }
    for (index, rule) in policy.rules.iter().enumerate() {
        failure_rule(errors, rule, spec, &path.index(index));
    }
}

fn choice(errors: &mut ErrorList, path: &Path, value: &str, supported: &[&str]) {
    if value.is_empty() {
        let list: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        let detail = format!("valid values: [{}]", list.join(" "));
        errors.push(FieldError::required(path, &detail));
    } else {
        one_of(errors, path, value, supported);
    }
}

fn failure_rule(errors: &mut ErrorList, rule: &PodFailurePolicyRule, spec: &JobSpec, path: &Path) {
    let action_path = path.child("action");
    if rule.action == "FailIndex" {
        if spec.backoff_limit_per_index.is_none() {
            let detail = "requires the backoffLimitPerIndex to be set";
            errors.push(FieldError::invalid(&action_path, &rule.action, detail));
        }
    } else {
        let actions = ["Count", "FailIndex", "FailJob", "Ignore"];
        choice(errors, &action_path, &rule.action, &actions);
    }
    let conditions = items(&rule.on_pod_conditions);
    if let Some(codes) = &rule.on_exit_codes {
        exit_codes(errors, codes, spec, &path.child("onExitCodes"));
    }
    let conditions_path = path.child("onPodConditions");
    if conditions.len() > RULES {
        errors.push(FieldError::too_many(
            &conditions_path,
            conditions.len(),
            RULES,
        ));
    }
    for (index, pattern) in conditions.iter().enumerate() {
        let path = conditions_path.index(index);
        let wrong = names::qualified_name(&pattern.type_);
        all_invalid(errors, &path.child("type"), &pattern.type_, wrong);
        let statuses = ["False", "True", "Unknown"];
        choice(
            errors,
            &path.child("status"),
            text(&pattern.status),
            &statuses,
        );
    }
    let detail = match (rule.on_exit_codes.is_some(), conditions.is_empty()) {
        (true, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
        (false, true) => "specifying one of OnExitCodes and OnPodConditions is required",
        _ => return,
    };
    errors.push(bare_invalid(path, detail));
}

fn exit_codes(
    errors: &mut ErrorList,
    codes: &PodFailurePolicyOnExitCodesRequirement,
    spec: &JobSpec,
    path: &Path,
) {
    choice(
        errors,
        &path.child("operator"),
        &codes.operator,
        &["In", "NotIn"],
    );
    let pod = spec.template.spec.as_ref();
    let known = |name: &str| {
        pod.is_some_and(|pod| {
            let mut containers = pod.containers.iter().chain(items(&pod.init_containers));
            containers.any(|container| container.name == name)
        })
    };
    if let Some(name) = codes.container_name.as_ref().filter(|name| !known(name)) {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.push(FieldError::invalid(
            &path.child("containerName"),
            name,
            detail,
        ));
    }
    let (values, path) = (&codes.values, path.child("values"));
    if values.is_empty() {
        let shown = Bare("null".into());
        errors.push(FieldError::invalid(
            &path,
            shown,
            "at least one value is required",
        ));
    } else if values.len() > EXIT_CODES {
        errors.push(FieldError::too_many(&path, values.len(), EXIT_CODES));
    }
    let mut seen = BTreeSet::new();
    for (index, code) in values.iter().enumerate() {
        let path = path.index(index);
        if codes.operator == "In" && *code == 0 {
            errors.push(FieldError::invalid(
                &path,
                *code,
                "must not be 0 for the In operator",
            ));
        }
        if !seen.insert(*code) {
            errors.push(FieldError::duplicate(&path, *code));
        }
    }
    if !values.is_sorted() {
        errors.push(FieldError::invalid(&path, json(values), "must be ordered"));
    }
}

fn success_policy(
    errors: &mut ErrorList,
    rules: &[SuccessPolicyRule],
    spec: &JobSpec,
    path: &Path,
) {
    if !is_indexed(spec) {
        errors.push(FieldError::invalid(
            path,
            shown_success_rules(rules),
            NEEDS_INDEXES,
        ));
        return;
    }
    let path = path.child("rules");
    if rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.push(FieldError::required(&path, detail));
    }
    if rules.len() > RULES {
        errors.push(FieldError::too_many(&path, rules.len(), RULES));
    }
    let completions = spec.completions.unwrap_or(0);
    for (index, rule) in rules.iter().enumerate() {
        success_rule(errors, rule, completions, &path.index(index));
    }
}

fn shown_success_rules(rules: &[SuccessPolicyRule]) -> Bare {
    let rules: Vec<String> = rules
        .iter()
        .map(|rule| {
            format!(
                "{{\"SucceededIndexes\":{},\"SucceededCount\":{}}}",
                json(&rule.succeeded_indexes).0,
                json(&rule.succeeded_count).0
            )
        })
        .collect();
    Bare(format!("{{\"Rules\":[{}]}}", rules.join(",")))
}

fn success_rule(errors: &mut ErrorList, rule: &SuccessPolicyRule, completions: i32, path: &Path) {
    if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
        let detail = "at least one of succeededCount or succeededIndexes must be specified";
        errors.push(FieldError::required(path, detail));
    }
    let mut total = 0;
    if let Some(indexes) = &rule.succeeded_indexes {
        let path = path.child("succeededIndexes");
        if indexes.len() > INDEXES_TEXT {
            errors.push(FieldError::too_long(&path, INDEXES_TEXT));
        }
        match count_indexes(indexes, completions) {
            Ok(count) => total = count,
            Err(error) => {
                let detail = format!("error parsing succeededIndexes: {error}");
                errors.push(FieldError::invalid(&path, indexes, &detail));
            }
        }
    }
    let Some(count) = rule.succeeded_count else {
        return;
    };
    let path = path.child("succeededCount");
    non_negative(errors, &path, count);
    if count > completions {
        let detail = format!(
            "must be less than or equal to {completions} (the number of specified completions)"
        );
        errors.push(FieldError::invalid(&path, count, &detail));
    }
    if rule.succeeded_indexes.is_some() && count > total {
        let detail = format!(
            "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
        );
        errors.push(FieldError::invalid(&path, count, &detail));
    }
}

/// How many indexes a text such as `0,2-4` names.
pub(super) fn count_indexes(text: &str, completions: i32) -> Result<i32, String> {
    let (mut total, mut last) = (0_i32, None);
    if text.is_empty() {
        return Ok(0);
    }
    for interval in text.split(',') {
        let (start, end) = interval_of(interval, completions)?;
        if let Some(last) = last.filter(|last| *last >= start) {
            return Err(format!(
                "non-increasing order, previous: {last}, current: {start}"
            ));
        }
        total = total.saturating_add(end - start + 1);
        last = Some(end);
    }
    Ok(total)
}

fn interval_of(interval: &str, completions: i32) -> Result<(i32, i32), String> {
    let index = |text: &str| -> Result<i32, String> {
        let wrong = || format!("cannot convert string to integer for index: {text:?}");
        let number: i64 = text.parse().map_err(|_| wrong())?;
        if number >= i64::from(completions) {
            return Err(format!("too large index: {text:?}"));
        }
        i32::try_from(number).map_err(|_| wrong())
    };
    match interval.split('-').collect::<Vec<_>>().as_slice() {
        [only] => index(only).map(|only| (only, only)),
        [start, end] => {
            let (start, end) = (index(start)?, index(end)?);
            if start >= end {
                return Err(format!(
                    "non-increasing order, previous: {start}, current: {end}"
                ));
            }
            Ok((start, end))
        }
        _ => Err(format!(
            "the fragment {interval:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        )),
    }
}

/// What is wrong with a changed Job, its metadata aside.
#[must_use]
pub fn validate_job_update(new: &Job, old: &Job) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, old_spec, path) = (spec_of(new), spec_of(old), Path::new("spec"));
    whole_spec(&mut errors, &spec, Some(&old_spec.template), &path);
    let completions_path = path.child("completions");
    if spec.completions != old_spec.completions {
        if !is_indexed(&spec) {
            let shown = json(&spec.completions);
            let (new, old) = (&spec.completions, &old_spec.completions);
            immutable(&mut errors, &completions_path, new, old, shown);
        } else if let Some(completions) = spec
            .completions
            .filter(|_| spec.completions != spec.parallelism)
        {
            let detail = "can only be modified in tandem with spec.parallelism";
            errors.push(FieldError::invalid(&completions_path, completions, detail));
        }
    }
    let shown = shown_selector(spec.selector.as_ref());
    immutable(
        &mut errors,
        &path.child("selector"),
        &spec.selector,
        &old_spec.selector,
        shown,
    );
    template_update(&mut errors, &spec, &old_spec, old, &path);
    macro_rules! kept {
        ($($name:literal $field:ident),*) => { $(
            immutable(&mut errors, &path.child($name), &spec.$field, &old_spec.$field, json(&spec.$field));
        )* };
    }
    kept!(
        "completionMode" completion_mode,
        "podFailurePolicy" pod_failure_policy,
        "backoffLimitPerIndex" backoff_limit_per_index,
        "managedBy" managed_by,
        "successPolicy" success_policy
    );
    errors
}

/// A template stays, but for where and how much a suspended job's pods will run.
fn template_update(
    errors: &mut ErrorList,
    spec: &JobSpec,
    old_spec: &JobSpec,
    old: &Job,
    path: &Path,
) {
    let mut allowed = old_spec.template.clone();
    let suspended = set(old_spec.suspend);
    let conditions = old
        .status
        .as_ref()
        .map_or(&[][..], |status| items(&status.conditions));
    let said = conditions
        .iter()
        .any(|c| c.type_ == "Suspended" && c.status == "True");
    let started = old
        .status
        .as_ref()
        .is_some_and(|status| status.start_time.is_some());
    if suspended && (said || !started) {
        let new = spec.template.spec.clone().unwrap_or_default();
        let pod = allowed.spec.get_or_insert_with(Default::default);
        let node = new
            .affinity
            .as_ref()
            .and_then(|affinity| affinity.node_affinity.clone());
        let mut affinity = pod.affinity.take().unwrap_or_default();
        affinity.node_affinity = node;
        let empty = affinity == Default::default() && new.affinity.is_none();
        pod.affinity = (!empty).then_some(affinity);
        pod.node_selector = new.node_selector;
        pod.tolerations = new.tolerations;
        pod.scheduling_gates = new.scheduling_gates;
        let init = pod.init_containers.as_deref_mut().unwrap_or_default();
        with_resources_of(&mut pod.containers, &new.containers);
        with_resources_of(init, items(&new.init_containers));
        // Labels and annotations may change, too: only the rest of the pods is looked at.
        let path = path.child("template").child("spec");
        let shown = json(&spec.template.spec);
        immutable(errors, &path, &spec.template.spec, &allowed.spec, shown);
        return;
    }
    let shown = json(&spec.template);
    immutable(
        errors,
        &path.child("template"),
        &spec.template,
        &allowed,
        shown,
    );
}

/// Gives containers the resources of those of the same names, where none came or went.
fn with_resources_of(containers: &mut [Container], others: &[Container]) {
    if containers.len() != others.len() {
        return;
    }
    for (container, other) in containers.iter_mut().zip(others) {
        if container.name == other.name {
            container.resources.clone_from(&other.resources);
        }
    }
}

/// What the client is told about a Job.
#[must_use]
pub fn warnings_job(new: &Job, old: Option<&Job>) -> Vec<String> {
    let spec = spec_of(new);
    let own = spec_warnings(&spec, &Path::new("spec"));
    match old {
        None => [name_warnings(&new.metadata.name), own].concat(),
        Some(old) if old.metadata.generation == new.metadata.generation => Vec::new(),
        Some(_) => own,
    }
}

/// What is said of a Job's spec.
pub(super) fn spec_warnings(spec: &JobSpec, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    if is_indexed(spec)
        && spec.completions.unwrap_or(0) > INDEXED_MAX
        && spec.parallelism.unwrap_or(0) > HIGH_MAX
    {
        warnings.push(format!(
            "{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        ));
    }
    warnings.extend(template_warnings(&spec.template, &path.child("template")));
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn job(more: Value) -> Job {
        let mut spec = json!({"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "a:1"}]}}});
        if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
            spec.extend(more);
        }
        let document = json!({"metadata": {"name": "j", "uid": "u"}, "spec": spec});
        let mut job: Job = serde_json::from_value(document).unwrap_or_default();
        crate::defaults::batch::default_job(&mut job);
        crate::defaults::batch::generate_job_selector(&mut job);
        job
    }

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn table() {
        let table: [(Value, &[&str]); 5] = [
            (json!({}), &[]),
            (
                json!({"template": {"spec": {"containers": [{"name": "a", "image": "a:1"}]}}}),
                &[
                    "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
                ],
            ),
            (
                json!({"parallelism": -1, "backoffLimitPerIndex": 1}),
                &[
                    "spec.parallelism: Invalid value: -1: must be greater than or equal to 0",
                    "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
                ],
            ),
            (
                json!({"podFailurePolicy": {"rules": [{"action": "FailJob", "onExitCodes": {"operator": "In", "values": [2, 0]}}]}}),
                &[
                    "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator",
                    "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [2,0]: must be ordered",
                ],
            ),
            (
                json!({"completionMode": "Indexed", "completions": 3, "successPolicy": {"rules": [{"succeededIndexes": "0-4"}]}}),
                &[
                    "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"0-4\": error parsing succeededIndexes: too large index: \"4\"",
                ],
            ),
        ];
        for (spec, expected) in table {
            assert_eq!(texts(&validate_job(&job(spec.clone()))), expected, "{spec}");
        }
    }

    #[test]
    fn what_stays() {
        let (new, old) = (
            job(json!({"completions": 2})),
            job(json!({"completions": 1})),
        );
        assert_eq!(
            texts(&validate_job_update(&new, &old)),
            ["spec.completions: Invalid value: 2: field is immutable"]
        );
    }

    #[test]
    fn the_pods_of_a_suspended_job_may_get_other_resources_but_no_other_images() {
        let job = |suspend: bool, image: &str, cpu: &str| -> Job {
            let container = json!({"name": "a", "image": image, "terminationMessagePolicy": "File",
                "imagePullPolicy": "Always", "resources": {"requests": {"cpu": cpu}}});
            serde_json::from_value(
                json!({"metadata": {}, "spec": {"suspend": suspend, "template": {"spec": {
                "restartPolicy": "Never", "dnsPolicy": "Default", "containers": [container]}}}}),
            )
            .unwrap()
        };
        let paths = |new: &Job, old: &Job| -> Vec<String> {
            let errors = validate_job_update(new, old);
            let told = errors.iter().map(ToString::to_string);
            let told = told.filter(|error| error.ends_with("field is immutable"));
            told.map(|error| error.split(": ").next().unwrap().to_owned())
                .collect()
        };
        let old = job(true, "a", "1");
        assert_eq!(paths(&job(true, "a", "2"), &old), [""; 0]);
        assert_eq!(paths(&job(true, "b", "2"), &old), ["spec.template.spec"]);
        let old = job(false, "a", "1");
        assert_eq!(paths(&job(false, "a", "2"), &old), ["spec.template"]);
    }
}
