//! Claims of devices and what drivers offer. Who can read CEL expressions is handed in.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1::{
    DeviceClaim, DeviceClass, DeviceConstraint, DeviceRequest, DeviceSelector, DeviceToleration,
    OpaqueDeviceConfiguration, ResourceClaim, ResourceClaimTemplate, ResourceSlice,
};
use serde_json::Value;

use super::absent::{items, text};
use super::core::is_extended_resource;
use super::core::pod::volumes::csi_driver_name;
use super::expressions::{ExpressionChecker, SelectorFault};
use super::names;
use super::values::{Bare, all_invalid, immutable, json, one_of, required, required_one_of};
use crate::field::{ErrorList, FieldError, Path};

mod allocation;
mod capacity;
mod slices;

const REQUESTS: usize = 32;
const CONSTRAINTS: usize = 32;
const CONFIGS: usize = 32;
const SELECTORS: usize = 32;
const SUB_REQUESTS: usize = 8;
const EXPRESSION_LENGTH: usize = 10 * 1024;
const PARAMETERS_LENGTH: usize = 10 * 1024;
const RESERVED_FOR: usize = 256;
const POOL_NAME_LENGTH: usize = 253;
const ID_LENGTH: usize = 32;

/// Each element by a rule; too many are not looked at. `key` of an element must be its own.
fn set<T>(
    errors: &mut ErrorList,
    list: &[T],
    most: usize,
    path: &Path,
    key: impl Fn(&T) -> Option<&str>,
    mut rule: impl FnMut(&mut ErrorList, &T, &Path),
) {
    if list.len() > most {
        errors.push(FieldError::too_many(path, list.len(), most));
        return;
    }
    let mut seen = BTreeSet::new();
    let mut twice = Vec::new();
    for (index, one) in list.iter().enumerate() {
        let path = path.index(index);
        rule(errors, one, &path);
        if let Some(key) = key(one)
            && !seen.insert(key.to_owned())
        {
            twice.push(FieldError::duplicate(&path, key));
        }
    }
    errors.extend(twice);
}

/// The names of a claim's requests, each with those of its alternatives.
type Requests<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// The claim's requests and their alternatives.
fn requests_of(claim: &DeviceClaim) -> Requests<'_> {
    items(&claim.requests)
        .iter()
        .map(|request| {
            let alternatives = items(&request.first_available).iter();
            let names = alternatives.map(|one| one.name.as_str()).collect();
            (request.name.as_str(), names)
        })
        .collect()
}

fn claim_spec(
    errors: &mut ErrorList,
    claim: &DeviceClaim,
    path: &Path,
    checker: &dyn ExpressionChecker,
) {
    let requests = requests_of(claim);
    let list = items(&claim.requests);
    set(
        errors,
        list,
        REQUESTS,
        &path.child("requests"),
        |one| Some(&one.name),
        |errors, one, path| request(errors, one, path, checker),
    );
    let list = items(&claim.constraints);
    let constraints = path.child("constraints");
    set(
        errors,
        list,
        CONSTRAINTS,
        &constraints,
        |_| None,
        |errors, one, path| {
            constraint(errors, one, &requests, path);
        },
    );
    let list = items(&claim.config);
    set(
        errors,
        list,
        CONFIGS,
        &path.child("config"),
        |_| None,
        |errors, one, path| {
            references(
                errors,
                items(&one.requests),
                &requests,
                &path.child("requests"),
            );
            opaque(errors, one.opaque.as_ref(), false, &path.child("opaque"));
        },
    );
}

