//! Bindings of admission policies: which policy, with which parameters, for what.

use std::collections::BTreeSet;

use k8s_openapi::api::admissionregistration::v1::{
    MutatingAdmissionPolicyBinding, ParamRef, ValidatingAdmissionPolicyBinding,
};

use super::rules::{match_resources, mutating_operations};
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::text;
use crate::validation::meta::{SelectorRules, label_selector};
use crate::validation::names;
use crate::validation::values::{all_invalid, json, one_of, required_one_of};

const ACTIONS: &[&str] = &["Audit", "Deny", "Warn"];

/// What is wrong with a ValidatingAdmissionPolicyBinding, its metadata aside.
#[must_use]
pub fn validate_validating(binding: &ValidatingAdmissionPolicyBinding) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (&binding.spec, Path::new("spec"));
    policy_name(&mut errors, &spec.policy_name, &path);
    param_ref(
        &mut errors,
        spec.param_ref.as_ref(),
        &path.child("paramRef"),
    );
    if let Some(resources) = &spec.match_resources {
        match_resources(&mut errors, resources, &path.child("matchResources"));
    }
    let path = path.child("validationActions");
    actions(&mut errors, &spec.validation_actions, &path);
    errors
}

/// What is wrong with a MutatingAdmissionPolicyBinding, its metadata aside.
#[must_use]
pub fn validate_mutating(binding: &MutatingAdmissionPolicyBinding) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let spec = binding.spec.clone().unwrap_or_default();
    policy_name(&mut errors, text(&spec.policy_name), &path);
    param_ref(
        &mut errors,
        spec.param_ref.as_ref(),
        &path.child("paramRef"),
    );
    if let Some(resources) = &spec.match_resources {
        let path = path.child("matchResources");
        match_resources(&mut errors, resources, &path);
        mutating_operations(&mut errors, resources, &path);
    }
    errors
}

fn policy_name(errors: &mut ErrorList, name: &str, path: &Path) {
    let path = path.child("policyName");
    if name.is_empty() {
        errors.push(FieldError::required(&path, ""));
    } else {
        all_invalid(errors, &path, name, names::dns_subdomain(name));
    }
}

fn param_ref(errors: &mut ErrorList, reference: Option<&ParamRef>, path: &Path) {
    const EXCLUSIVE: &str = "name and selector are mutually exclusive";
    let Some(reference) = reference else { return };
    let name = text(&reference.name);
    let selector = reference.selector.as_ref();
    if !name.is_empty() {
        let path = path.child("name");
        all_invalid(errors, &path, name, names::path_segment(name));
        if selector.is_some() {
            errors.push(FieldError::forbidden(&path, EXCLUSIVE));
        }
    }
    if selector.is_some() {
        let path = path.child("selector");
        label_selector(errors, selector, SelectorRules::default(), &path);
        if !name.is_empty() {
            errors.push(FieldError::forbidden(&path, EXCLUSIVE));
        }
    }
    if name.is_empty() && selector.is_none() {
        let detail = "one of name or selector must be specified";
        errors.push(FieldError::required(path, detail));
    }
    required_one_of(
        errors,
        &path.child("parameterNotFoundAction"),
        text(&reference.parameter_not_found_action),
        &["Deny", "Allow"],
    );
}

fn actions(errors: &mut ErrorList, actions: &[String], path: &Path) {
    let mut seen = BTreeSet::new();
    for (index, action) in actions.iter().enumerate() {
        let path = path.index(index);
        one_of(errors, &path, action, ACTIONS);
        if !seen.insert(action.as_str()) {
            errors.push(FieldError::duplicate(&path, action));
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.push(FieldError::invalid(path, json(actions), detail));
    }
    if seen.is_empty() {
        let detail = "at least one validation action is required";
        errors.push(FieldError::required(path, detail));
    }
}
