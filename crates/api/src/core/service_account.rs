//! `ServiceAccount` (v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, ServiceAccount};
use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{
    ALL_VERBS, CREATE_ONLY, Column, Kind, Scope, Strategy, Subresource, Typed, WriteContext,
};
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

    fn prepare_create(object: &mut ServiceAccount, _: &WriteContext) {
        keep_names(object);
    }

    fn prepare_update(new: &mut ServiceAccount, _: &ServiceAccount, _: &WriteContext) {
        keep_names(new);
    }

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

/// Secrets are of the account's own namespace: only their names count.
fn keep_names(account: &mut ServiceAccount) {
    for secret in account.secrets.iter_mut().flatten() {
        *secret = ObjectReference {
            name: secret.name.take(),
            ..ObjectReference::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_the_names_of_secrets_are_kept() {
        let secret = json!({"kind": "Secret", "namespace": "elsewhere", "name": "s"});
        let mut account: ServiceAccount =
            serde_json::from_value(json!({"metadata": {}, "secrets": [secret]})).expect("sample");
        keep_names(&mut account);
        assert_eq!(
            serde_json::to_value(&account.secrets).expect("JSON"),
            json!([{"name": "s"}])
        );
    }
}
