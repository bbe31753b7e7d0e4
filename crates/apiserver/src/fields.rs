//! Who owns which field of an object: what each write leaves in `metadata.managedFields`.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
use skiff_api::patch::apply::{Manager, record_update};
use skiff_api::{ApiResult, Object};

use crate::patch::is_apply;
use crate::query::WriteOptions;
use crate::registry::Resource;
use crate::server::Call;
use crate::write::{Current, Target};

/// Managers' names are cut to this many bytes.
const MANAGER_MAX: usize = 128;

type Places = &'static [&'static [&'static str]];

const NOTHING: Places = &[];
const STATUS: Places = &[&["status"]];
const SPEC: Places = &[&["spec"]];
const SPEC_AND_METADATA: Places = &[&["spec"], &["metadata"]];
const SPEC_AND_LABELS: Places = &[&["spec"], &["metadata", "labels"]];
const POD_STATUS: Places = &[
    &["spec"],
    &["metadata", "deletionTimestamp"],
    &["metadata", "ownerReferences"],
];
const CERTIFICATE_REQUEST: Places = &[&["spec"], &["status"]];
const CERTIFICATE_STATUS: Places = &[&["spec"], &["status", "conditions"]];
const CERTIFICATE_APPROVAL: Places = &[&["spec"], &["status", "certificate"]];

/// What a write to a subresource of a kind does not change, as upstream's strategies say.
fn ignored(resource: &Resource, subresource: &str) -> Places {
    match (&*resource.kind.plural, subresource) {
        ("certificatesigningrequests", "") => CERTIFICATE_REQUEST,
        ("certificatesigningrequests", "status") => CERTIFICATE_STATUS,
        ("certificatesigningrequests", "approval") => CERTIFICATE_APPROVAL,
        ("pods", "status") => POD_STATUS,
        ("deployments", "status") => SPEC_AND_LABELS,
        (
            "servicecidrs"
            | "resourceclaims"
            | "volumeattachments"
            | "validatingadmissionpolicies"
            | "flowschemas"
            | "prioritylevelconfigurations"
            | "storageversionmigrations",
            "status",
        ) => SPEC_AND_METADATA,
        (_, "status") => SPEC,
        _ if resource.subresource("status").is_some() => STATUS,
        _ => NOTHING,
    }
}

/// The manager that a request writes as: the one it names, else its program.
pub(crate) fn manager_name(call: &Call, options: &WriteOptions) -> String {
    if !options.field_manager.is_empty() {
        return options.field_manager.clone();
    }
    let agent = call.header(http::header::USER_AGENT);
    let program = agent.split('/').next().unwrap_or_default();
    let mut name = String::with_capacity(program.len());
    for c in program.chars().filter(|c| !c.is_control()) {
        if name.len() + c.len_utf8() > MANAGER_MAX {
            break;
        }
        name.push(c);
    }
    if name.is_empty() {
        component(&call.user.name).clone_into(&mut name);
    }
    name
}

/// The program that a component of our own stands for: it sends no `User-Agent` within the process.
fn component(user: &str) -> &str {
    if user.starts_with("system:node:") {
        return "kubelet";
    }
    if user.starts_with("system:serviceaccount:kube-system:") {
        return "kube-controller-manager";
    }
    match user {
        "system:apiserver" => "kube-apiserver",
        _ => user.strip_prefix("system:").unwrap_or_default(),
    }
}

/// Who writes, for the record.
pub(crate) fn manager<'a>(
    call: &Call,
    resource: &Resource,
    subresource: &'a str,
    name: &'a str,
    api_version: &'a str,
) -> Manager<'a> {
    Manager {
        name,
        api_version,
        subresource,
        now: call.server.now(),
        ignored: ignored(resource, subresource),
    }
}

