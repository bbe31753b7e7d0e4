//! Claims of devices: what a user must be allowed beyond writing the claim itself.
//!
//! Administrators' access needs a label of the namespace. Who gives a claim devices or holders must be allowed
//! `resourceclaims/binding`, who reports on a driver's devices `resourceclaims/driver`; no such resources are served.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::NodeSelector;
use k8s_openapi::api::resource::v1::{
    AllocatedDeviceStatus, AllocationResult, DeviceRequest, DeviceRequestAllocationResult,
    ResourceClaim, ResourceClaimStatus, ResourceClaimTemplate,
};
use skiff_api::{ApiResult, ErrorList, FieldError, Object, ObjectExt, Path};

use crate::request::{Attributes, UserInfo};
use crate::write::Target;

const GROUP: &str = "resource.k8s.io";
/// The label of namespaces in which administrators' access may be asked for.
const ADMINS: &str = "resource.kubernetes.io/admin-access";
/// Where an authenticator says on which node a service account's pod is.
const NODE: &str = "authentication.kubernetes.io/node-name";

/// Refuses a write of a claim or a template that needs more than the user or the namespace has. Other kinds pass.
pub(crate) async fn check(
    target: &Target<'_>,
    new: &dyn Object,
    old: Option<&dyn Object>,
) -> ApiResult<()> {
    if target.resource.kind.group != GROUP {
        return Ok(());
    }
    let mut errors = ErrorList::new();
    let status = |object: Option<&dyn Object>| {
        let claim = object?.downcast_ref::<ResourceClaim>()?;
        Some(claim.status.clone().unwrap_or_default())
    };
    match (target.subresource, old) {
        ("", None) => {
            if let Some(at) = requests(new).iter().position(is_administrators) {
                let path = Path::new("spec").child("devices").child("requests");
                admin(target, &path.index(at).child("adminAccess"), &mut errors).await?;
            }
        }
        ("status", Some(_)) => {
            if let (Some(new), Some(old)) = (status(Some(new)), status(old)) {
                of_status(target, &new, &old, &mut errors).await?;
            }
        }
        // What is asked for never changes.
        _ => {}
    }
    match errors.is_empty() {
        true => Ok(()),
        false => Err(target.invalid(&errors)),
    }
}

fn requests(object: &dyn Object) -> &[DeviceRequest] {
    let spec = match object.downcast_ref::<ResourceClaim>() {
        Some(claim) => Some(&claim.spec),
        None => object
            .downcast_ref::<ResourceClaimTemplate>()
            .map(|template| &template.spec.spec),
    };
    spec.and_then(|spec| spec.devices.as_ref()?.requests.as_deref())
        .unwrap_or_default()
}

fn is_administrators(request: &DeviceRequest) -> bool {
    let exactly = request.exactly.as_ref();
    exactly.is_some_and(|exactly| exactly.admin_access == Some(true))
}

/// The first device that is allocated for an administrator.
fn granted(allocation: Option<&AllocationResult>) -> Option<usize> {
    let devices = allocation?.devices.as_ref()?;
    let is_admin = |result: &DeviceRequestAllocationResult| result.admin_access == Some(true);
    devices.results.as_ref()?.iter().position(is_admin)
}

async fn admin(target: &Target<'_>, path: &Path, errors: &mut ErrorList) -> ApiResult<()> {
    #[derive(serde::Deserialize)]
    struct Namespace {
        metadata: Labelled,
    }
    #[derive(serde::Deserialize)]
    struct Labelled {
        #[serde(default)]
        labels: BTreeMap<String, String>,
    }
    let request = target.admission(crate::admission::Operation::Update);
    let namespace: Option<Namespace> = request.find("", "namespaces", "", target.namespace).await?;
    let labels = namespace.map(|namespace| namespace.metadata.labels);
    let labels = labels.unwrap_or_default();
    if labels.get(ADMINS).is_none_or(|value| value != "true") {
        let text = format!(
            "admin access to devices requires the `{ADMINS}: true` label on the containing namespace"
        );
        errors.push(FieldError::forbidden(path, &text));
    }
    Ok(())
}

async fn of_status(
    target: &Target<'_>,
    new: &ResourceClaimStatus,
    old: &ResourceClaimStatus,
    errors: &mut ErrorList,
) -> ApiResult<()> {
    let path = Path::new("status").child("allocation");
    if let Some(at) = granted(new.allocation.as_ref())
        && granted(old.allocation.as_ref()).is_none()
    {
        let results = path.child("devices").child("results");
        admin(target, &results.index(at).child("adminAccess"), errors).await?;
    }
    if new.allocation != old.allocation || new.reserved_for != old.reserved_for {
        let asked = Attributes {
            subresource: "binding".to_owned(),
            namespace: String::new(),
            name: String::new(),
            ..attributes(target)
        };
        if let Err(error) = target.call.server.check(&asked).await {
            let text = format!(
                "changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", verb=\"{}\" permission: {}",
                asked.verb, error.message
            );
            errors.push(FieldError::forbidden(&path, &text));
        }
    }
    // Without an allocation there is no device to report on.
    if new.allocation.is_some() {
        let path = Path::new("status").child("devices");
        for driver in changed_drivers(new, old) {
            of_driver(target, new, &driver, &path, errors).await;
        }
    }
    Ok(())
}

