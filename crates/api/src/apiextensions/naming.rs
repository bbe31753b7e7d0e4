//! What the server writes into a definition's status: which names it got, and whether it is served.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionCondition, CustomResourceDefinitionNames,
    CustomResourceDefinitionStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The annotation by which resources of protected groups say who approved them.
pub const APPROVED_ANNOTATION: &str = "api-approved.kubernetes.io";

/// The finalizer under which the instances of a definition are deleted.
pub const CLEANUP_FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// Names that the other definitions of a group have got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Plurals, singulars and short names.
    pub resources: BTreeSet<String>,
    /// Kinds and list kinds.
    pub kinds: BTreeSet<String>,
}

impl Taken {
    /// Adds the names that a definition has got.
    pub fn add(&mut self, names: &CustomResourceDefinitionNames) {
        let resources = [Some(&names.plural), names.singular.as_ref()];
        let short = names.short_names.iter().flatten();
        self.resources
            .extend(resources.into_iter().flatten().chain(short).cloned());
        let kinds = [Some(&names.kind), names.list_kind.as_ref()];
        self.kinds.extend(kinds.into_iter().flatten().cloned());
    }
}

/// Whether a group belongs to the Kubernetes community, so that resources in it must be approved.
#[must_use]
pub fn is_protected(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"].iter().any(|protected| {
        group
            .strip_suffix(protected)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

/// What the approval annotation says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approval {
    /// There is none.
    Missing,
    /// It says that it was not approved.
    Bypassed,
    /// It names where it was approved.
    Approved,
    /// It says something else.
    Invalid,
}

/// What the approval annotation of a definition says, and upstream's words about it.
#[must_use]
pub fn approval(crd: &CustomResourceDefinition) -> (Approval, String) {
    let annotations = crd.metadata.annotations.as_ref();
    let text = annotations
        .and_then(|annotations| annotations.get(APPROVED_ANNOTATION))
        .map(String::as_str)
        .unwrap_or_default();
    const MUST: &str =
        "protected groups must have approval annotation \"api-approved.kubernetes.io\"";
    const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
    let url = text.split_once("://").is_some_and(|(scheme, rest)| {
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        !scheme.is_empty() && !host.is_empty() && !text.contains(' ')
    });
    match text {
        "" => (Approval::Missing, format!("{MUST}, {SEE}")),
        _ if text.starts_with("unapproved") => {
            (Approval::Bypassed, format!("not approved: {text:?}"))
        }
        _ if url => (Approval::Approved, format!("approved in {text}")),
        _ => (
            Approval::Invalid,
            format!("{MUST} with either a URL or a reason starting with \"unapproved\", {SEE}"),
        ),
    }
}

/// A condition without its time.
fn condition(
    type_: &str,
    holds: bool,
    reason: &str,
    message: &str,
) -> CustomResourceDefinitionCondition {
    CustomResourceDefinitionCondition {
        type_: type_.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        ..CustomResourceDefinitionCondition::default()
    }
}

/// Sets a condition; its time changes with its status.
pub fn set_condition(
    status: &mut CustomResourceDefinitionStatus,
    mut new: CustomResourceDefinitionCondition,
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    new.last_transition_time = Some(Time(now));
    match conditions.iter_mut().find(|old| old.type_ == new.type_) {
        Some(old) => {
            if old.status == new.status && old.last_transition_time.is_some() {
                new.last_transition_time = old.last_transition_time.clone();
            }
            *old = new;
        }
        None => conditions.push(new),
    }
}

/// The condition of that type.
#[must_use]
pub fn find_condition<'a>(
    crd: &'a CustomResourceDefinition,
    type_: &str,
) -> Option<&'a CustomResourceDefinitionCondition> {
    let conditions = crd.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// Whether a condition holds.
#[must_use]
pub fn holds(crd: &CustomResourceDefinition, type_: &str) -> bool {
    find_condition(crd, type_).is_some_and(|condition| condition.status == "True")
}

/// What happens to the instances of a definition that is going away, as its condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cleanup {
    /// They are being deleted.
    InProgress,
    /// They are gone.
    Completed,
    /// There could be none.
    NeverEstablished,
    /// Some could not be deleted.
    Failed(String),
}

/// Says in a status what happens to the instances.
pub fn set_terminating(
    status: &mut CustomResourceDefinitionStatus,
    cleanup: &Cleanup,
    now: Timestamp,
) {
    let (holds, reason, message) = match cleanup {
        Cleanup::InProgress => (
            true,
            "InstanceDeletionInProgress",
            "CustomResource deletion is in progress".to_owned(),
        ),
        Cleanup::Completed => (
            false,
            "InstanceDeletionCompleted",
            "removed all instances".to_owned(),
        ),
        Cleanup::NeverEstablished => (
            false,
            "NeverEstablished",
            "resource was never established".to_owned(),
        ),
        Cleanup::Failed(error) => (
            true,
            "InstanceDeletionFailed",
            format!("could not issue all deletes: {error}"),
        ),
    };
    set_condition(
        status,
        condition("Terminating", holds, reason, &message),
        now,
    );
}

