//! `ResourceClaimTemplate` (resource.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::ResourceClaimTemplate;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Typed};
use crate::printing;
use crate::validation::expressions::{ExpressionChecker, Unchecked};

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "resource.k8s.io",
    version: "v1",
    kind: "ResourceClaimTemplate",
    plural: "resourceclaimtemplates",
    singular: "resourceclaimtemplate",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[],
    storage: "/registry/resourceclaimtemplates",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.resource.v1.ResourceClaimTemplate",
    conversion: None,
    ops: &Typed::<ResourceClaimTemplateStrategy>::new(),
};

const COLUMNS: &[Column] = &[Column::NAME, Column::AGE];

/// What is special about this kind.
pub struct ResourceClaimTemplateStrategy;

impl Strategy for ResourceClaimTemplateStrategy {
    type Object = ResourceClaimTemplate;

    fn default(object: &mut ResourceClaimTemplate) {
        crate::defaults::resource::default_resource_claim_template(object);
    }

    fn validate_create(object: &ResourceClaimTemplate) -> ErrorList {
        Self::validate_create_with(object, &Unchecked)
    }

    fn validate_create_with(
        object: &ResourceClaimTemplate,
        checker: &dyn ExpressionChecker,
    ) -> ErrorList {
        crate::validation::resource::validate_resource_claim_template(object, checker)
    }

    fn validate_update(new: &ResourceClaimTemplate, old: &ResourceClaimTemplate) -> ErrorList {
        crate::validation::resource::validate_resource_claim_template_update(new, old)
    }

    fn row(object: &ResourceClaimTemplate, now: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::age(&object.metadata, now),
        ]
    }
}
