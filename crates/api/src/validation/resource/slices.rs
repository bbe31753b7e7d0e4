//! What drivers offer: the devices of a slice.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1::{Counter, Device, DeviceAttribute, ResourceSliceSpec};

use super::capacity::capacity;
use super::{ID_LENGTH, pool_name, qualified, set};
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{count, items, text};
use crate::validation::core::pod::affinity::node_selector;
use crate::validation::core::pod::volumes::csi_driver_name;
use crate::validation::meta::label_key;
use crate::validation::names;
use crate::validation::values::{
    Bare, all_invalid, immutable, internal_terms, json, required_one_of,
};

const DEVICES: usize = 128;
const DEVICES_WITH_MORE: usize = 64;
const ATTRIBUTES: usize = 32;
const ATTRIBUTE_VALUES: usize = 48;
const VALUE_LENGTH: usize = 64;
const TAINTS: usize = 16;
const COUNTER_SETS: usize = 8;
const COUNTERS: usize = 32;
const CONSUMPTIONS: usize = 2;
const BINDING_CONDITIONS: usize = 4;
/// Keys are cut in messages when they are longer than any that is allowed.
const KEY_LENGTH: usize = 63 + 1 + ID_LENGTH;

const UNSET_OR_TRUE: &str = "must be either unset or set to true";

pub(super) fn slice_spec(
    errors: &mut ErrorList,
    spec: &ResourceSliceSpec,
    old: Option<&ResourceSliceSpec>,
) {
    let path = Path::new("spec");
    csi_driver_name(errors, &spec.driver, &path.child("driver"));
    let pool = path.child("pool");
    pool_name(errors, &spec.pool.name, &pool.child("name"));
    if spec.pool.resource_slice_count <= 0 {
        let path = pool.child("resourceSliceCount");
        let number = spec.pool.resource_slice_count;
        errors.push(FieldError::invalid(
            &path,
            number,
            "must be greater than zero",
        ));
    }
    if spec.pool.generation < 0 {
        let path = pool.child("generation");
        let detail = "must be greater than or equal to zero";
        errors.push(FieldError::invalid(&path, spec.pool.generation, detail));
    }
    if let Some(old) = old {
        let name = &spec.pool.name;
        immutable(errors, &pool.child("name"), name, &old.pool.name, name);
        immutable(
            errors,
            &path.child("driver"),
            &spec.driver,
            &old.driver,
            &spec.driver,
        );
        let node = json(&spec.node_name);
        immutable(
            errors,
            &path.child("nodeName"),
            &spec.node_name,
            &old.node_name,
            node,
        );
    }
    where_from(errors, spec, &path);
    if spec.shared_counters.is_some() && spec.devices.is_some() {
        let detail = "only one of `sharedCounters` or `devices` is allowed";
        errors.push(FieldError::invalid(&path, "", detail));
    }
    let devices = items(&spec.devices);
    let has_more = |device: &Device| {
        !items(&device.taints).is_empty()
            || !items(&device.consumes_counters).is_empty()
            || device
                .attributes
                .iter()
                .flat_map(|all| all.values())
                .any(is_list)
    };
    let most = if devices.iter().any(has_more) {
        DEVICES_WITH_MORE
    } else {
        DEVICES
    };
    let per_device = spec.per_device_node_selection == Some(true);
    set(
        errors,
        devices,
        most,
        &path.child("devices"),
        |one| Some(&one.name),
        |errors, one, path| {
            let before =
                old.and_then(|old| items(&old.devices).iter().find(|old| old.name == one.name));
            device(errors, one, before, per_device, path);
        },
    );
    let counters = items(&spec.shared_counters);
    let path = path.child("sharedCounters");
    set(
        errors,
        counters,
        COUNTER_SETS,
        &path,
        |one| Some(&one.name),
        |errors, one, path| {
            counter_name(errors, &one.name, &path.child("name"));
            counters_of(errors, &one.counters, &path.child("counters"));
        },
    );
}