/// Begins the deletion of a definition: it stays until its instances are gone.
pub fn mark_deleted(crd: &mut CustomResourceDefinition, now: Timestamp) {
    crd.metadata.deletion_timestamp = Some(Time(now));
    let finalizers = crd.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|held| held == CLEANUP_FINALIZER) {
        finalizers.push(CLEANUP_FINALIZER.to_owned());
    }
    let pending = condition(
        "Terminating",
        true,
        "InstanceDeletionPending",
        "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
    );
    set_condition(crd.status.get_or_insert_default(), pending, now);
}

/// The names that a definition gets, what stands in the way of the others, and why.
fn names(
    wanted: &CustomResourceDefinitionNames,
    have: &CustomResourceDefinitionNames,
    taken: &Taken,
) -> (
    CustomResourceDefinitionNames,
    CustomResourceDefinitionCondition,
) {
    let in_use = |name: &str| format!("{name:?} is already in use");
    let mut got = have.clone();
    let mut conflict = None;
    let mut clash = |reason: &'static str, message: String| conflict = Some((reason, message));
    let free = |wanted: &str, have: &str, used: &BTreeSet<String>| {
        wanted == have || !used.contains(wanted)
    };
    let text = |name: &Option<String>| name.clone().unwrap_or_default();
    match free(&wanted.plural, &have.plural, &taken.resources) {
        true => got.plural.clone_from(&wanted.plural),
        false => clash("PluralConflict", in_use(&wanted.plural)),
    }
    match free(
        &text(&wanted.singular),
        &text(&have.singular),
        &taken.resources,
    ) {
        true => got.singular.clone_from(&wanted.singular),
        false => clash("SingularConflict", in_use(&text(&wanted.singular))),
    }
    let had = have.short_names.as_deref().unwrap_or_default();
    let clashing: Vec<String> = wanted
        .short_names
        .iter()
        .flatten()
        .filter(|name| !had.contains(name) && taken.resources.contains(*name))
        .map(|name| in_use(name))
        .collect();
    match clashing.as_slice() {
        [] => got.short_names.clone_from(&wanted.short_names),
        [one] => clash("ShortNamesConflict", one.clone()),
        many => clash("ShortNamesConflict", format!("[{}]", many.join(", "))),
    }
    match free(&wanted.kind, &have.kind, &taken.kinds) {
        true => got.kind.clone_from(&wanted.kind),
        false => clash("KindConflict", in_use(&wanted.kind)),
    }
    match free(
        &text(&wanted.list_kind),
        &text(&have.list_kind),
        &taken.kinds,
    ) {
        true => got.list_kind.clone_from(&wanted.list_kind),
        false => clash("ListKindConflict", in_use(&text(&wanted.list_kind))),
    }
    got.categories.clone_from(&wanted.categories);
    let condition = match conflict {
        Some((reason, message)) => condition("NamesAccepted", false, reason, &message),
        None => condition("NamesAccepted", true, "NoConflicts", "no conflicts found"),
    };
    (got, condition)
}