fn request(
    errors: &mut ErrorList,
    request: &DeviceRequest,
    path: &Path,
    checker: &dyn ExpressionChecker,
) {
    all_invalid(
        errors,
        &path.child("name"),
        &request.name,
        names::dns_label(&request.name),
    );
    const ONE: &str = "exactly one of `exactly` or `firstAvailable` is required";
    match (&request.exactly, items(&request.first_available)) {
        (None, []) => errors.push(FieldError::required(path, ONE)),
        (Some(_), [_, ..]) => {
            let detail = format!("{ONE}, but multiple fields are set");
            errors.push(FieldError::invalid(path, Bare("null".into()), &detail));
        }
        (Some(one), []) => asked(
            errors,
            &path.child("exactly"),
            &one.device_class_name,
            (items(&one.selectors), checker),
            (text(&one.allocation_mode), one.count.unwrap_or(0)),
            items(&one.tolerations),
        ),
        (None, list) => {
            let path = path.child("firstAvailable");
            set(
                errors,
                list,
                SUB_REQUESTS,
                &path,
                |one| Some(&one.name),
                |errors, one, path| {
                    all_invalid(
                        errors,
                        &path.child("name"),
                        &one.name,
                        names::dns_label(&one.name),
                    );
                    asked(
                        errors,
                        path,
                        &one.device_class_name,
                        (items(&one.selectors), checker),
                        (text(&one.allocation_mode), one.count.unwrap_or(0)),
                        items(&one.tolerations),
                    );
                },
            );
        }
    }
}

/// What is asked for: a class, selectors, how many.
fn asked(
    errors: &mut ErrorList,
    path: &Path,
    class: &str,
    (selectors, checker): (&[DeviceSelector], &dyn ExpressionChecker),
    (mode, number): (&str, i64),
    tolerations: &[DeviceToleration],
) {
    let class_path = path.child("deviceClassName");
    required(errors, &class_path, class);
    if !class.is_empty() {
        all_invalid(errors, &class_path, class, names::dns_subdomain(class));
    }
    self::selectors(errors, selectors, &path.child("selectors"), checker);
    let count_path = path.child("count");
    match mode {
        "All" if number != 0 => {
            let detail = "must not be specified when allocationMode is 'All'";
            errors.push(FieldError::invalid(&count_path, number, detail));
        }
        "ExactCount" if number <= 0 => {
            errors.push(FieldError::invalid(
                &count_path,
                number,
                "must be greater than zero",
            ));
        }
        _ => one_of(
            errors,
            &path.child("allocationMode"),
            mode,
            &["All", "ExactCount"],
        ),
    }
    for (index, one) in tolerations.iter().enumerate() {
        toleration(errors, one, &path.child("tolerations").index(index));
    }
}

fn selectors(
    errors: &mut ErrorList,
    list: &[DeviceSelector],
    path: &Path,
    checker: &dyn ExpressionChecker,
) {
    set(
        errors,
        list,
        SELECTORS,
        path,
        |_| None,
        |errors, one, path| match &one.cel {
            None => errors.push(FieldError::required(&path.child("cel"), "")),
            Some(cel) if cel.expression.len() > EXPRESSION_LENGTH => {
                let path = path.child("cel").child("expression");
                errors.push(FieldError::too_long(&path, EXPRESSION_LENGTH));
            }
            Some(cel) => {
                let path = path.child("cel").child("expression");
                match checker.device_selector(&cel.expression) {
                    Ok(()) => {}
                    Err(SelectorFault::Invalid(detail)) => {
                        errors.push(FieldError::invalid(&path, &cel.expression, &detail));
                    }
                    Err(SelectorFault::TooComplex) => {
                        let detail = "too complex, exceeds cost limit";
                        errors.push(FieldError::forbidden(&path, detail));
                    }
                }
            }
        },
    );
}

fn toleration(errors: &mut ErrorList, one: &DeviceToleration, path: &Path) {
    let (key, value) = (text(&one.key), text(&one.value));
    if !key.is_empty() {
        all_invalid(errors, &path.child("key"), key, names::qualified_name(key));
    }
    let value_path = path.child("value");
    match text(&one.operator) {
        "Exists" if !value.is_empty() => {
            let detail = "must be empty for operator `Exists`";
            errors.push(FieldError::invalid(&value_path, value, detail));
        }
        "Equal" => all_invalid(errors, &value_path, value, names::label_value(value)),
        operator => {
            required_one_of(
                errors,
                &path.child("operator"),
                operator,
                &["Equal", "Exists"],
            );
        }
    }
    let effect = text(&one.effect);
    if !effect.is_empty() {
        one_of(
            errors,
            &path.child("effect"),
            effect,
            &["NoExecute", "NoSchedule", "None"],
        );
    }
}

