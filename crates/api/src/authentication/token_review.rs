//! `TokenReview` (authentication.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::TokenReview;
use serde_json::Value;

use crate::kind::{CREATE_ONLY, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "authentication.k8s.io",
    version: "v1",
    kind: "TokenReview",
    plural: "tokenreviews",
    singular: "tokenreview",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    verbs: CREATE_ONLY,
    subresources: &[],
    storage: "",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.authentication.v1.TokenReview",
    conversion: None,
    ops: &Typed::<TokenReviewStrategy>::new(),
};

const COLUMNS: &[Column] = &[Column::NAME, Column::CREATED_AT];

/// What is special about this kind.
pub struct TokenReviewStrategy;

impl Strategy for TokenReviewStrategy {
    type Object = TokenReview;

    fn row(object: &TokenReview, _: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::created_at(&object.metadata),
        ]
    }
}