async fn of_driver(
    target: &Target<'_>,
    status: &ResourceClaimStatus,
    driver: &str,
    path: &Path,
    errors: &mut ErrorList,
) {
    let verb = attributes(target).verb;
    let node = status.allocation.as_ref().and_then(node_of);
    let mut verbs = vec![format!("arbitrary-node:{verb}")];
    if is_on(&target.call.user, node) {
        verbs.insert(0, format!("associated-node:{verb}"));
    }
    let mut refusal = None;
    for verb in &verbs {
        let asked = Attributes {
            verb: verb.clone(),
            subresource: "driver".to_owned(),
            namespace: target.namespace.to_owned(),
            name: driver.to_owned(),
            ..attributes(target)
        };
        match target.call.server.check(&asked).await {
            Ok(()) => return,
            Err(error) => refusal = refusal.or(Some(error.message)),
        }
    }
    let text = format!(
        "changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[{}]\" permission: {}",
        verbs.join(" "),
        refusal.unwrap_or_default()
    );
    errors.push(FieldError::forbidden(path, &text));
}

fn attributes(target: &Target<'_>) -> Attributes {
    let call = target.call;
    call.info
        .attributes(call.user.clone(), call.parts.uri.query())
}

/// The drivers of devices that are told of anew, differently or no more.
fn changed_drivers(new: &ResourceClaimStatus, old: &ResourceClaimStatus) -> BTreeSet<String> {
    let (new, old) = (new.devices.as_deref(), old.devices.as_deref());
    let (new, old) = (new.unwrap_or_default(), old.unwrap_or_default());
    let only = |these: &[AllocatedDeviceStatus], those: &[AllocatedDeviceStatus]| -> Vec<String> {
        let alone = these.iter().filter(|one| !those.contains(one));
        alone.map(|one| one.driver.clone()).collect()
    };
    only(new, old).into_iter().chain(only(old, new)).collect()
}

/// The one node that an allocation is for.
fn node_of(allocation: &AllocationResult) -> Option<&str> {
    let NodeSelector {
        node_selector_terms: terms,
    } = allocation.node_selector.as_ref()?;
    let [term] = &terms[..] else { return None };
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let [field] = term.match_fields.as_deref()? else {
        return None;
    };
    let [name] = field.values.as_deref()? else {
        return None;
    };
    let named = field.key == "metadata.name" && field.operator == "In" && expressions.is_empty();
    named.then_some(name)
}

/// Whether the user is a service account of a pod on that node.
fn is_on(user: &UserInfo, node: Option<&str>) -> bool {
    let names = user.extra.get(NODE).map(Vec::as_slice).unwrap_or_default();
    let account = user.name.starts_with("system:serviceaccount:");
    matches!(names, [name] if account && Some(name.as_str()) == node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(value: serde_json::Value) -> ResourceClaimStatus {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn drivers_whose_devices_changed() {
        let device = |driver: &str, device: &str, data: &str| json!({"driver": driver, "pool": "p", "device": device, "data": {"x": data}});
        let old = status(json!({"devices": [device("a", "1", "x"), device("b", "1", "x")]}));
        let new = status(
            json!({"devices": [device("a", "1", "x"), device("b", "1", "y"), device("c", "1", "x")]}),
        );
        let changed: Vec<String> = changed_drivers(&new, &old).into_iter().collect();
        assert_eq!(changed, ["b", "c"]);
        assert_eq!(
            changed_drivers(&ResourceClaimStatus::default(), &old).len(),
            2
        );
        assert!(changed_drivers(&old, &old).is_empty());
    }

    #[test]
    fn an_account_is_on_the_node_that_its_token_names() {
        let for_node = status(
            json!({"allocation": {"nodeSelector": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]}}}),
        );
        let node = for_node.allocation.as_ref().and_then(node_of);
        assert_eq!(node, Some("n1"));
        let for_label = status(
            json!({"allocation": {"nodeSelector": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["n1"]}]}]}}}),
        );
        assert_eq!(for_label.allocation.as_ref().and_then(node_of), None);
        let mut user = UserInfo::new("system:serviceaccount:a:b", &[]);
        assert!(!is_on(&user, node));
        user.extra.insert(NODE.to_owned(), vec!["n1".to_owned()]);
        assert!(is_on(&user, node));
        assert!(!is_on(&user, Some("n2")) && !is_on(&user, None));
        user.name = "somebody".to_owned();
        assert!(!is_on(&user, node));
    }
}