fn constraint(errors: &mut ErrorList, one: &DeviceConstraint, known: &Requests<'_>, path: &Path) {
    references(errors, items(&one.requests), known, &path.child("requests"));
    match (&one.match_attribute, &one.distinct_attribute) {
        (Some(name), _) => full_name(errors, name, &path.child("matchAttribute")),
        (None, Some(name)) => full_name(errors, name, &path.child("distinctAttribute")),
        (None, None) => errors.push(FieldError::required(
            path,
            "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
        )),
    }
}

/// Names of requests, or of an alternative as `request/alternative`.
fn references(errors: &mut ErrorList, list: &[String], known: &Requests<'_>, path: &Path) {
    set(
        errors,
        list,
        REQUESTS,
        path,
        |name| Some(name),
        |errors, name, path| reference(errors, name, known, path),
    );
}

fn reference(errors: &mut ErrorList, name: &str, known: &Requests<'_>, path: &Path) {
    const WRONG: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    let segments: Vec<&str> = name.split('/').collect();
    let is_known = match segments.as_slice() {
        [request] => known.contains_key(request),
        [request, alternative] => known
            .get(request)
            .is_some_and(|names| names.contains(alternative)),
        _ => false,
    };
    if segments.len() <= 2 {
        for segment in segments {
            all_invalid(errors, path, segment, names::dns_label(segment));
        }
    }
    if !is_known {
        errors.push(FieldError::invalid(path, name, WRONG));
    }
}

fn opaque(
    errors: &mut ErrorList,
    opaque: Option<&OpaqueDeviceConfiguration>,
    stored: bool,
    path: &Path,
) {
    let Some(opaque) = opaque else {
        errors.push(FieldError::required(path, ""));
        return;
    };
    csi_driver_name(errors, &opaque.driver, &path.child("driver"));
    let parameters = &opaque.parameters.0;
    raw_object(errors, parameters, stored, &path.child("parameters"));
}

/// A JSON object of a driver's own, not too large if it is new.
fn raw_object(errors: &mut ErrorList, value: &Value, stored: bool, path: &Path) {
    if *value == Value::Null {
        errors.push(FieldError::required(path, ""));
    } else if !stored && value.to_string().len() > PARAMETERS_LENGTH {
        errors.push(FieldError::too_long(path, PARAMETERS_LENGTH));
    } else if !value.is_object() {
        let detail = "must be a valid JSON object";
        errors.push(FieldError::invalid(path, "<value omitted>", detail));
    }
}

/// A name within a domain or without: `example.com/model`.
fn qualified(errors: &mut ErrorList, name: &str, path: &Path) {
    let identifier = |errors: &mut ErrorList, id: &str| {
        if id.len() > ID_LENGTH {
            errors.push(FieldError::too_long(path, ID_LENGTH));
        }
        all_invalid(errors, path, id, names::c_identifier(id));
    };
    let parts: Vec<&str> = name.split('/').collect();
    match parts.as_slice() {
        [id] => identifier(errors, id),
        [domain, id] => {
            match *domain {
                "" => errors.push(FieldError::invalid(
                    path,
                    "",
                    "the domain must not be empty",
                )),
                domain => csi_driver_name(errors, domain, path),
            }
            match *id {
                "" => errors.push(FieldError::invalid(path, "", "the name must not be empty")),
                id => identifier(errors, id),
            }
        }
        _ => {}
    }
}

fn full_name(errors: &mut ErrorList, name: &str, path: &Path) {
    qualified(errors, name, path);
    if !name.contains('/') {
        let detail = "a fully qualified name must be a domain and a name separated by a slash";
        errors.push(FieldError::invalid(path, name, detail));
    }
}

/// What is wrong with a ResourceClaim, its metadata aside.
#[must_use]
pub fn validate_resource_claim(
    claim: &ResourceClaim,
    checker: &dyn ExpressionChecker,
) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(devices) = &claim.spec.devices {
        let path = Path::new("spec").child("devices");
        claim_spec(&mut errors, devices, &path, checker);
    }
    errors
}

