//! Which devices a claim got, and what drivers say of them.

use std::collections::BTreeSet;

use k8s_openapi::api::resource::v1::{
    AllocatedDeviceStatus, AllocationResult, DeviceAllocationConfiguration,
    DeviceRequestAllocationResult, NetworkDeviceData, ResourceClaimStatus,
};

use super::slices::binding;
use super::{CONFIGS, Requests, opaque, pool_name, raw_object, reference, references, set};
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{items, text};
use crate::validation::core::pod::affinity::node_selector;
use crate::validation::core::pod::volumes::csi_driver_name;
use crate::validation::meta;
use crate::validation::names;
use crate::validation::net::Network;
use crate::validation::values::{Bare, all_invalid, json, required_one_of};

const RESULTS: usize = 32;
const CONDITIONS: usize = 8;
const ADDRESSES: usize = 16;
const INTERFACE_NAME: usize = 256;
const HARDWARE_ADDRESS: usize = 128;

/// What is wrong with a new allocation.
pub(super) fn result(
    errors: &mut ErrorList,
    allocation: &AllocationResult,
    requests: &Requests<'_>,
    path: &Path,
) {
    let devices = allocation.devices.as_ref();
    let list = devices.map_or(&[][..], |devices| items(&devices.results));
    let devices_path = path.child("devices");
    set(
        errors,
        list,
        RESULTS,
        &devices_path.child("results"),
        |_| None,
        |errors, one, path| device(errors, one, requests, path),
    );
    let list = devices.map_or(&[][..], |devices| items(&devices.config));
    set(
        errors,
        list,
        // Of the class and of the claim.
        2 * CONFIGS,
        &devices_path.child("config"),
        |_| None,
        |errors, one, path| configuration(errors, one, requests, path),
    );
    if let Some(selector) = &allocation.node_selector {
        node_selector(errors, selector, false, &path.child("nodeSelector"));
    }
}

fn device(
    errors: &mut ErrorList,
    one: &DeviceRequestAllocationResult,
    requests: &Requests<'_>,
    path: &Path,
) {
    reference(errors, &one.request, requests, &path.child("request"));
    names_of(errors, (&one.driver, &one.pool, &one.device), path);
    binding(
        errors,
        items(&one.binding_conditions),
        items(&one.binding_failure_conditions),
        path,
    );
    share(errors, one.share_id.as_deref(), &path.child("shareID"));
}

fn names_of(errors: &mut ErrorList, (driver, pool, device): (&str, &str, &str), path: &Path) {
    csi_driver_name(errors, driver, &path.child("driver"));
    pool_name(errors, pool, &path.child("pool"));
    all_invalid(
        errors,
        &path.child("device"),
        device,
        names::dns_label(device),
    );
}

fn configuration(
    errors: &mut ErrorList,
    one: &DeviceAllocationConfiguration,
    requests: &Requests<'_>,
    path: &Path,
) {
    let sources = ["FromClaim", "FromClass"];
    required_one_of(errors, &path.child("source"), &one.source, &sources);
    let names = items(&one.requests);
    references(errors, names, requests, &path.child("requests"));
    opaque(errors, one.opaque.as_ref(), false, &path.child("opaque"));
}

/// The id of a share of a device: a UUID in its usual form.
fn share(errors: &mut ErrorList, id: Option<&str>, path: &Path) {
    let Some(id) = id else { return };
    if let Some(why) = no_uuid(id) {
        let detail = format!("error validating uid: {why}");
        errors.push(FieldError::invalid(path, id, &detail));
    } else if id.len() != 36 || id.bytes().any(|c| c.is_ascii_uppercase()) {
        let detail = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters";
        errors.push(FieldError::invalid(path, id, detail));
    }
}