/// For which nodes a slice is: exactly one way of saying it.
fn where_from(errors: &mut ErrorList, spec: &ResourceSliceSpec, path: &Path) {
    let mut said = Vec::new();
    match spec.node_name.as_deref() {
        None => {}
        Some("") => {
            let detail = "must be either unset or set to a non-empty string";
            errors.push(FieldError::invalid(&path.child("nodeName"), "", detail));
        }
        Some(name) => {
            said.push("`nodeName`");
            all_invalid(
                errors,
                &path.child("nodeName"),
                name,
                names::dns_subdomain(name),
            );
        }
    }
    if let Some(selector) = &spec.node_selector {
        said.push("`nodeSelector`");
        let terms = &selector.node_selector_terms;
        node_selector(errors, selector, false, &path.child("nodeSelector"));
        if terms.len() != 1 {
            let path = path.child("nodeSelector").child("nodeSelectorTerms");
            let detail = "must have exactly one node selector term";
            errors.push(FieldError::invalid(
                &path,
                json(&internal_terms(terms)),
                detail,
            ));
        }
    }
    for (field, shown, value) in [
        ("allNodes", "`allNodes`", spec.all_nodes),
        (
            "perDeviceNodeSelection",
            "`perDeviceNodeSelection`",
            spec.per_device_node_selection,
        ),
    ] {
        match value {
            None => {}
            Some(true) => said.push(shown),
            Some(false) => errors.push(FieldError::invalid(
                &path.child(field),
                false,
                UNSET_OR_TRUE,
            )),
        }
    }
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match said.len() {
        0 => errors.push(FieldError::required(path, ONE)),
        1 => {}
        _ => {
            let shown = format!("{{{}}}", said.join(", "));
            let detail = format!("{ONE}, but multiple fields are set");
            errors.push(FieldError::invalid(path, shown, &detail));
        }
    }
}

fn counter_name(errors: &mut ErrorList, name: &str, path: &Path) {
    match name {
        "" => errors.push(FieldError::required(path, "")),
        name => all_invalid(errors, path, name, names::dns_label(name)),
    }
}

fn counters_of(errors: &mut ErrorList, counters: &BTreeMap<String, Counter>, path: &Path) {
    if counters.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else if counters.len() > COUNTERS {
        errors.push(FieldError::too_many(path, counters.len(), COUNTERS));
    } else {
        for name in counters.keys() {
            all_invalid(errors, path, name, names::dns_label(name));
        }
    }
}

/// The place of a key; the middle of one that is too long is left out.
fn place(path: &Path, key: &str) -> Path {
    if key.len() <= KEY_LENGTH {
        return path.key(key);
    }
    let kept = KEY_LENGTH - 3;
    let (head, tail) = (kept.div_ceil(2), key.len() - kept / 2);
    let part = |range: Option<&str>| range.unwrap_or_default().to_owned();
    path.key(&format!(
        "{}...{}",
        part(key.get(..head)),
        part(key.get(tail..))
    ))
}

fn device(
    errors: &mut ErrorList,
    device: &Device,
    old: Option<&Device>,
    per_device: bool,
    path: &Path,
) {
    let name = &device.name;
    all_invalid(errors, &path.child("name"), name, names::dns_label(name));
    let number = count(&device.attributes) + count(&device.capacity);
    if number > ATTRIBUTES {
        let detail =
            format!("the total number of attributes and capacities must not exceed {ATTRIBUTES}");
        errors.push(FieldError::invalid(path, number, &detail));
    }
    let attributes = || device.attributes.iter().flatten();
    let values: usize = attributes().map(|(_, one)| values_of(one)).sum();
    if values > ATTRIBUTE_VALUES {
        let detail =
            format!("the total number of attribute values must not exceed {ATTRIBUTE_VALUES}");
        errors.push(FieldError::invalid(path, values, &detail));
    }
    let attributes_path = path.child("attributes");
    for (name, one) in attributes() {
        qualified(errors, name, &attributes_path);
        attribute(errors, one, &place(&attributes_path, name));
    }
    let capacity_path = path.child("capacity");
    for (name, one) in device.capacity.iter().flatten() {
        qualified(errors, name, &capacity_path);
        let shared = device.allow_multiple_allocations == Some(true);
        capacity(errors, one, shared, &place(&capacity_path, name));
    }
    if old.is_none_or(|old| items(&old.taints) != items(&device.taints)) {
        taints(errors, device, &path.child("taints"));
    }
    set(
        errors,
        items(&device.consumes_counters),
        CONSUMPTIONS,
        &path.child("consumesCounters"),
        |one| Some(&one.counter_set),
        |errors, one, path| {
            counter_name(errors, &one.counter_set, &path.child("counterSet"));
            counters_of(errors, &one.counters, &path.child("counters"));
        },
    );
    which_nodes(errors, device, per_device, path);
    binding(
        errors,
        items(&device.binding_conditions),
        items(&device.binding_failure_conditions),
        path,
    );
}

fn taints(errors: &mut ErrorList, device: &Device, path: &Path) {
    set(
        errors,
        items(&device.taints),
        TAINTS,
        path,
        |_| None,
        |errors, taint, path| {
            label_key(errors, &taint.key, &path.child("key"));
            let value = text(&taint.value);
            let value_path = path.child("value");
            all_invalid(errors, &value_path, value, names::label_value(value));
            let effects = ["NoExecute", "NoSchedule", "None"];
            required_one_of(errors, &path.child("effect"), &taint.effect, &effects);
        },
    );
}