/// What the status of a definition becomes, given the names that the others of its group have.
#[must_use]
pub fn plan_status(
    crd: &CustomResourceDefinition,
    taken: &Taken,
    now: Timestamp,
) -> CustomResourceDefinitionStatus {
    let mut status = crd.status.clone().unwrap_or_default();
    let have = status.accepted_names.clone().unwrap_or_default();
    let (got, accepted) = names(&crd.spec.names, &have, taken);
    let named = accepted.status == "True";
    status.accepted_names = Some(got);
    set_condition(&mut status, accepted, now);
    if named {
        // Once established it stays so, as upstream has it.
        if !holds(crd, "Established") {
            let established = condition(
                "Established",
                true,
                "InitialNamesAccepted",
                "the initial names have been accepted",
            );
            set_condition(&mut status, established, now);
        }
    } else if find_condition(crd, "Established").is_none() {
        let waits = condition(
            "Established",
            false,
            "NotAccepted",
            "not all names are accepted",
        );
        set_condition(&mut status, waits, now);
    }
    if is_protected(&crd.spec.group) {
        let (approval, message) = approval(crd);
        let reason = match approval {
            Approval::Missing => "MissingAnnotation",
            Approval::Bypassed => "UnapprovedAnnotation",
            Approval::Approved => "ApprovedAnnotation",
            Approval::Invalid => "InvalidAnnotation",
        };
        let holds = approval == Approval::Approved;
        let conformant = condition(
            "KubernetesAPIApprovalPolicyConformant",
            holds,
            reason,
            &message,
        );
        set_condition(&mut status, conformant, now);
    }
    status
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn definition(group: &str, names: serde_json::Value) -> CustomResourceDefinition {
        serde_json::from_value(json!({
            "metadata": {"name": "foos.e.com"},
            "spec": {"group": group, "names": names, "scope": "Cluster", "versions": []},
        }))
        .unwrap()
    }

    fn shown(crd: &CustomResourceDefinition, type_: &str) -> String {
        let condition = find_condition(crd, type_).unwrap();
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        format!(
            "{} {}: {}",
            condition.status,
            text(&condition.reason),
            text(&condition.message)
        )
    }

    #[test]
    fn free_names_are_accepted_and_the_definition_is_established() {
        let names = json!({"plural": "foos", "singular": "foo", "kind": "Foo", "listKind": "FooList", "shortNames": ["f"]});
        let mut crd = definition("e.com", names);
        crd.status = Some(plan_status(&crd, &Taken::default(), Timestamp::UNIX_EPOCH));
        assert_eq!(
            shown(&crd, "NamesAccepted"),
            "True NoConflicts: no conflicts found"
        );
        assert_eq!(
            shown(&crd, "Established"),
            "True InitialNamesAccepted: the initial names have been accepted"
        );
        let status = crd.status.clone().unwrap();
        assert_eq!(status.accepted_names, Some(crd.spec.names.clone()));
        let later = Timestamp::from_second(9).unwrap();
        assert_eq!(plan_status(&crd, &Taken::default(), later), status);
    }

    #[test]
    fn names_in_use_are_refused_one_by_one() {
        let mut other = Taken::default();
        other.add(&CustomResourceDefinitionNames {
            plural: "foos".to_owned(),
            short_names: Some(vec!["f".to_owned(), "g".to_owned()]),
            kind: "Other".to_owned(),
            list_kind: Some("FooList".to_owned()),
            ..CustomResourceDefinitionNames::default()
        });
        let table = [
            (
                json!({"plural": "foos", "kind": "Foo"}),
                "PluralConflict: \"foos\" is already in use",
            ),
            (
                json!({"plural": "a", "singular": "g", "kind": "Foo"}),
                "SingularConflict: \"g\" is already in use",
            ),
            (
                json!({"plural": "a", "kind": "Foo", "shortNames": ["f", "x"]}),
                "ShortNamesConflict: \"f\" is already in use",
            ),
            (
                json!({"plural": "a", "kind": "Foo", "shortNames": ["f", "g"]}),
                "ShortNamesConflict: [\"f\" is already in use, \"g\" is already in use]",
            ),
            (
                json!({"plural": "a", "kind": "Other"}),
                "KindConflict: \"Other\" is already in use",
            ),
            (
                json!({"plural": "a", "kind": "B", "listKind": "FooList"}),
                "ListKindConflict: \"FooList\" is already in use",
            ),
        ];
        for (names, why) in table {
            let mut crd = definition("e.com", names);
            crd.status = Some(plan_status(&crd, &other, Timestamp::UNIX_EPOCH));
            assert_eq!(shown(&crd, "NamesAccepted"), format!("False {why}"));
            assert_eq!(
                shown(&crd, "Established"),
                "False NotAccepted: not all names are accepted"
            );
        }
    }

    #[test]
    fn protected_groups_say_who_approved() {
        let table = [
            (
                "",
                "False MissingAnnotation: protected groups must have approval annotation \"api-approved.kubernetes.io\", see https://github.com/kubernetes/enhancements/pull/1111",
            ),
            (
                "unapproved, legacy",
                "False UnapprovedAnnotation: not approved: \"unapproved, legacy\"",
            ),
            (
                "https://github.com/x/y",
                "True ApprovedAnnotation: approved in https://github.com/x/y",
            ),
            (
                "yes",
                "False InvalidAnnotation: protected groups must have approval annotation \"api-approved.kubernetes.io\" with either a URL or a reason starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111",
            ),
        ];
        for (annotation, expected) in table {
            let mut crd = definition("foo.k8s.io", json!({"plural": "a", "kind": "A"}));
            crd.metadata.annotations =
                Some([(APPROVED_ANNOTATION.to_owned(), annotation.to_owned())].into());
            crd.status = Some(plan_status(&crd, &Taken::default(), Timestamp::UNIX_EPOCH));
            assert_eq!(
                shown(&crd, "KubernetesAPIApprovalPolicyConformant"),
                expected
            );
        }
        assert!(is_protected("k8s.io") && is_protected("a.kubernetes.io"));
        assert!(!is_protected("myk8s.io") && !is_protected("k8s.io.e.com"));
    }
}
