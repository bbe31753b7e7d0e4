//! How role bindings show to whom they grant.

use k8s_openapi::api::rbac::v1::Subject;

/// The users, groups and service accounts of a binding, each as one text.
pub(super) fn subjects(subjects: &[Subject]) -> [String; 3] {
    let of = |kind: &str, text: fn(&Subject) -> String| {
        subjects
            .iter()
            .filter(|subject| subject.kind == kind)
            .map(text)
            .collect::<Vec<_>>()
            .join(", ")
    };
    [
        of("User", |subject| subject.name.clone()),
        of("Group", |subject| subject.name.clone()),
        of("ServiceAccount", |subject| {
            format!(
                "{}/{}",
                subject.namespace.as_deref().unwrap_or_default(),
                subject.name
            )
        }),
    ]
}