/// For which nodes a device is, where its slice leaves that to the devices.
fn which_nodes(errors: &mut ErrorList, device: &Device, per_device: bool, path: &Path) {
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    if !per_device {
        if device.node_name.is_some()
            || device.node_selector.is_some()
            || device.all_nodes.is_some()
        {
            errors.push(FieldError::invalid(
                path,
                Bare("null".into()),
                "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec",
            ));
        }
        return;
    }
    let mut said = Vec::new();
    let name_path = path.child("nodeName");
    match device.node_name.as_deref() {
        None => {}
        Some("") => errors.push(FieldError::invalid(&name_path, "", "must not be empty")),
        Some(name) => {
            said.push("`nodeName`");
            all_invalid(errors, &name_path, name, names::dns_subdomain(name));
        }
    }
    if let Some(selector) = &device.node_selector {
        said.push("`nodeSelector`");
        node_selector(errors, selector, false, &path.child("nodeSelector"));
    }
    match device.all_nodes {
        None => {}
        Some(true) => said.push("`allNodes`"),
        Some(false) => {
            let path = path.child("allNodes");
            errors.push(FieldError::invalid(&path, false, UNSET_OR_TRUE));
        }
    }
    match said.len() {
        0 => errors.push(FieldError::required(path, ONE)),
        1 => {}
        _ => {
            let shown = format!("{{{}}}", said.join(", "));
            errors.push(FieldError::invalid(path, shown, ONE));
        }
    }
}

fn is_list(one: &DeviceAttribute) -> bool {
    one.bools.is_some() || one.ints.is_some() || one.strings.is_some() || one.versions.is_some()
}

/// How many values an attribute has; a list counts its elements.
fn values_of(one: &DeviceAttribute) -> usize {
    let listed = items(&one.bools).len()
        + items(&one.ints).len()
        + items(&one.strings).len()
        + items(&one.versions).len();
    listed.max(1)
}

fn attribute(errors: &mut ErrorList, one: &DeviceAttribute, path: &Path) {
    const EMPTY: &str = "must not be empty if specified";
    let lists = [
        ("bools", one.bools.as_ref().map(Vec::len)),
        ("ints", one.ints.as_ref().map(Vec::len)),
        ("strings", one.strings.as_ref().map(Vec::len)),
        ("versions", one.versions.as_ref().map(Vec::len)),
    ];
    if let Some(value) = &one.string {
        string_value(errors, value, &path.child("string"));
    }
    if let Some(value) = &one.version {
        version_value(errors, value, &path.child("version"));
    }
    for (name, length) in lists {
        let path = path.child(name);
        if length == Some(0) {
            errors.push(FieldError::invalid(&path, Bare("[]".into()), EMPTY));
        }
        let (values, rule): (_, fn(&mut ErrorList, &str, &Path)) = match name {
            "strings" => (items(&one.strings), string_value),
            "versions" => (items(&one.versions), version_value),
            _ => continue,
        };
        for (index, value) in values.iter().enumerate() {
            rule(errors, value, &path.index(index));
        }
    }
    let single = [
        one.bool.is_some(),
        one.int.is_some(),
        one.string.is_some(),
        one.version.is_some(),
    ];
    let number = single.iter().filter(|there| **there).count()
        + lists.iter().filter(|(_, length)| length.is_some()).count();
    const ONE: &str = "exactly one value must be specified";
    match number {
        0 => errors.push(FieldError::invalid(path, "", ONE)),
        1 => {}
        _ => errors.push(FieldError::invalid(path, internal_attribute(one), ONE)),
    }
}

/// The attribute as upstream's own types print it.
fn internal_attribute(one: &DeviceAttribute) -> Bare {
    let parts = [
        ("IntValue", json(&one.int)),
        ("BoolValue", json(&one.bool)),
        ("StringValue", json(&one.string)),
        ("VersionValue", json(&one.version)),
        ("IntValues", json(&one.ints)),
        ("BoolValues", json(&one.bools)),
        ("StringValues", json(&one.strings)),
        ("VersionValues", json(&one.versions)),
    ];
    let parts = parts.map(|(name, value)| format!("\"{name}\":{}", value.0));
    Bare(format!("{{{}}}", parts.join(",")))
}

fn string_value(errors: &mut ErrorList, value: &str, path: &Path) {
    if value.len() > VALUE_LENGTH {
        errors.push(FieldError::too_long(path, VALUE_LENGTH));
    }
}

fn version_value(errors: &mut ErrorList, value: &str, path: &Path) {
    if !is_version(value) {
        let detail = "must be a string compatible with semver.org spec 2.0.0";
        errors.push(FieldError::invalid(path, value, detail));
    }
    string_value(errors, value, path);
}

