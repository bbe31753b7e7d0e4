//! `MutatingWebhookConfiguration` (admissionregistration.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;
use crate::validation::admissionregistration::{rules, webhooks};
use crate::validation::expressions::{ExpressionChecker, Unchecked};

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "admissionregistration.k8s.io",
    version: "v1",
    kind: "MutatingWebhookConfiguration",
    plural: "mutatingwebhookconfigurations",
    singular: "mutatingwebhookconfiguration",
    short_names: &[],
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/mutatingwebhookconfigurations",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.admissionregistration.v1.MutatingWebhookConfiguration",
    conversion: None,
    ops: &Typed::<MutatingWebhookConfigurationStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "Webhooks",
        "integer",
        "How many webhooks the configuration registers.",
    ),
    Column::AGE,
];

/// What is special about this kind.
pub struct MutatingWebhookConfigurationStrategy;

impl Strategy for MutatingWebhookConfigurationStrategy {
    type Object = MutatingWebhookConfiguration;
    const HAS_GENERATION: bool = true;
    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn default(object: &mut MutatingWebhookConfiguration) {
        crate::defaults::admissionregistration::default_mutating_webhook_configuration(object);
    }

    fn validate_create(object: &MutatingWebhookConfiguration) -> ErrorList {
        Self::validate_create_with(object, &Unchecked)
    }

    fn validate_create_with(
        object: &MutatingWebhookConfiguration,
        checker: &dyn ExpressionChecker,
    ) -> ErrorList {
        webhooks::validate_mutating(object, None, checker)
    }

    fn validate_update_with(
        new: &MutatingWebhookConfiguration,
        old: &MutatingWebhookConfiguration,
        checker: &dyn ExpressionChecker,
    ) -> ErrorList {
        webhooks::validate_mutating(new, Some(old), checker)
    }

    fn warnings(
        new: &MutatingWebhookConfiguration,
        _: Option<&MutatingWebhookConfiguration>,
    ) -> Vec<String> {
        rules::name_warnings(&new.metadata.name)
    }

    fn row(object: &MutatingWebhookConfiguration, now: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            object.webhooks.as_ref().map_or(0, Vec::len).into(),
            printing::age(&object.metadata, now),
        ]
    }
}
