//! Defaults of groups with one kind or two: what is always there, and little else.

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::scheduling::v1::PriorityClass;

use super::core::default_resource_list;
use crate::validation::absent::default_value;

/// A PriorityClass: its pods may preempt others.
pub fn default_priority_class(class: &mut PriorityClass) {
    default_value(&mut class.preemption_policy, "PreemptLowerPriority".into());
    default_value(&mut class.value, 0);
}

/// A PodDisruptionBudget.
pub fn default_pod_disruption_budget(budget: &mut PodDisruptionBudget) {
    default_value(&mut budget.spec, Default::default());
    default_value(&mut budget.status, Default::default());
}

/// A Lease.
pub fn default_lease(lease: &mut Lease) {
    default_value(&mut lease.spec, Default::default());
}

/// A CertificateSigningRequest.
pub fn default_certificate_signing_request(request: &mut CertificateSigningRequest) {
    default_value(&mut request.status, Default::default());
}

/// A RuntimeClass.
pub fn default_runtime_class(class: &mut RuntimeClass) {
    if let Some(overhead) = &mut class.overhead {
        default_resource_list(&mut overhead.pod_fixed);
    }
}

/// A TokenRequest: an hour.
pub fn default_token_request(request: &mut TokenRequest) {
    let spec = request.spec.get_or_insert_with(Default::default);
    default_value(&mut spec.expiration_seconds, 3600);
    default_value(&mut request.status, Default::default());
}
