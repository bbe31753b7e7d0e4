//! Namespaces and ServiceAccounts.

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};

use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{entry, items, text};
use crate::validation::meta::finalizer_group;
use crate::validation::names;
use crate::validation::values::all_invalid;

fn finalizers(namespace: &Namespace, indexed: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec").child("finalizers");
    let list = namespace
        .spec
        .as_ref()
        .map_or(&[][..], |spec| items(&spec.finalizers));
    for (index, finalizer) in list.iter().enumerate() {
        let path = if indexed {
            path.index(index)
        } else {
            path.clone()
        };
        all_invalid(
            &mut errors,
            &path,
            finalizer,
            names::qualified_name(finalizer),
        );
        finalizer_group(&mut errors, finalizer, &path);
    }
    errors
}

/// What is wrong with a new Namespace, its metadata aside.
#[must_use]
pub fn validate_namespace(namespace: &Namespace) -> ErrorList {
    finalizers(namespace, false)
}

/// What is wrong with a changed Namespace, its metadata aside.
#[must_use]
pub fn validate_namespace_update(new: &Namespace, _old: &Namespace) -> ErrorList {
    finalizers(new, false)
}

/// What is wrong with the finalizers written to a Namespace's `finalize` subresource.
#[must_use]
pub fn validate_namespace_finalize_update(new: &Namespace, _old: &Namespace) -> ErrorList {
    finalizers(new, true)
}

/// What is wrong with the new status of a Namespace: its phase says whether it is being deleted.
#[must_use]
pub fn validate_namespace_status_update(new: &Namespace, _old: &Namespace) -> ErrorList {
    let phase = new.status.as_ref().map_or("", |status| text(&status.phase));
    let (wanted, condition) = if new.metadata.deletion_timestamp.is_some() {
        ("Terminating", "is not empty")
    } else {
        ("Active", "is empty")
    };
    if phase == wanted {
        return ErrorList::new();
    }
    let path = Path::new("status").child("Phase");
    let detail = format!("may only be '{wanted}' if `deletionTimestamp` {condition}");
    vec![FieldError::invalid(&path, phase, &detail)]
}

/// What is wrong with a ServiceAccount, its metadata aside: nothing can be.
#[must_use]
pub fn validate_service_account(_account: &ServiceAccount) -> ErrorList {
    ErrorList::new()
}

/// What the client is told about a ServiceAccount.
#[must_use]
pub fn warnings_service_account(new: &ServiceAccount, old: Option<&ServiceAccount>) -> Vec<String> {
    const KEY: &str = "kubernetes.io/enforce-mountable-secrets";
    let has = |account: &ServiceAccount| entry(&account.metadata.annotations, KEY).is_some();
    if !has(new) || old.is_some_and(has) {
        return Vec::new();
    }
    vec![format!(
        "metadata.annotations[{KEY}]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets"
    )]
}
