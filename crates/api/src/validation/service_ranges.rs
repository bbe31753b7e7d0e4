//! ServiceCIDRs, and the IPAddresses that are given out of them.

use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};

use super::absent::{items, text};
use super::values::{IMMUTABLE, all_invalid, immutable, json, required};
use super::{names, net};
use crate::field::{ErrorList, FieldError, Path};

/// What is wrong with the name of an IPAddress.
#[must_use]
pub fn ip_address_name(name: &str) -> Vec<String> {
    let head = format!("Invalid value: {name:?}: ");
    let errors = net::ip(&Path::new(""), name);
    errors
        .into_iter()
        .map(|error| {
            error
                .body
                .strip_prefix(&head)
                .unwrap_or(&error.body)
                .to_owned()
        })
        .collect()
}

/// What is wrong with an IPAddress, its metadata aside.
#[must_use]
pub fn validate_ip_address(address: &IPAddress) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec").child("parentRef");
    let parent = &address.spec.parent_ref;
    let group = text(&parent.group);
    if !group.is_empty() {
        all_invalid(
            &mut errors,
            &path.child("group"),
            group,
            names::dns_subdomain(group),
        );
    }
    for (field, value, is_required) in [
        ("resource", parent.resource.as_str(), true),
        ("name", parent.name.as_str(), true),
        ("namespace", text(&parent.namespace), false),
    ] {
        let path = path.child(field);
        if value.is_empty() {
            if is_required {
                required(&mut errors, &path, value);
            }
            continue;
        }
        all_invalid(&mut errors, &path, value, names::path_segment(value));
    }
    errors
}

/// What is wrong with a changed IPAddress: it stays with whom it was given to.
#[must_use]
pub fn validate_ip_address_update(new: &IPAddress, old: &IPAddress) -> ErrorList {
    let mut errors = validate_ip_address(new);
    let path = Path::new("spec").child("parentRef");
    let (parent, old_parent) = (&new.spec.parent_ref, &old.spec.parent_ref);
    immutable(&mut errors, &path, parent, old_parent, json(parent));
    errors
}

fn ranges(object: &ServiceCIDR) -> &[String] {
    object.spec.as_ref().map_or(&[], |spec| items(&spec.cidrs))
}

/// What is wrong with a ServiceCIDR, its metadata aside.
#[must_use]
pub fn validate_service_cidr(object: &ServiceCIDR) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec").child("cidrs");
    let ranges = ranges(object);
    if ranges.is_empty() {
        errors.push(FieldError::required(&path, "at least one CIDR required"));
        return errors;
    }
    if ranges.len() > 2 {
        let shown = json(&object.spec);
        errors.push(FieldError::invalid(
            &path,
            shown,
            "may only hold up to 2 values",
        ));
        return errors;
    }
    for (index, range) in ranges.iter().enumerate() {
        errors.extend(net::cidr(&path.index(index), range));
    }
    let family = |range: &String| net::Network::parse(range).map(|net| net.address.is_ipv4());
    if let [first, second] = ranges
        && family(first).is_some()
        && family(first) == family(second)
    {
        errors.push(FieldError::invalid(
            &path,
            json(ranges),
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
        ));
    }
    errors
}

/// What is wrong with a changed ServiceCIDR: a range of the other family may be added, nothing else.
#[must_use]
pub fn validate_service_cidr_update(new: &ServiceCIDR, old: &ServiceCIDR) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec").child("cidrs");
    let (now, then) = (ranges(new), ranges(old));
    let added = now.len() == 2 && then.len() == 1;
    if now.len() != then.len() && !added {
        errors.push(FieldError::invalid(&path, json(now), IMMUTABLE));
        return errors;
    }
    for (index, (now, then)) in now.iter().zip(then).enumerate() {
        immutable(&mut errors, &path.index(index), now, then, now);
    }
    if added {
        errors.extend(validate_service_cidr(new));
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn texts(errors: ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses() {
        let address = |parent: Value| -> IPAddress {
            serde_json::from_value(
                json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef": parent}}),
            )
            .unwrap()
        };
        let good = address(json!({"resource": "services", "namespace": "n", "name": "s"}));
        assert_eq!(texts(validate_ip_address(&good)), [""; 0]);
        assert_eq!(
            texts(validate_ip_address(&address(json!({"group": "a_b"})))).len(),
            3
        );
        let other = address(json!({"resource": "services", "namespace": "n", "name": "t"}));
        assert_eq!(validate_ip_address_update(&other, &good).len(), 1);
        assert!(
            ip_address_name("10.0.0.1").is_empty() && ip_address_name("2001:db8::1").is_empty()
        );
        assert_eq!(
            ip_address_name("2001:0db8::1"),
            ["must be in canonical form (\"2001:db8::1\")"]
        );
        assert!(!ip_address_name("a").is_empty());
    }

    #[test]
    fn ranges_of_services() {
        let of = |ranges: &[&str]| -> ServiceCIDR {
            serde_json::from_value(json!({"metadata": {}, "spec": {"cidrs": ranges}})).unwrap()
        };
        let errors = |ranges: &[&str]| texts(validate_service_cidr(&of(ranges)));
        assert_eq!(errors(&["10.0.0.0/16", "2001:db8::/64"]), [""; 0]);
        assert_eq!(
            errors(&[]),
            ["spec.cidrs: Required value: at least one CIDR required"]
        );
        assert!(
            errors(&["10.0.0.0/16", "10.1.0.0/16"])[0]
                .contains("no more than one IP for each IP family")
        );
        assert!(errors(&["x"])[0].starts_with("spec.cidrs[0]: Invalid value: \"x\""));
        let update = |new: &[&str]| {
            texts(validate_service_cidr_update(
                &of(new),
                &of(&["10.0.0.0/16"]),
            ))
        };
        assert_eq!(update(&["10.0.0.0/16", "2001:db8::/64"]), [""; 0]);
        assert_eq!(
            update(&["10.1.0.0/16"]),
            ["spec.cidrs[0]: Invalid value: \"10.1.0.0/16\": field is immutable"]
        );
        assert_eq!(
            update(&[]),
            ["spec.cidrs: Invalid value: []: field is immutable"]
        );
    }
}
