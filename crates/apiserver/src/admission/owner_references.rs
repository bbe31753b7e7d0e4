//! OwnerReferencesPermissionEnforcement: only who may delete an object gives it owners, and only who may set an owner's
//! finalizers makes the owner's deletion wait.

use async_trait::async_trait;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use skiff_api::{ApiResult, Object};

use super::{Admission, AdmissionRequest, Operation};
use crate::request::Attributes;

pub(crate) struct OwnerReferencesPermissionEnforcement;

fn owners(object: Option<&dyn Object>) -> &[OwnerReference] {
    let owners = object.and_then(|object| object.metadata().owner_references.as_deref());
    owners.unwrap_or_default()
}

/// The owners whose deletion newly waits for the object.
fn newly_blocked<'a>(new: &'a [OwnerReference], old: &[OwnerReference]) -> Vec<&'a OwnerReference> {
    let blocks = |one: &OwnerReference| one.block_owner_deletion == Some(true);
    let blocked_before =
        |one: &OwnerReference| old.iter().any(|old| old.uid == one.uid && blocks(old));
    new.iter()
        .filter(|one| blocks(one) && !blocked_before(one))
        .collect()
}

impl OwnerReferencesPermissionEnforcement {
    async fn may(request: &AdmissionRequest<'_>, attributes: Attributes) -> Result<(), String> {
        let attributes = Attributes {
            user: request.call.user.clone(),
            is_resource: true,
            ..attributes
        };
        let decision = request.call.server.decide(&attributes).await;
        match decision.allowed() {
            true => Ok(()),
            false => Err(decision.reason().to_owned()),
        }
    }
}

fn nobody(verb: &str, subresource: &str) -> Attributes {
    Attributes {
        user: std::sync::Arc::default(),
        verb: verb.to_owned(),
        namespace: String::new(),
        group: "*".to_owned(),
        version: "*".to_owned(),
        resource: "*".to_owned(),
        subresource: subresource.to_owned(),
        name: "*".to_owned(),
        path: String::new(),
        is_resource: true,
        label_selector: String::new(),
        field_selector: String::new(),
    }
}

#[async_trait]
impl Admission for OwnerReferencesPermissionEnforcement {
    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&dyn Object>,
        old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        let kind = &request.resource.kind;
        if !matches!(request.operation, Operation::Create | Operation::Update)
            || (kind.group.is_empty() && kind.plural == "pods" && request.subresource == "status")
            || owners(object) == owners(old)
        {
            return Ok(());
        }
        if request.operation == Operation::Update {
            let delete = Attributes {
                namespace: request.namespace.to_owned(),
                group: kind.group.to_string(),
                version: kind.version.to_string(),
                resource: kind.plural.to_string(),
                name: request.name.to_owned(),
                ..nobody("delete", request.subresource)
            };
            if let Err(reason) = Self::may(request, delete).await {
                return Err(request.forbidden(&format!(
                    "cannot set an ownerRef on a resource you can't delete: {reason}, <nil>"
                )));
            }
        }
        let blocked = newly_blocked(owners(object), owners(old));
        if blocked.is_empty()
            || Self::may(request, nobody("update", "finalizers"))
                .await
                .is_ok()
        {
            return Ok(());
        }
        let registry = request.call.server.registry.load_full();
        for owner in blocked {
            let Some(resource) = registry.of_kind(&owner.api_version, &owner.kind) else {
                let (version, kind) = (&owner.api_version, &owner.kind);
                return Err(request.forbidden(&format!(
                    "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion {version} Kind {kind}: no matches for kind {kind:?} in version {version:?}"
                )));
            };
            let namespace = match resource.namespaced() {
                true => request.namespace.to_owned(),
                false => String::new(),
            };
            let finalizers = Attributes {
                namespace,
                group: resource.kind.group.to_string(),
                version: resource.kind.version.to_string(),
                resource: resource.kind.plural.to_string(),
                name: owner.name.clone(),
                ..nobody("update", "finalizers")
            };
            if let Err(reason) = Self::may(request, finalizers).await {
                return Err(request.forbidden(&format!(
                    "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: {reason}, <nil>"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_that_newly_wait() {
        let owner = |uid: &str, block: Option<bool>| OwnerReference {
            uid: uid.to_owned(),
            block_owner_deletion: block,
            ..OwnerReference::default()
        };
        let old = [owner("a", Some(true)), owner("b", Some(false))];
        let new = [
            owner("a", Some(true)),
            owner("b", Some(true)),
            owner("c", None),
            owner("d", Some(true)),
        ];
        let uids: Vec<&str> = newly_blocked(&new, &old)
            .iter()
            .map(|one| one.uid.as_str())
            .collect();
        assert_eq!(uids, ["b", "d"]);
    }
}
