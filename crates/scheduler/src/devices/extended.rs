//! Extended resources that a class of devices stands for: what containers ask for by name becomes requests of a claim.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, ContainerExtendedResourceRequest, PodSpec};
use k8s_openapi::api::resource::v1::{DeviceRequest, ExactDeviceRequest};

use crate::resources::units;

/// Every class stands for the resource of this name with its own behind.
pub const CLASS_PREFIX: &str = "deviceclass.resource.kubernetes.io/";

/// Whether devices may stand for a resource.
#[must_use]
pub fn may_be_devices(name: &str) -> bool {
    let domain = name.split_once('/').map(|(domain, _)| domain);
    name.starts_with(CLASS_PREFIX)
        || domain.is_some_and(|domain| {
            !domain.ends_with("kubernetes.io") && !name.starts_with("requests.")
        })
}

/// A container and what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerWants {
    /// Its name.
    pub name: Box<str>,
    /// Whether it ends before others start.
    pub short: bool,
    /// All resources it asks for, sorted by name, with amounts.
    pub requests: Vec<(Box<str>, i64)>,
}

/// What containers ask for, if any of it may be devices.
#[must_use]
pub fn containers(spec: &PodSpec) -> Vec<ContainerWants> {
    let init = spec.init_containers.iter().flatten();
    let read = |container: &Container, init: bool| {
        let all = container.resources.as_ref();
        let all = all.and_then(|all| all.requests.as_ref());
        let requests = all.into_iter().flatten();
        let requests = requests.map(|(name, amount)| (name.as_str().into(), units(amount)));
        ContainerWants {
            name: container.name.as_str().into(),
            short: init && container.restart_policy.as_deref() != Some("Always"),
            requests: requests.collect(),
        }
    };
    let all = init.map(|container| read(container, true));
    let all = all.chain(
        spec.containers
            .iter()
            .map(|container| read(container, false)),
    );
    let all: Vec<ContainerWants> = all.collect();
    let any = all.iter().any(|container| {
        let mut requests = container.requests.iter();
        requests.any(|(name, amount)| *amount > 0 && may_be_devices(name))
    });
    if any { all } else { Vec::new() }
}

/// The requests of a claim, and which container uses which.
pub type Mapped = (Vec<DeviceRequest>, Vec<ContainerExtendedResourceRequest>);

/// A request of one container: the container's place, the request's name, how many devices.
#[derive(Clone)]
struct Own {
    name: String,
    count: i64,
}

/// The claim's requests for these resources, each with the class of its devices.
#[must_use]
pub fn requests(all: &[ContainerWants], resources: &BTreeMap<&str, &str>) -> Mapped {
    let (mut requests, mut mappings) = (Vec::new(), Vec::new());
    for (resource, class) in resources {
        let (own, mapped) = requests_for(all, resource);
        requests.extend(own.into_iter().map(|own| DeviceRequest {
            name: own.name,
            first_available: None,
            exactly: Some(ExactDeviceRequest {
                device_class_name: (*class).to_owned(),
                allocation_mode: Some("ExactCount".to_owned()),
                count: Some(own.count),
                ..ExactDeviceRequest::default()
            }),
        }));
        mappings.extend(mapped);
    }
    requests.sort_by(|a: &DeviceRequest, b| a.name.cmp(&b.name));
    (requests, mappings)
}