/// What is wrong with a changed ResourceClaim: what is asked for stays.
#[must_use]
pub fn validate_resource_claim_update(new: &ResourceClaim, old: &ResourceClaim) -> ErrorList {
    let mut errors = ErrorList::new();
    immutable(
        &mut errors,
        &Path::new("spec"),
        &new.spec,
        &old.spec,
        json(&new.spec),
    );
    errors
}

/// What is wrong with the new status of a ResourceClaim.
#[must_use]
pub fn validate_resource_claim_status_update(
    new: &ResourceClaim,
    old: &ResourceClaim,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status");
    let (status, old_status) = (
        new.status.clone().unwrap_or_default(),
        old.status.clone().unwrap_or_default(),
    );
    let reserved = path.child("reservedFor");
    let list = items(&status.reserved_for);
    set(
        &mut errors,
        list,
        RESERVED_FOR,
        &reserved,
        |one| Some(&one.uid),
        |errors, one, path| {
            for (field, value) in [
                ("resource", &one.resource),
                ("name", &one.name),
                ("uid", &one.uid),
            ] {
                required(errors, &path.child(field), value);
            }
        },
    );
    allocation::devices(&mut errors, &status, &path.child("devices"));
    if !list.is_empty() && status.allocation.is_none() {
        let detail = "may not be specified when `allocated` is not set";
        errors.push(FieldError::forbidden(&reserved, detail));
    } else if new.metadata.deletion_timestamp.is_some() {
        let had = items(&old_status.reserved_for);
        if list.iter().any(|one| !had.contains(one)) {
            let detail = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
            errors.push(FieldError::forbidden(&reserved, detail));
        }
    }
    match (&status.allocation, &old_status.allocation) {
        (Some(now), Some(then)) => {
            immutable(&mut errors, &path.child("allocation"), now, then, json(now));
        }
        (Some(now), None) => {
            let none = DeviceClaim::default();
            let requests = requests_of(new.spec.devices.as_ref().unwrap_or(&none));
            allocation::result(&mut errors, now, &requests, &path.child("allocation"));
        }
        (None, _) => {}
    }
    errors
}

/// What is wrong with a ResourceClaimTemplate, its metadata aside.
#[must_use]
pub fn validate_resource_claim_template(
    template: &ResourceClaimTemplate,
    checker: &dyn ExpressionChecker,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    if let Some(meta) = &template.spec.metadata {
        let path = path.child("metadata");
        super::meta::labels(&mut errors, &meta.labels, &path.child("labels"));
        super::meta::annotations(&mut errors, &meta.annotations, &path.child("annotations"));
    }
    if let Some(devices) = &template.spec.spec.devices {
        let path = path.child("spec").child("devices");
        claim_spec(&mut errors, devices, &path, checker);
    }
    errors
}

/// What is wrong with a changed ResourceClaimTemplate: nothing may change.
#[must_use]
pub fn validate_resource_claim_template_update(
    new: &ResourceClaimTemplate,
    old: &ResourceClaimTemplate,
) -> ErrorList {
    let mut errors = ErrorList::new();
    immutable(
        &mut errors,
        &Path::new("spec"),
        &new.spec,
        &old.spec,
        json(&new.spec),
    );
    errors
}

/// What is wrong with a DeviceClass, its metadata aside.
#[must_use]
pub fn validate_device_class(class: &DeviceClass, checker: &dyn ExpressionChecker) -> ErrorList {
    device_class(class, None, checker)
}

/// What is wrong with a changed DeviceClass: drivers' objects that stay may be as large as they were.
#[must_use]
pub fn validate_device_class_update(
    new: &DeviceClass,
    old: &DeviceClass,
    checker: &dyn ExpressionChecker,
) -> ErrorList {
    device_class(new, Some(old), checker)
}

fn device_class(
    class: &DeviceClass,
    old: Option<&DeviceClass>,
    checker: &dyn ExpressionChecker,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let stored = old.is_some_and(|old| old.spec.config == class.spec.config);
    let path = Path::new("spec");
    let spec = &class.spec;
    selectors(
        &mut errors,
        items(&spec.selectors),
        &path.child("selectors"),
        checker,
    );
    let list = items(&spec.config);
    set(
        &mut errors,
        list,
        CONFIGS,
        &path.child("config"),
        |_| None,
        |errors, one, path| {
            opaque(errors, one.opaque.as_ref(), stored, &path.child("opaque"));
        },
    );
    if let Some(name) = spec
        .extended_resource_name
        .as_ref()
        .filter(|name| !is_extended_resource(name))
    {
        let path = path.child("extendedResourceName");
        errors.push(FieldError::invalid(
            &path,
            name,
            "must be a valid extended resource name",
        ));
    }
    errors
}

