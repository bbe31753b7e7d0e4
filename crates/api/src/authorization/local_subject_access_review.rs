//! `LocalSubjectAccessReview` (authorization.k8s.io/v1): how it is named, stored, selected and printed.

use jiff::Timestamp;
use k8s_openapi::api::authorization::v1::LocalSubjectAccessReview;
use serde_json::Value;

use crate::kind::{CREATE_ONLY, Column, Kind, Scope, Strategy, Typed};
use crate::printing;

/// The entry in the table of kinds.
pub const KIND: Kind = Kind {
    group: "authorization.k8s.io",
    version: "v1",
    kind: "LocalSubjectAccessReview",
    plural: "localsubjectaccessreviews",
    singular: "localsubjectaccessreview",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    verbs: CREATE_ONLY,
    subresources: &[],
    storage: "",
    columns: COLUMNS,
    fields: &[],
    schema: "io.k8s.api.authorization.v1.LocalSubjectAccessReview",
    conversion: None,
    ops: &Typed::<LocalSubjectAccessReviewStrategy>::new(),
};

const COLUMNS: &[Column] = &[Column::NAME, Column::CREATED_AT];

/// What is special about this kind.
pub struct LocalSubjectAccessReviewStrategy;

impl Strategy for LocalSubjectAccessReviewStrategy {
    type Object = LocalSubjectAccessReview;

    fn row(object: &LocalSubjectAccessReview, _: Timestamp) -> Vec<Value> {
        vec![
            object.metadata.name.clone().into(),
            printing::created_at(&object.metadata),
        ]
    }
}
