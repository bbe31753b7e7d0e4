//! What is written into a claim for the devices that were found.

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::api::resource::v1::{
    AllocationResult, DeviceAllocationConfiguration, DeviceAllocationResult,
    DeviceRequestAllocationResult,
};

use super::allocator::Found;
use super::request::{Request, Wanted};

/// Stands for the identity of a share until it gets one.
pub const UNNAMED_SHARE: &str = "";

/// The allocation of a claim.
pub fn allocation(
    wanted: &Wanted<'_>,
    found: &[Found<'_>],
    node: &str,
) -> Result<AllocationResult, String> {
    let results = found.iter().filter_map(|found| result(wanted, found));
    let config = configuration(wanted, found);
    let devices = DeviceAllocationResult {
        config: Some(config).filter(|config| !config.is_empty()),
        results: Some(results.collect()),
    };
    Ok(AllocationResult {
        allocation_timestamp: None,
        devices: Some(devices),
        node_selector: node_selector(found, node)?,
    })
}

fn request_of<'a>(
    wanted: &'a Wanted<'a>,
    (place, which): (usize, usize),
) -> Option<&'a Request<'a>> {
    wanted.requests.get(place)?.alternatives.get(which)
}

fn result(wanted: &Wanted<'_>, found: &Found<'_>) -> Option<DeviceRequestAllocationResult> {
    let request = request_of(wanted, found.request)?;
    let (spec, device) = (&found.slice.spec, found.device);
    let some = |texts: &Option<Vec<String>>| texts.clone().filter(|texts| !texts.is_empty());
    Some(DeviceRequestAllocationResult {
        admin_access: request.admin.then_some(true),
        binding_conditions: some(&device.binding_conditions),
        binding_failure_conditions: some(&device.binding_failure_conditions),
        consumed_capacity: found.share.clone().filter(|share| !share.is_empty()),
        device: device.name.clone(),
        driver: spec.driver.clone(),
        pool: spec.pool.name.clone(),
        request: request.full_name(),
        share_id: found.share.as_ref().map(|_| UNNAMED_SHARE.to_owned()),
        tolerations: Some(request.tolerations.to_vec()).filter(|all| !all.is_empty()),
    })
}

/// Settings of classes, each class once with the requests that use it, and then those of the claim.
fn configuration(wanted: &Wanted<'_>, found: &[Found<'_>]) -> Vec<DeviceAllocationConfiguration> {
    let mut chosen: Vec<(usize, usize)> = found.iter().map(|found| found.request).collect();
    chosen.sort_unstable();
    chosen.dedup();
    let requests: Vec<&Request<'_>> = chosen
        .iter()
        .filter_map(|place| request_of(wanted, *place))
        .collect();
    let mut all: Vec<DeviceAllocationConfiguration> = Vec::new();
    let mut classes: Vec<&str> = Vec::new();
    for request in &requests {
        let class = request.class.metadata.name.as_deref().unwrap_or_default();
        if classes.contains(&class) {
            continue;
        }
        classes.push(class);
        let same = |other: &&&Request<'_>| other.class.metadata.name.as_deref() == Some(class);
        let names: Vec<String> = requests
            .iter()
            .filter(same)
            .map(|one| one.full_name())
            .collect();
        let stated = request.class.spec.config.iter().flatten();
        all.extend(stated.map(|config| DeviceAllocationConfiguration {
            opaque: config.opaque.clone(),
            requests: Some(names.clone()),
            source: "FromClass".to_owned(),
        }));
    }
    let devices = wanted.claim.spec.devices.as_ref();
    let stated = devices.and_then(|devices| devices.config.as_deref());
    for config in stated.unwrap_or_default() {
        let names = config.requests.as_deref().unwrap_or_default();
        if names.is_empty() || requests.iter().any(|request| request.is_among(names)) {
            all.push(DeviceAllocationConfiguration {
                opaque: config.opaque.clone(),
                requests: config.requests.clone(),
                source: "FromClaim".to_owned(),
            });
        }
    }
    all
}

/// Where pods with the claim can run; none for everywhere.
fn node_selector(found: &[Found<'_>], node: &str) -> Result<Option<NodeSelector>, String> {
    let mut term = NodeSelectorTerm::default();
    for found in found {
        let (spec, device) = (&found.slice.spec, found.device);
        let (name, selector) = if spec.per_device_node_selection == Some(true) {
            (&device.node_name, &device.node_selector)
        } else {
            (&spec.node_name, &spec.node_selector)
        };
        if name.is_some() || device.binds_to_node == Some(true) {
            return Ok(Some(only(node)));
        }
        let terms = selector
            .as_ref()
            .map(|selector| selector.node_selector_terms.as_slice());
        match terms.unwrap_or_default() {
            [] => {}
            [one] => {
                merge(&mut term.match_fields, one.match_fields.as_deref());
                merge(
                    &mut term.match_expressions,
                    one.match_expressions.as_deref(),
                );
            }
            several => {
                return Err(format!(
                    "unsupported ResourceSlice.NodeSelector with {} terms",
                    several.len()
                ));
            }
        }
    }
    let restricts = term.match_fields.is_some() || term.match_expressions.is_some();
    Ok(restricts.then(|| NodeSelector {
        node_selector_terms: vec![term],
    }))
}

fn only(node: &str) -> NodeSelector {
    let name = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_fields: Some(vec![name]),
            match_expressions: None,
        }],
    }
}

fn merge(
    into: &mut Option<Vec<NodeSelectorRequirement>>,
    from: Option<&[NodeSelectorRequirement]>,
) {
    for requirement in from.unwrap_or_default() {
        let sorted = |requirement: &NodeSelectorRequirement| {
            let mut values = requirement.values.clone().unwrap_or_default();
            values.sort();
            values
        };
        let known = into.get_or_insert_default();
        let same = |other: &NodeSelectorRequirement| {
            other.key == requirement.key
                && other.operator == requirement.operator
                && sorted(other) == sorted(requirement)
        };
        if !known.iter().any(same) {
            known.push(requirement.clone());
        }
    }
}
