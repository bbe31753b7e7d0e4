//! What becomes of the device claims of pods: which are to be made, and what is given back when nobody uses one.

use std::sync::Arc;

use k8s_openapi::api::core::v1::PodResourceClaim;
use k8s_openapi::api::resource::v1::{
    ResourceClaim, ResourceClaimConsumerReference, ResourceClaimStatus, ResourceClaimTemplate,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::ownership::is_controlled_by;
use crate::pods;
use crate::seen_pod::Pod;

/// Keeps a claim with devices from vanishing before they are given back.
pub const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Says which of a pod's claims a claim was made for.
const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";
/// The longest start of a name that is to be completed.
const LONGEST: usize = 57;

/// The name of a claim that a pod uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimName<'a> {
    /// The pod states it.
    Stated(&'a str),
    /// It was made from a template.
    Made(&'a str),
    /// It is still to be made from a template.
    ToBeMade,
    /// None is needed.
    Needless,
    /// The pod says nothing that is known here.
    Unknown,
}

/// The name of a claim that a pod uses.
#[must_use]
pub fn name_of<'a>(pod: &'a Pod, claim: &'a PodResourceClaim) -> ClaimName<'a> {
    if let Some(name) = &claim.resource_claim_name {
        return ClaimName::Stated(name);
    }
    if claim.resource_claim_template_name.is_none() {
        return ClaimName::Unknown;
    }
    let status = pod.status.as_ref();
    let mut known = status
        .into_iter()
        .flat_map(|status| status.resource_claim_statuses.iter().flatten());
    match known.find(|known| known.name == claim.name) {
        None => ClaimName::ToBeMade,
        Some(known) => match known.resource_claim_name.as_deref() {
            None => ClaimName::Needless,
            Some("") => ClaimName::ToBeMade,
            Some(name) => ClaimName::Made(name),
        },
    }
}

/// What is wrong with a claim of a kind that is not known.
#[must_use]
pub fn fault_of(pod: &Pod, claim: &PodResourceClaim) -> String {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    format!(
        "pod \"{namespace}/{name}\", spec.resourceClaim \"{}\": none of the supported fields are set",
        claim.name
    )
}

/// Whether a claim was made for the pod.
#[must_use]
pub fn is_made_for(claim: &ResourceClaim, pod: &Pod) -> bool {
    is_controlled_by(&claim.metadata, &pod.metadata)
}

/// Whether a claim that was made for a pod is the one for this use of it.
#[must_use]
pub fn is_for(claim: &ResourceClaim, used: &PodResourceClaim) -> bool {
    let annotations = claim.metadata.annotations.as_ref();
    annotations.and_then(|all| all.get(POD_CLAIM)) == Some(&used.name)
}

/// Whether the pod holds the claim's devices.
#[must_use]
pub fn is_reserved(claim: &ResourceClaim, pod: &Pod) -> bool {
    let status = claim.status.as_ref();
    let mut holders = status
        .into_iter()
        .flat_map(|status| status.reserved_for.iter().flatten());
    holders.any(|holder| Some(&holder.uid) == pod.metadata.uid.as_ref())
}

/// How a claim names a pod that holds it.
#[must_use]
pub fn pod_reference(pod: &Pod) -> ResourceClaimConsumerReference {
    ResourceClaimConsumerReference {
        api_group: None,
        name: pod.metadata.name.clone().unwrap_or_default(),
        resource: "pods".to_owned(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
    }
}

/// Whether no container of a pod runs or ever will.
#[must_use]
pub fn is_done(pod: &Pod) -> bool {
    pods::is_terminal(pod) || (pods::is_deleting(pod) && pods::node_name(pod).is_empty())
}

/// Whether something is to be done for a pod's claims, as far as these are known.
pub fn needs_work(pod: &Pod, find: impl Fn(&str) -> Option<Arc<ResourceClaim>>) -> bool {
    if pods::is_deleting(pod) {
        return false;
    }
    let spec = pod.spec.as_ref();
    let mut used = spec
        .into_iter()
        .flat_map(|spec| spec.resource_claims.iter().flatten());
    used.any(|used| {
        let (name, made) = match name_of(pod, used) {
            ClaimName::Needless => return false,
            ClaimName::ToBeMade | ClaimName::Unknown => return true,
            ClaimName::Stated(name) => (name, false),
            ClaimName::Made(name) => (name, true),
        };
        let Some(claim) = find(name) else {
            return made;
        };
        let allocated = claim
            .status
            .as_ref()
            .is_some_and(|status| status.allocation.is_some());
        let own = !made || is_made_for(&claim, pod);
        own && !pods::node_name(pod).is_empty() && allocated && !is_reserved(&claim, pod)
    })
}

/// The start of a name: of both parts as much as fits, by their lengths.
fn generate_name(pod: &str, claim: &str) -> String {
    let whole = format!("{pod}-{claim}-");
    if whole.len() <= LONGEST {
        return whole;
    }
    let part = |text: &str| {
        let end = text.len() * LONGEST / whole.len();
        text.get(..end).unwrap_or(text).to_owned()
    };
    format!("{}-{}", part(pod), part(claim))
}

/// The claim that a template makes for a pod.
#[must_use]
pub fn from_template(
    pod: &Pod,
    used: &PodResourceClaim,
    template: &ResourceClaimTemplate,
) -> ResourceClaim {
    let meta = template.spec.metadata.clone().unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM.to_owned(), used.name.clone());
    let name = pod.metadata.name.clone().unwrap_or_default();
    ResourceClaim {
        metadata: ObjectMeta {
            generate_name: Some(generate_name(&name, &used.name)),
            namespace: pod.metadata.namespace.clone(),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                name,
                uid: pod.metadata.uid.clone().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            annotations: Some(annotations),
            labels: meta.labels,
            ..ObjectMeta::default()
        },
        spec: template.spec.spec.clone(),
        status: None,
    }
}

/// The pod that a claim was made for: its name and uid.
#[must_use]
pub fn owner_of(claim: &ResourceClaim) -> Option<(&str, &str)> {
    let mut owners = claim.metadata.owner_references.iter().flatten();
    let owner = owners.find(|owner| {
        owner.controller == Some(true) && owner.api_version == "v1" && owner.kind == "Pod"
    })?;
    Some((&owner.name, &owner.uid))
}

/// What is to be done about a claim.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cleanup {
    /// Its new status.
    pub status: Option<ResourceClaimStatus>,
    /// Whether its finalizer is to go.
    pub unprotect: bool,
    /// Whether it is to be deleted.
    pub delete: bool,
}

/// What is to be done about a claim that these pods still hold. `useless`: it was made for a pod that will not run.
#[must_use]
pub fn cleanup(
    claim: &ResourceClaim,
    remaining: Vec<ResourceClaimConsumerReference>,
    useless: bool,
) -> Cleanup {
    let status = claim.status.clone().unwrap_or_default();
    let mut finalizers = claim.metadata.finalizers.iter().flatten();
    let protected = finalizers.any(|known| known == FINALIZER);
    let held = status.reserved_for.as_ref().map_or(0, Vec::len);
    let mut plan = Cleanup {
        delete: remaining.is_empty() && useless,
        ..Cleanup::default()
    };
    if remaining.len() < held {
        let free = remaining.is_empty() && protected;
        plan.unprotect = protected && (free || status.allocation.is_none());
        let mut status = status;
        status.reserved_for = Some(remaining).filter(|all| !all.is_empty());
        plan.status = Some(if free { given_back(status) } else { status });
    } else if protected && claim.metadata.deletion_timestamp.is_some() && remaining.is_empty() {
        plan.unprotect = true;
        plan.status = status.allocation.is_some().then(|| given_back(status));
    }
    plan
}

fn given_back(status: ResourceClaimStatus) -> ResourceClaimStatus {
    ResourceClaimStatus {
        allocation: None,
        devices: None,
        ..status
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(extra: Value) -> Pod {
        let mut object = json!({
            "metadata": {"name": "p", "namespace": "a", "uid": "u"},
            "spec": {"containers": [], "resourceClaims": [{"name": "c", "resourceClaimTemplateName": "t"}]},
        });
        for (key, value) in extra.as_object().unwrap() {
            object[key] = value.clone();
        }
        serde_json::from_value(object).unwrap()
    }

    fn claim(protected: bool, holders: usize, deleting: bool) -> ResourceClaim {
        let holders: Vec<Value> = (0..holders)
            .map(|number| json!({"resource": "pods", "name": "p", "uid": number.to_string()}))
            .collect();
        let finalizers = if protected {
            vec![FINALIZER]
        } else {
            Vec::new()
        };
        let deleted = deleting.then_some("2026-01-01T00:00:00Z");
        serde_json::from_value(json!({
            "metadata": {"name": "c", "finalizers": finalizers, "deletionTimestamp": deleted},
            "spec": {}, "status": {"allocation": {}, "reservedFor": holders},
        }))
        .unwrap()
    }

    #[test]
    fn devices_are_given_back_by_the_last_that_held_them() {
        let holders = |claim: &ResourceClaim, count: usize| {
            let all = claim
                .status
                .clone()
                .unwrap()
                .reserved_for
                .unwrap_or_default();
            all.into_iter().take(count).collect::<Vec<_>>()
        };
        // Protected, held by, still held by, on its way out, useless; allocated afterwards (none: not written), unprotected, deleted.
        for (protected, held, remaining, deleting, useless, expected) in [
            (true, 2, 1, false, false, (Some(true), false, false)),
            (true, 2, 0, false, false, (Some(false), true, false)),
            (true, 1, 0, false, true, (Some(false), true, true)),
            (true, 1, 1, true, true, (None, false, false)),
            (true, 0, 0, false, false, (None, false, false)),
            (true, 0, 0, true, false, (Some(false), true, false)),
            (false, 1, 0, false, false, (Some(true), false, false)),
            (false, 0, 0, true, true, (None, false, true)),
        ] {
            let claim = claim(protected, held, deleting);
            let plan = cleanup(&claim, holders(&claim, remaining), useless);
            let written = plan
                .status
                .as_ref()
                .map(|status| status.allocation.is_some());
            assert_eq!(
                (written, plan.unprotect, plan.delete),
                expected,
                "{protected} {held} {remaining} {deleting}"
            );
        }
    }

    #[test]
    fn claims_come_from_templates() {
        let template: ResourceClaimTemplate =
            serde_json::from_value(json!({"metadata": {"name": "t"}, "spec": {
            "metadata": {"labels": {"l": "v"}, "annotations": {"k": "v"}},
            "spec": {"devices": {"requests": [{"name": "r"}]}}}}))
            .unwrap();
        let pod = pod(json!({}));
        let used = &pod.spec.as_ref().unwrap().resource_claims.as_ref().unwrap()[0];
        let claim = from_template(&pod, used, &template);
        assert_eq!(claim.metadata.generate_name.as_deref(), Some("p-c-"));
        assert!(is_made_for(&claim, &pod) && is_for(&claim, used));
        assert_eq!(claim.metadata.annotations.as_ref().unwrap().len(), 2);
        assert_eq!(claim.metadata.labels.as_ref().unwrap()["l"], "v");
        assert_eq!(claim.spec, template.spec.spec);
        assert_eq!(owner_of(&claim), Some(("p", "u")));
    }

    #[test]
    fn long_names_are_cut_in_both_parts() {
        let name = generate_name(&"p".repeat(60), &"c".repeat(40));
        assert_eq!(
            (name.len() <= LONGEST, name.matches('c').count()),
            (true, 22)
        );
    }

    #[test]
    fn pods_that_have_all_they_need_are_left_alone() {
        let reserved = |uid: &str| -> Arc<ResourceClaim> {
            Arc::new(serde_json::from_value(json!({
                "metadata": {"name": "m", "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u", "controller": true}]},
                "spec": {}, "status": {"allocation": {}, "reservedFor": [{"resource": "pods", "name": "p", "uid": uid}]}}))
            .unwrap())
        };
        let made = json!({"resourceClaimStatuses": [{"name": "c", "resourceClaimName": "m"}]});
        let bound = json!({"containers": [], "nodeName": "n", "resourceClaims": [{"name": "c", "resourceClaimTemplateName": "t"}]});
        for (pod, found, expected) in [
            (pod(json!({})), None, true),
            (
                pod(json!({"status": {"resourceClaimStatuses": [{"name": "c"}]}})),
                None,
                false,
            ),
            (pod(json!({"status": made})), None, true),
            (pod(json!({"status": made})), Some(reserved("x")), false),
            (
                pod(json!({"status": made, "spec": bound})),
                Some(reserved("x")),
                true,
            ),
            (
                pod(json!({"status": made, "spec": bound})),
                Some(reserved("u")),
                false,
            ),
        ] {
            assert_eq!(needs_work(&pod, |_| found.clone()), expected, "{pod:?}");
        }
    }
}
