//! `SelfSubjectReview` (authentication.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use serde_json::Value;

use crate::kind::{CREATE_ONLY, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "authentication.k8s.io",
    version: "v1",
    kind: "SelfSubjectReview",
    plural: "selfsubjectreviews",
    singular: "selfsubjectreview",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    verbs: CREATE_ONLY,
    subresources: &[],
    storage: "",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.authentication.v1.SelfSubjectReview",
    conversion: None,
    ops: &Typed::<SelfSubjectReviewStrategy>::new(),
};

const COLUMNS: &[Column] = &[Column::NAME, Column::CREATED_AT];

/// What is special about this kind.
pub struct SelfSubjectReviewStrategy;

impl Strategy for SelfSubjectReviewStrategy {
    type Object = SelfSubjectReview;

    fn row(object: &SelfSubjectReview, _: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::created_at(&object.metadata),
        ]
    }
}
