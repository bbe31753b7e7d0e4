//! `ValidatingWebhookConfiguration` (admissionregistration.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::ValidatingWebhookConfiguration;
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
    kind: "ValidatingWebhookConfiguration",
    plural: "validatingwebhookconfigurations",
    singular: "validatingwebhookconfiguration",
    short_names: &[],
    categories: &["api-extensions"],
    scope: Scope::Cluster,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/validatingwebhookconfigurations",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.admissionregistration.v1.ValidatingWebhookConfiguration",
    conversion: None,
    ops: &Typed::<ValidatingWebhookConfigurationStrategy>::new(),
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
pub struct ValidatingWebhookConfigurationStrategy;

impl Strategy for ValidatingWebhookConfigurationStrategy {
    type Object = ValidatingWebhookConfiguration;
    const HAS_GENERATION: bool = true;
    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn default(object: &mut ValidatingWebhookConfiguration) {
        crate::defaults::admissionregistration::default_validating_webhook_configuration(object);
    }

    fn validate_create(object: &ValidatingWebhookConfiguration) -> ErrorList {
        Self::validate_create_with(object, &Unchecked)
    }

    fn validate_create_with(
        object: &ValidatingWebhookConfiguration,
        checker: &dyn ExpressionChecker,
    ) -> ErrorList {
        webhooks::validate_validating(object, None, checker)
    }

    fn validate_update_with(
        new: &ValidatingWebhookConfiguration,
        old: &ValidatingWebhookConfiguration,
        checker: &dyn ExpressionChecker,
    ) -> ErrorList {
        webhooks::validate_validating(new, Some(old), checker)
    }

    fn warnings(
        new: &ValidatingWebhookConfiguration,
        _: Option<&ValidatingWebhookConfiguration>,
    ) -> Vec<String> {
        rules::name_warnings(&new.metadata.name)
    }

    fn row(object: &ValidatingWebhookConfiguration, now: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            object.webhooks.as_ref().map_or(0, Vec::len).into(),
            printing::age(&object.metadata, now),
        ]
    }
}
