//! `ResourceQuota` (v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ResourceQuota;
use serde_json::Value;
use std::collections::BTreeMap;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, Column, Kind, Scope, Strategy, Subresource, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ResourceQuota",
    plural: "resourcequotas",
    singular: "resourcequota",
    short_names: &["quota"],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[Subresource::status("", "v1", "ResourceQuota")],
    storage: "/registry/resourcequotas",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.core.v1.ResourceQuota",
    conversion: None,
    ops: &Typed::<ResourceQuotaStrategy>::new(),
};

const COLUMNS: &[Column] = &[
    Column::NAME,
    Column::new(
        "Request",
        "string",
        "What is used of the quota on requests.",
    ),
    Column::new("Limit", "string", "What is used of the quota on limits."),
    Column::AGE,
];

/// What is special about this kind.
pub struct ResourceQuotaStrategy;

impl Strategy for ResourceQuotaStrategy {
    type Object = ResourceQuota;
    const HAS_STATUS: bool = true;
    const HAS_GENERATION: bool = false;

    fn default(object: &mut ResourceQuota) {
        crate::defaults::core::default_resource_quota(object);
    }

    crate::kind::keep_status!();

    fn validate_create(object: &ResourceQuota) -> ErrorList {
        crate::validation::core::validate_resource_quota(object)
    }

    fn validate_update(new: &ResourceQuota, old: &ResourceQuota) -> ErrorList {
        crate::validation::core::validate_resource_quota_update(new, old)
    }

    fn validate_status_update(new: &ResourceQuota, old: &ResourceQuota) -> ErrorList {
        crate::validation::core::validate_resource_quota_status_update(new, old)
    }

    fn warnings(new: &ResourceQuota, old: Option<&ResourceQuota>) -> Vec<String> {
        crate::validation::warnings::warnings_resource_quota(new, old)
    }

    fn row(object: &ResourceQuota, now: Timestamp) -> Vec<Value> {
        let none = BTreeMap::new();
        let status = object.status.as_ref();
        let hard = status
            .and_then(|status| status.hard.as_ref())
            .unwrap_or(&none);
        let used = status
            .and_then(|status| status.used.as_ref())
            .unwrap_or(&none);
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (resource, limit) in hard {
            let text = format!(
                "{resource}: {}/{}",
                used.get(resource).map_or("0", |used| &used.0),
                limit.0
            );
            match resource.starts_with("limits.") {
                true => limits.push(text),
                false => requests.push(text),
            }
        }
        vec![
            object.metadata.name.clone().into(),
            requests.join(", ").into(),
            limits.join(", ").into(),
            printing::age(&object.metadata, now),
        ]
    }
}
