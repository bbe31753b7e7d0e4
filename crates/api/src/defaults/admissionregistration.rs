//! Defaults of the admissionregistration.k8s.io group.

use k8s_openapi::api::admissionregistration::v1::{
    MatchResources, MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding,
    MutatingWebhookConfiguration, RuleWithOperations, ValidatingAdmissionPolicy,
    ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::validation::absent::default_value;

const FAIL: &str = "Fail";

/// What webhooks of both sorts share.
struct Hook<'a> {
    failure_policy: &'a mut Option<String>,
    match_policy: &'a mut Option<String>,
    selectors: [&'a mut Option<LabelSelector>; 2],
    timeout_seconds: &'a mut Option<i32>,
    rules: &'a mut Option<Vec<RuleWithOperations>>,
    client_config: &'a mut WebhookClientConfig,
}

macro_rules! hook {
    ($hook:ident) => {
        Hook {
            failure_policy: &mut $hook.failure_policy,
            match_policy: &mut $hook.match_policy,
            selectors: [&mut $hook.namespace_selector, &mut $hook.object_selector],
            timeout_seconds: &mut $hook.timeout_seconds,
            rules: &mut $hook.rules,
            client_config: &mut $hook.client_config,
        }
    };
}

fn default_hook(hook: Hook<'_>) {
    default_value(hook.failure_policy, FAIL.into());
    default_value(hook.match_policy, "Equivalent".into());
    for selector in hook.selectors {
        default_value(selector, Default::default());
    }
    default_value(hook.timeout_seconds, 10);
    for rule in hook.rules.iter_mut().flatten() {
        default_value(&mut rule.scope, "*".into());
    }
    if let Some(service) = &mut hook.client_config.service {
        default_value(&mut service.port, 443);
    }
}

/// A ValidatingWebhookConfiguration.
pub fn default_validating_webhook_configuration(
    configuration: &mut ValidatingWebhookConfiguration,
) {
    for hook in configuration.webhooks.iter_mut().flatten() {
        default_hook(hook!(hook));
    }
}

/// A MutatingWebhookConfiguration.
pub fn default_mutating_webhook_configuration(configuration: &mut MutatingWebhookConfiguration) {
    for hook in configuration.webhooks.iter_mut().flatten() {
        default_value(&mut hook.reinvocation_policy, "Never".into());
        default_hook(hook!(hook));
    }
}

fn default_match_resources(resources: &mut MatchResources) {
    default_value(&mut resources.match_policy, "Equivalent".into());
    default_value(&mut resources.namespace_selector, Default::default());
    default_value(&mut resources.object_selector, Default::default());
    for rules in [
        &mut resources.resource_rules,
        &mut resources.exclude_resource_rules,
    ] {
        for rule in rules.iter_mut().flatten() {
            default_value(&mut rule.scope, "*".into());
        }
    }
}

/// A ValidatingAdmissionPolicy.
pub fn default_validating_admission_policy(policy: &mut ValidatingAdmissionPolicy) {
    let spec = policy.spec.get_or_insert_with(Default::default);
    default_value(&mut spec.failure_policy, FAIL.into());
    spec.match_constraints
        .iter_mut()
        .for_each(default_match_resources);
    default_value(&mut policy.status, Default::default());
}

/// A ValidatingAdmissionPolicyBinding.
pub fn default_validating_admission_policy_binding(binding: &mut ValidatingAdmissionPolicyBinding) {
    binding
        .spec
        .match_resources
        .iter_mut()
        .for_each(default_match_resources);
}

/// A MutatingAdmissionPolicy.
pub fn default_mutating_admission_policy(policy: &mut MutatingAdmissionPolicy) {
    let spec = policy.spec.get_or_insert_with(Default::default);
    default_value(&mut spec.failure_policy, FAIL.into());
    spec.match_constraints
        .iter_mut()
        .for_each(default_match_resources);
}

/// A MutatingAdmissionPolicyBinding.
pub fn default_mutating_admission_policy_binding(binding: &mut MutatingAdmissionPolicyBinding) {
    let spec = binding.spec.get_or_insert_with(Default::default);
    spec.match_resources
        .iter_mut()
        .for_each(default_match_resources);
}