/// Records what a create (`current` is `None`), update or patch changes. An apply has its record already, and binding
/// and eviction are the server's own writes, which upstream does not record. Answers whether the
/// record differs from the one so far in nothing but times.
pub(crate) fn record(
    target: &Target<'_>,
    current: Option<&Current>,
    new: &mut dyn Object,
) -> ApiResult<bool> {
    if is_apply(target.call) || matches!(target.subresource, "binding" | "eviction") {
        return Ok(false);
    }
    let Target { call, resource, .. } = *target;
    let sent = new.metadata_mut().managed_fields.take();
    let had = current.and_then(|current| current.object.metadata().managed_fields.as_ref());
    let entries = so_far(target.subresource, sent, had);
    if entries.is_empty() && current.is_some() {
        return Ok(false);
    }
    let kind = resource.kind.apply_target()?;
    let served = resource.served(crate::write::json_of(new));
    let old = current.map(|current| match resource.is_storage() {
        true => Cow::Borrowed(&current.value),
        false => Cow::Owned(resource.served(current.value.clone())),
    });
    let name = manager_name(call, target.options);
    let api_version = resource.kind.api_version();
    let manager = manager(call, resource, target.subresource, &name, &api_version);
    let entries = record_update(&kind, old.as_deref(), &served, entries, &manager);
    let same = had.is_some_and(|had| same_but_times(had, &entries));
    new.metadata_mut().managed_fields = (!entries.is_empty()).then_some(entries);
    Ok(same)
}

/// The record that a write goes on with: the one that it sends, unless it knows none or writes to a subresource. A
/// list that is empty, or of one empty entry, starts over.
fn so_far(
    subresource: &str,
    sent: Option<Vec<ManagedFieldsEntry>>,
    had: Option<&Vec<ManagedFieldsEntry>>,
) -> Vec<ManagedFieldsEntry> {
    let readable = |entry: &ManagedFieldsEntry| {
        matches!(entry.operation.as_deref(), Some("Apply" | "Update"))
            && entry.fields_type.as_deref() == Some("FieldsV1")
    };
    match sent {
        Some(sent) if subresource.is_empty() => {
            let reset = match sent.as_slice() {
                [] => true,
                [only] => *only == ManagedFieldsEntry::default(),
                _ => false,
            };
            if reset || sent.iter().all(readable) {
                return if reset { Vec::new() } else { sent };
            }
        }
        _ => {}
    }
    had.cloned().unwrap_or_default()
}

fn same_but_times(a: &[ManagedFieldsEntry], b: &[ManagedFieldsEntry]) -> bool {
    a.len() == b.len()
        && a.iter().all(|entry| {
            b.iter().any(|other| {
                entry.manager == other.manager
                    && entry.operation == other.operation
                    && entry.subresource == other.subresource
                    && entry.api_version == other.api_version
                    && entry.fields_v1 == other.fields_v1
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(operation: &str) -> ManagedFieldsEntry {
        ManagedFieldsEntry {
            operation: Some(operation.to_owned()),
            fields_type: Some("FieldsV1".to_owned()),
            ..ManagedFieldsEntry::default()
        }
    }

    #[test]
    fn a_write_goes_on_with_the_record_it_sends_if_it_can_be_read() {
        let had = vec![entry("Apply")];
        let table = [
            ("", None, 1, "Apply"),
            ("", Some(vec![]), 0, ""),
            ("", Some(vec![ManagedFieldsEntry::default()]), 0, ""),
            ("", Some(vec![entry("Update")]), 1, "Update"),
            ("", Some(vec![entry("Other")]), 1, "Apply"),
            ("status", Some(vec![]), 1, "Apply"),
            ("status", Some(vec![entry("Update")]), 1, "Apply"),
        ];
        for (subresource, sent, count, operation) in table {
            let shown = format!("{subresource} {sent:?}");
            let entries = so_far(subresource, sent, Some(&had));
            assert_eq!(entries.len(), count, "{shown}");
            let first = entries.first().and_then(|entry| entry.operation.clone());
            assert_eq!(first.unwrap_or_default(), operation, "{shown}");
        }
    }

    #[test]
    fn components_are_known_by_their_users() {
        for (user, name) in [
            ("system:node:a", "kubelet"),
            (
                "system:serviceaccount:kube-system:job-controller",
                "kube-controller-manager",
            ),
            ("system:kube-scheduler", "kube-scheduler"),
            ("system:apiserver", "kube-apiserver"),
            ("jane", ""),
        ] {
            assert_eq!(component(user), name);
        }
    }
}
