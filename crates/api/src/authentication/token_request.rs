//! `TokenRequest` (authentication.k8s.io/v1): a body of subresources, never stored.

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::TokenRequest;
use serde_json::Value;

use crate::kind::{Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The kind's entry beside the table of resources.
pub const KIND: Kind = Kind {
    group: "authentication.k8s.io",
    version: "v1",
    kind: "TokenRequest",
    plural: "",
    singular: "",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: &[],
    subresources: &[],
    storage: "",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.authentication.v1.TokenRequest",
    conversion: None,
    ops: &Typed::<TokenRequestStrategy>::new(),
};

const COLUMNS: &[Column] = &[Column::NAME, Column::CREATED_AT];

/// What is special about this kind.
pub struct TokenRequestStrategy;

impl Strategy for TokenRequestStrategy {
    type Object = TokenRequest;

    fn default(object: &mut TokenRequest) {
        crate::defaults::other::default_token_request(object);
    }

    fn row(object: &TokenRequest, _: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::created_at(&object.metadata),
        ]
    }
}