/// Containers that run together have requests of their own. Those that end before use what later ones will have; the
/// one of them that needs most beyond that has a request, which the others use too.
fn requests_for(
    all: &[ContainerWants],
    resource: &str,
) -> (Vec<Own>, Vec<ContainerExtendedResourceRequest>) {
    let mapping = |container: &ContainerWants, request: &str| ContainerExtendedResourceRequest {
        container_name: container.name.to_string(),
        request_name: request.to_owned(),
        resource_name: resource.to_owned(),
    };
    let wants = |place: usize, container: &ContainerWants| {
        let mut requests = container.requests.iter().enumerate();
        let (number, (_, count)) = requests.find(|(_, (name, _))| &**name == resource)?;
        let name = format!("container-{place}-request-{number}");
        (*count > 0).then_some(Own {
            name,
            count: *count,
        })
    };
    let places = || all.iter().enumerate();
    let long: Vec<Option<Own>> = places()
        .map(|(place, container)| wants(place, container).filter(|_| !container.short))
        .collect();
    let mut mappings: Vec<ContainerExtendedResourceRequest> = places()
        .zip(&long)
        .filter_map(|((_, container), own)| Some(mapping(container, &own.as_ref()?.name)))
        .collect();
    let mut largest: Option<Own> = None;
    let mut short: Vec<(&ContainerWants, Option<String>)> = Vec::new();
    for (place, container) in places().filter(|(_, container)| container.short) {
        let Some(mut own) = wants(place, container) else {
            continue;
        };
        for later in long.iter().skip(place).flatten() {
            if own.count <= 0 {
                break;
            }
            short.push((container, Some(later.name.clone())));
            own.count -= later.count;
        }
        if own.count > 0 {
            short.push((container, None));
            if largest.as_ref().is_none_or(|other| other.count < own.count) {
                largest = Some(own);
            }
        }
    }
    let shared = largest.as_ref().map_or("", |own| own.name.as_str());
    mappings.extend(
        short
            .into_iter()
            .map(|(container, name)| mapping(container, name.as_deref().unwrap_or(shared))),
    );
    let own = largest
        .clone()
        .into_iter()
        .chain(long.into_iter().flatten());
    (own.collect(), mappings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn mapped(spec: Value) -> (Vec<(String, i64)>, Vec<String>) {
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let resources = BTreeMap::from([("example.com/gpu", "gpu")]);
        let (requests, mappings) = requests(&containers(&spec), &resources);
        let requests = requests.into_iter().map(|request| {
            let count = request.exactly.unwrap().count.unwrap();
            (request.name, count)
        });
        let mappings = mappings.into_iter();
        let mappings =
            mappings.map(|found| format!("{} {}", found.container_name, found.request_name));
        (requests.collect(), mappings.collect())
    }

    fn container(name: &str, count: &str) -> Value {
        json!({"name": name, "resources": {"requests": {"cpu": "1", "example.com/gpu": count}}})
    }

    #[test]
    fn containers_that_run_together_have_devices_of_their_own() {
        let (requests, mappings) = mapped(
            json!({"containers": [container("a", "1"), {"name": "b"}, container("c", "2")]}),
        );
        assert_eq!(
            requests,
            [
                ("container-0-request-1".to_owned(), 1),
                ("container-2-request-1".to_owned(), 2)
            ]
        );
        assert_eq!(
            mappings,
            ["a container-0-request-1", "c container-2-request-1"]
        );
    }

    #[test]
    fn those_that_end_before_use_what_later_ones_will_have() {
        let (requests, mappings) = mapped(json!({
            "initContainers": [container("i", "1"), container("j", "5"), container("k", "4")],
            "containers": [container("a", "2")],
        }));
        assert_eq!(
            requests,
            [
                ("container-1-request-1".to_owned(), 3),
                ("container-3-request-1".to_owned(), 2)
            ]
        );
        assert_eq!(
            mappings,
            [
                "a container-3-request-1",
                "i container-3-request-1",
                "j container-3-request-1",
                "j container-1-request-1",
                "k container-3-request-1",
                "k container-1-request-1"
            ]
        );
    }

    #[test]
    fn names() {
        for (name, expected) in [
            ("cpu", false),
            ("example.com/gpu", true),
            ("kubernetes.io/x", false),
            ("hugepages-2Mi", false),
            ("deviceclass.resource.kubernetes.io/gpu", true),
        ] {
            assert_eq!(may_be_devices(name), expected, "{name}");
        }
    }
}
