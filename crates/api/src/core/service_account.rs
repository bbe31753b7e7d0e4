//! `ServiceAccount` (v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ServiceAccount;
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{ALL_VERBS, CREATE_ONLY, Column, Kind, Scope, Strategy, Subresource, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: ALL_VERBS,
    subresources: &[Subresource {
        name: "token",
        kind: ("authentication.k8s.io", "v1", "TokenRequest"),
        verbs: CREATE_ONLY,
    }],
    storage: "/registry/serviceaccounts",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.core.v1.ServiceAccount",
    conversion: None,
    ops: &Typed::<ServiceAccountStrategy>::new(),
};

const COLUMNS: &[Column] = &[Column::NAME, Column::AGE];

/// What is special about this kind.
pub struct ServiceAccountStrategy;

impl Strategy for ServiceAccountStrategy {
    type Object = ServiceAccount;

    fn validate_create(object: &ServiceAccount) -> ErrorList {
        crate::validation::core::validate_service_account(object)
    }

    fn warnings(new: &ServiceAccount, old: Option<&ServiceAccount>) -> Vec<String> {
        crate::validation::core::warnings_service_account(new, old)
    }

    fn row(object: &ServiceAccount, now: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::age(&object.metadata, now),
        ]
    }
}