/// Why the text is no UUID in any of the forms there are.
fn no_uuid(text: &str) -> Option<String> {
    let hex = |part: &str| part.bytes().all(|c| c.is_ascii_hexdigit());
    let usual = |part: &str| {
        let lengths = part.split('-').map(str::len);
        lengths.eq([8, 4, 4, 4, 12]) && part.split('-').all(hex)
    };
    let good = match text.len() {
        36 => usual(text),
        45 => match text.get(..9) {
            Some(head) if head.eq_ignore_ascii_case("urn:uuid:") => {
                text.get(9..).is_some_and(usual)
            }
            head => {
                return Some(format!(
                    "invalid urn prefix: {:?}",
                    head.unwrap_or_default()
                ));
            }
        },
        38 => match text
            .strip_prefix('{')
            .and_then(|text| text.strip_suffix('}'))
        {
            Some(inner) => usual(inner),
            None => return Some("invalid bracketed UUID format".to_owned()),
        },
        32 => hex(text),
        length => return Some(format!("invalid UUID length: {length}")),
    };
    (!good).then(|| "invalid UUID format".to_owned())
}

/// Driver, pool, device and share: what a device is known by.
type Id<'a> = (&'a str, &'a str, &'a str, &'a str);

fn shown((driver, pool, device, share): Id<'_>) -> Bare {
    let parts = [
        ("Driver", driver),
        ("Pool", pool),
        ("Device", device),
        ("ShareID", share),
    ];
    let parts = parts.map(|(name, value)| format!("\"{name}\":{}", json(value).0));
    Bare(format!("{{{}}}", parts.join(",")))
}

/// What drivers say of the devices that are allocated.
pub(super) fn devices(errors: &mut ErrorList, status: &ResourceClaimStatus, path: &Path) {
    let allocated = status.allocation.as_ref().and_then(|a| a.devices.as_ref());
    let results = allocated.map_or(&[][..], |devices| items(&devices.results));
    let known: BTreeSet<Id<'_>> = results
        .iter()
        .map(|one| (&*one.driver, &*one.pool, &*one.device, text(&one.share_id)))
        .collect();
    let (mut seen, mut twice) = (BTreeSet::new(), Vec::new());
    for (index, one) in items(&status.devices).iter().enumerate() {
        let path = path.index(index);
        let id = (&*one.driver, &*one.pool, &*one.device, text(&one.share_id));
        names_of(errors, (id.0, id.1, id.2), &path);
        share(errors, one.share_id.as_deref(), &path.child("shareID"));
        if !known.contains(&id) {
            let detail = "must be an allocated device in the claim";
            errors.push(FieldError::invalid(&path, shown(id), detail));
        }
        said(errors, one, &path);
        if !seen.insert(id) {
            twice.push(FieldError::duplicate(&path, shown(id)));
        }
    }
    errors.extend(twice);
}

fn said(errors: &mut ErrorList, one: &AllocatedDeviceStatus, path: &Path) {
    let (conditions, place) = (items(&one.conditions), path.child("conditions"));
    if conditions.len() > CONDITIONS {
        errors.push(FieldError::too_many(&place, conditions.len(), CONDITIONS));
    }
    meta::conditions(errors, conditions, &place);
    if let Some(data) = &one.data {
        raw_object(errors, &data.0, false, &path.child("data"));
    }
    if let Some(network) = &one.network_data {
        network_data(errors, network, &path.child("networkData"));
    }
}

fn network_data(errors: &mut ErrorList, data: &NetworkDeviceData, path: &Path) {
    for (field, value, most) in [
        ("interfaceName", &data.interface_name, INTERFACE_NAME),
        ("hardwareAddress", &data.hardware_address, HARDWARE_ADDRESS),
    ] {
        if text(value).len() > most {
            errors.push(FieldError::too_long(&path.child(field), most));
        }
    }
    set(
        errors,
        items(&data.ips),
        ADDRESSES,
        &path.child("ips"),
        |address| Some(address),
        |errors, address, path| match Network::parse(address) {
            None => errors.push(FieldError::invalid(
                path,
                address,
                "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)",
            )),
            Some(network) => {
                let form = interface_address(&network);
                if *address != form {
                    let detail = format!("must be in canonical form ({form:?})");
                    errors.push(FieldError::invalid(path, address, &detail));
                }
            }
        },
    );
}