/// Whether the text is a semantic version: three numbers, then perhaps a pre-release and a build.
fn is_version(text: &str) -> bool {
    let number = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|c| c.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
    };
    let word = |part: &str| {
        !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-')
    };
    let (rest, build) = match text.split_once('+') {
        Some((rest, build)) => (rest, Some(build)),
        None => (text, None),
    };
    let (core, release) = match rest.split_once('-') {
        Some((core, release)) => (core, Some(release)),
        None => (rest, None),
    };
    let digits = |part: &str| part.bytes().all(|c| c.is_ascii_digit());
    core.split('.').count() == 3
        && core.split('.').all(number)
        && release.is_none_or(|release| {
            let mut parts = release.split('.');
            parts.all(|part| word(part) && (!digits(part) || number(part)))
        })
        && build.is_none_or(|build| build.split('.').all(word))
}

/// The conditions that a device waits for before its pod is bound, and those that end the wait.
pub(super) fn binding(errors: &mut ErrorList, wanted: &[String], failed: &[String], path: &Path) {
    let (wanted_path, failed_path) = (
        path.child("bindingConditions"),
        path.child("bindingFailureConditions"),
    );
    for (list, path) in [(wanted, &wanted_path), (failed, &failed_path)] {
        set(
            errors,
            list,
            BINDING_CONDITIONS,
            path,
            |_| None,
            |errors, one, path| label_key(errors, one, path),
        );
    }
    let mut seen = BTreeSet::new();
    for (index, one) in wanted.iter().enumerate() {
        if !seen.insert(one) {
            errors.push(FieldError::duplicate(&wanted_path.index(index), one));
        }
    }
    let mut seen = BTreeSet::new();
    for (index, one) in failed.iter().enumerate() {
        let path = failed_path.index(index);
        if !seen.insert(one) {
            errors.push(FieldError::duplicate(&path, one));
        }
        if wanted.contains(one) {
            let detail = "bindingFailureConditions must not overlap with bindingConditions";
            errors.push(FieldError::invalid(&path, one, detail));
        }
    }
    for (list, other, path, detail) in [
        (
            wanted,
            failed,
            &wanted_path,
            "bindingConditions are required to use bindingFailureConditions",
        ),
        (
            failed,
            wanted,
            &failed_path,
            "bindingFailureConditions are required to use bindingConditions",
        ),
    ] {
        if list.is_empty() && !other.is_empty() {
            errors.push(FieldError::invalid(path, Bare("null".into()), detail));
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub(in super::super) fn texts(device: Value) -> Vec<String> {
        let spec = json!({"driver": "d.example.com", "allNodes": true, "devices": [device],
            "pool": {"name": "p", "resourceSliceCount": 1, "generation": 1}});
        let spec: ResourceSliceSpec = serde_json::from_value(spec).unwrap();
        let mut errors = ErrorList::new();
        slice_spec(&mut errors, &spec, None);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn attributes_have_one_value() {
        let table: [(Value, &[&str]); 5] = [
            (
                json!({"a": {"int": 1}, "b": {"versions": ["1.2.3-rc.1+x"]}}),
                &[],
            ),
            (
                json!({"a": {}}),
                &[
                    "spec.devices[0].attributes[a]: Invalid value: \"\": exactly one value must be specified",
                ],
            ),
            (
                json!({"a": {"ints": [1], "bools": [true]}}),
                &[
                    "spec.devices[0].attributes[a]: Invalid value: {\"IntValue\":null,\"BoolValue\":null,\"StringValue\":null,\"VersionValue\":null,\"IntValues\":[1],\"BoolValues\":[true],\"StringValues\":null,\"VersionValues\":null}: exactly one value must be specified",
                ],
            ),
            (
                json!({"a": {"version": "1.02.3"}}),
                &[
                    "spec.devices[0].attributes[a].version: Invalid value: \"1.02.3\": must be a string compatible with semver.org spec 2.0.0",
                ],
            ),
            (
                json!({"a": {"strings": []}}),
                &[
                    "spec.devices[0].attributes[a].strings: Invalid value: []: must not be empty if specified",
                ],
            ),
        ];
        for (attributes, expected) in table {
            let found = texts(json!({"name": "d", "attributes": attributes}));
            assert_eq!(found, expected, "{attributes}");
        }
    }

    #[test]
    fn binding_conditions() {
        let found = texts(
            json!({"name": "d", "bindingConditions": ["a", "a"], "bindingFailureConditions": ["a"]}),
        );
        assert_eq!(
            found,
            [
                "spec.devices[0].bindingConditions[1]: Duplicate value: \"a\"",
                "spec.devices[0].bindingFailureConditions[0]: Invalid value: \"a\": bindingFailureConditions must not overlap with bindingConditions",
            ]
        );
        let found = texts(json!({"name": "d", "bindingFailureConditions": ["a"]}));
        assert_eq!(
            found,
            [
                "spec.devices[0].bindingConditions: Invalid value: null: bindingConditions are required to use bindingFailureConditions"
            ]
        );
    }
}