/// What is wrong with a ResourceSlice, its metadata aside.
#[must_use]
pub fn validate_resource_slice(slice: &ResourceSlice) -> ErrorList {
    let mut errors = ErrorList::new();
    slices::slice_spec(&mut errors, &slice.spec, None);
    errors
}

/// What is wrong with a changed ResourceSlice: driver, pool and node stay.
#[must_use]
pub fn validate_resource_slice_update(new: &ResourceSlice, old: &ResourceSlice) -> ErrorList {
    let mut errors = ErrorList::new();
    slices::slice_spec(&mut errors, &new.spec, Some(&old.spec));
    errors
}

fn pool_name(errors: &mut ErrorList, name: &str, path: &Path) {
    required(errors, path, name);
    if name.len() > POOL_NAME_LENGTH {
        errors.push(FieldError::too_long(path, POOL_NAME_LENGTH));
    }
    for part in name.split('/').filter(|_| !name.is_empty()) {
        all_invalid(errors, path, part, names::dns_subdomain(part));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validation::expressions::{ExpressionScope, Unchecked};
    use serde_json::json;

    /// Finds what `bad` and `dear` say of themselves.
    struct Finder;

    impl ExpressionChecker for Finder {
        fn scope(&self, _: bool) -> Box<dyn ExpressionScope + '_> {
            Unchecked.scope(false)
        }
        fn device_selector(&self, expression: &str) -> Result<(), SelectorFault> {
            match expression {
                "bad" => Err(SelectorFault::Invalid("it is bad".to_owned())),
                "dear" => Err(SelectorFault::TooComplex),
                _ => Ok(()),
            }
        }
    }

    #[test]
    fn selectors_are_read_wherever_they_stand() {
        let list = json!([{"cel": {"expression": "bad"}}, {"cel": {"expression": "fine"}}, {"cel": {"expression": "dear"}}]);
        let found = |path: &str| {
            [
                format!("{path}.selectors[0].cel.expression: Invalid value: \"bad\": it is bad"),
                format!(
                    "{path}.selectors[2].cel.expression: Forbidden: too complex, exceeds cost limit"
                ),
            ]
        };
        let asked = |name: &str| json!({"name": name, "deviceClassName": "c", "allocationMode": "All", "selectors": list});
        let claim = claim(json!({"requests": [{"name": "a", "exactly": asked("")},
            {"name": "b", "firstAvailable": [asked("x")]}]}));
        let both = |root: &str| {
            let exactly = found(&format!("{root}.devices.requests[0].exactly"));
            let first = found(&format!("{root}.devices.requests[1].firstAvailable[0]"));
            [exactly, first].concat()
        };
        assert_eq!(
            texts(validate_resource_claim(&claim, &Finder)),
            both("spec")
        );
        let mut template = ResourceClaimTemplate::default();
        template.spec.spec = claim.spec;
        assert_eq!(
            texts(validate_resource_claim_template(&template, &Finder)),
            both("spec.spec")
        );
        let class: DeviceClass =
            serde_json::from_value(json!({"metadata": {}, "spec": {"selectors": list}})).unwrap();
        assert_eq!(texts(validate_device_class(&class, &Finder)), found("spec"));
        assert_eq!(
            texts(validate_device_class_update(&class, &class, &Finder)),
            found("spec")
        );
        let long = "x".repeat(EXPRESSION_LENGTH + 1);
        let class = serde_json::from_value(
            json!({"metadata": {}, "spec": {"selectors": [{"cel": {"expression": long}}]}}),
        )
        .unwrap();
        assert_eq!(
            texts(validate_device_class(&class, &Finder)),
            ["spec.selectors[0].cel.expression: Too long: may not be more than 10240 bytes"]
        );
    }

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    fn claim(devices: Value) -> ResourceClaim {
        serde_json::from_value(json!({"metadata": {}, "spec": {"devices": devices}})).unwrap()
    }

    #[test]
    fn claims() {
        let exactly = |class: &str| json!({"deviceClassName": class, "allocationMode": "ExactCount", "count": 1});
        let good = claim(
            json!({"requests": [{"name": "gpu", "exactly": exactly("c")},
            {"name": "any", "firstAvailable": [{"name": "big", "deviceClassName": "c", "allocationMode": "All"}]}],
            "constraints": [{"requests": ["gpu", "any/big"], "matchAttribute": "example.com/numa"}],
            "config": [{"requests": ["gpu"], "opaque": {"driver": "d.example.com", "parameters": {"a": 1}}}]}),
        );
        assert_eq!(texts(validate_resource_claim(&good, &Unchecked)), [""; 0]);
        let bad = claim(
            json!({"requests": [{"name": "gpu", "exactly": exactly("")}, {"name": "gpu"}],
            "constraints": [{"requests": ["other"], "matchAttribute": "numa"}], "config": [{}]}),
        );
        assert_eq!(
            texts(validate_resource_claim(&bad, &Unchecked)),
            [
                "spec.devices.requests[0].exactly.deviceClassName: Required value",
                "spec.devices.requests[1]: Required value: exactly one of `exactly` or `firstAvailable` is required",
                "spec.devices.requests[1]: Duplicate value: \"gpu\"",
                "spec.devices.constraints[0].requests[0]: Invalid value: \"other\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
                "spec.devices.constraints[0].matchAttribute: Invalid value: \"numa\": a fully qualified name must be a domain and a name separated by a slash",
                "spec.devices.config[0].opaque: Required value",
            ]
        );
        assert_eq!(validate_resource_claim_update(&bad, &good).len(), 1);
        let mut reserved = good.clone();
        reserved.status = serde_json::from_value(
            json!({"reservedFor": [{"resource": "pods", "name": "p", "uid": "u"}]}),
        )
        .unwrap();
        assert_eq!(
            texts(validate_resource_claim_status_update(&reserved, &good)),
            ["status.reservedFor: Forbidden: may not be specified when `allocated` is not set"]
        );
    }

    #[test]
    fn slices_and_classes() {
        let slice = |more: Value| -> Vec<String> {
            let mut spec = json!({"driver": "d.example.com", "pool": {"name": "p", "resourceSliceCount": 1, "generation": 1}});
            spec.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            texts(validate_resource_slice(
                &serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap(),
            ))
        };
        let devices = json!([{"name": "d0", "attributes": {"model": {"string": "x"}}}]);
        assert_eq!(slice(json!({"nodeName": "n", "devices": devices})), [""; 0]);
        assert_eq!(
            slice(json!({"nodeName": "n", "allNodes": true})),
            [
                "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set"
            ]
        );
        assert_eq!(
            slice(json!({"allNodes": true, "devices": [{"name": "d", "nodeName": "n"}, {"name": "d"}]})).len(),
            2
        );
        let large: DeviceClass = serde_json::from_value(json!({"metadata": {}, "spec": {"config": [
            {"opaque": {"driver": "d.example.com", "parameters": {"a": "x".repeat(PARAMETERS_LENGTH)}}}]}}))
        .unwrap();
        assert_eq!(
            texts(validate_device_class_update(
                &large,
                &DeviceClass::default(),
                &Unchecked
            )),
            ["spec.config[0].opaque.parameters: Too long: may not be more than 10240 bytes"]
        );
        assert_eq!(
            texts(validate_device_class_update(&large, &large, &Unchecked)),
            [""; 0]
        );
        let class: DeviceClass = serde_json::from_value(
            json!({"metadata": {}, "spec": {"selectors": [{}], "extendedResourceName": "cpu"}}),
        )
        .unwrap();
        assert_eq!(
            texts(validate_device_class(&class, &Unchecked)),
            [
                "spec.selectors[0].cel: Required value",
                "spec.extendedResourceName: Invalid value: \"cpu\": must be a valid extended resource name",
            ]
        );
    }
}