fn interface_address(network: &Network) -> String {
    let address = network.address.to_canonical();
    let bits = network.prefix;
    let mapped = address.is_ipv4() && bits > 32;
    format!("{address}/{}", if mapped { bits - 96 } else { bits })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validation::resource::validate_resource_claim_status_update;
    use k8s_openapi::api::resource::v1::ResourceClaim;
    use serde_json::{Value, json};

    fn texts(status: Value) -> Vec<String> {
        let claim = |status: Value| -> ResourceClaim {
            let exactly = json!({"deviceClassName": "c", "allocationMode": "All"});
            serde_json::from_value(json!({"metadata": {}, "status": status,
                "spec": {"devices": {"requests": [{"name": "r", "exactly": exactly}]}}}))
            .unwrap()
        };
        let (new, old) = (claim(status), claim(json!({})));
        let errors = validate_resource_claim_status_update(&new, &old);
        errors.iter().map(ToString::to_string).collect()
    }

    fn result(more: Value) -> Value {
        let mut one =
            json!({"request": "r", "driver": "d.example.com", "pool": "p", "device": "d0"});
        one.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        one
    }

    #[test]
    fn results() {
        let found =
            |more: Value| texts(json!({"allocation": {"devices": {"results": [result(more)]}}}));
        let place = "status.allocation.devices.results[0]";
        assert_eq!(found(json!({})), [""; 0]);
        assert_eq!(
            found(json!({"request": "other", "shareID": "A"})),
            [
                format!(
                    "{place}.request: Invalid value: \"other\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'"
                ),
                format!(
                    "{place}.shareID: Invalid value: \"A\": error validating uid: invalid UUID length: 1"
                ),
            ]
        );
        let config = json!([{"source": "Nowhere", "requests": ["r", "r"]}]);
        assert_eq!(
            texts(json!({"allocation": {"devices": {"config": config}}})),
            [
                "status.allocation.devices.config[0].source: Unsupported value: \"Nowhere\": supported values: \"FromClaim\", \"FromClass\"",
                "status.allocation.devices.config[0].requests[1]: Duplicate value: \"r\"",
                "status.allocation.devices.config[0].opaque: Required value",
            ]
        );
    }

    #[test]
    fn what_drivers_say() {
        let allocation = json!({"devices": {"results": [result(json!({}))]}});
        let said = |device: &str, more: Value| {
            let mut one = json!({"driver": "d.example.com", "pool": "p", "device": device});
            one.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            texts(json!({"allocation": allocation, "devices": [one]}))
        };
        assert_eq!(said("d0", json!({"data": {"a": 1}})), [""; 0]);
        assert_eq!(
            said("d1", json!({})),
            [
                "status.devices[0]: Invalid value: {\"Driver\":\"d.example.com\",\"Pool\":\"p\",\"Device\":\"d1\",\"ShareID\":\"\"}: must be an allocated device in the claim"
            ]
        );
        assert_eq!(
            said(
                "d0",
                json!({"networkData": {"ips": ["300.1.1.1/8", "10.1.1.01/8", "10.1.1.1/8"]}})
            ),
            [
                "status.devices[0].networkData.ips[0]: Invalid value: \"300.1.1.1/8\": must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)",
                "status.devices[0].networkData.ips[1]: Invalid value: \"10.1.1.01/8\": must be in canonical form (\"10.1.1.1/8\")",
            ]
        );
    }

    #[test]
    fn forms_of_ids() {
        let plain = "0b52a4c3-4b8a-4a3a-9a52-0a4c5e1f0d2b";
        for good in [
            plain.to_owned(),
            plain.replace('-', ""),
            format!("{{{plain}}}"),
            format!("urn:uuid:{plain}"),
        ] {
            assert_eq!(no_uuid(&good), None, "{good}");
        }
        assert_eq!(
            no_uuid(&plain.replace('b', "x")),
            Some("invalid UUID format".into())
        );
    }
}
