//! Changing the CPU and memory of a pod that runs.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::annotations::MIRROR;
use super::containers::is_sidecar;
use super::update::{begin, spec_of};
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{count, entries, entry, items, text};
use crate::validation::quantity::Amount;

type List = Option<BTreeMap<String, Quantity>>;

const COMPUTE: [&str; 2] = ["cpu", "memory"];

/// The quality of service that a pod's resources earn it: `Guaranteed`, `Burstable` or `BestEffort`.
#[must_use]
pub fn qos_class(spec: &PodSpec) -> &'static str {
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    let mut guaranteed = true;
    let mut add = |resources: &ResourceRequirements, limited: bool| {
        sum(&mut requests, &resources.requests);
        let found = sum(&mut limits, &resources.limits);
        if limited && found.len() < COMPUTE.len() {
            guaranteed = false;
        }
    };
    if let Some(resources) = &spec.resources {
        add(resources, count(&resources.limits) > 0);
    } else {
        let none = ResourceRequirements::default();
        for container in spec.containers.iter().chain(items(&spec.init_containers)) {
            add(container.resources.as_ref().unwrap_or(&none), true);
        }
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if guaranteed
        && requests
            .iter()
            .all(|(name, amount)| limits.get(name) == Some(amount))
        && requests.len() == limits.len()
    {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

fn sum(total: &mut BTreeMap<String, Amount>, list: &List) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (name, quantity) in entries(list) {
        let amount = Amount::of(quantity);
        if COMPUTE.contains(&name.as_str()) && amount > Amount::ZERO {
            found.insert(name.clone());
            let before = total.get(name.as_str()).copied().unwrap_or(Amount::ZERO);
            total.insert(name.clone(), before.plus(amount));
        }
    }
    found
}

/// What is wrong with a resized Pod, its metadata aside.
#[must_use]
pub fn validate_pod_resize(new: &Pod, old: &Pod) -> ErrorList {
    let (spec, old_spec) = (spec_of(new), spec_of(old));
    let refused = |detail: &str| vec![FieldError::forbidden(&Path::nameless(), detail)];
    if entry(&old.metadata.annotations, MIRROR).is_some() {
        return refused("static pods cannot be resized");
    }
    if old_spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return refused("windows pods cannot be resized");
    }
    let mut errors = ErrorList::new();
    begin(&mut errors, new, old, &spec);
    let path = Path::new("spec");
    let status = old.status.clone().unwrap_or_default();
    let class = text(&status.qos_class);
    let before = if class.is_empty() {
        qos_class(&old_spec)
    } else {
        class
    };
    if before != qos_class(&spec) {
        let class = new
            .status
            .as_ref()
            .map_or("", |status| text(&status.qos_class));
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid(&path, class, detail));
    }
    let running = items(&status.container_statuses).iter().find(|container| {
        container
            .state
            .as_ref()
            .is_some_and(|state| state.running.is_some())
    });
    if running.is_some_and(|container| container.resources.is_none()) {
        let detail = "Pod running on node without support for resize";
        errors.push(FieldError::forbidden(&path, detail));
    }
    let mut rest = spec.clone();
    pod_level(&mut errors, &mut rest, &old_spec, &path);
    if !items(&status.node_allocatable_resource_claim_statuses).is_empty() {
        let detail = "pods with node allocatable resource claims cannot be resized";
        errors.push(FieldError::forbidden(&path, detail));
    }
    if !same_containers(&mut errors, &spec, &old_spec, &path) {
        return errors;
    }
    removed_resources(&mut errors, &spec, &old_spec, &path);
    other_changes(&mut errors, &mut rest, &old_spec, &path);
    if errors.is_empty() && rest != old_spec {
        errors.push(FieldError::forbidden(
            &path,
            "only cpu and memory resources are mutable",
        ));
    }
    errors
}

fn has_own(spec: &PodSpec) -> bool {
    spec.resources
        .as_ref()
        .is_some_and(|resources| count(&resources.limits) + count(&resources.requests) > 0)
}

fn removed(new: &List, old: &List) -> bool {
    entries(old).any(|(name, _)| entry(new, name).is_none())
}

fn pod_level(errors: &mut ErrorList, rest: &mut PodSpec, old: &PodSpec, path: &Path) {
    if !has_own(rest) && !has_own(old) {
        return;
    }
    let inner = path.child("resources");
    if let Some(before) = &old.resources {
        let Some(after) = &rest.resources else {
            errors.push(FieldError::forbidden(
                &inner,
                "pod-level resources cannot be removed",
            ));
            return;
        };
        for (name, new, old) in [
            ("requests", &after.requests, &before.requests),
            ("limits", &after.limits, &before.limits),
        ] {
            if removed(new, old) {
                let detail = format!("pod-level resource {name} cannot be removed");
                errors.push(FieldError::forbidden(&inner.child(name), &detail));
            }
        }
    }
    let none = ResourceRequirements::default();
    if let Some(resources) = &mut rest.resources {
        set_back(resources, old.resources.as_ref().unwrap_or(&none));
        if old.resources.is_none() && *resources == none {
            rest.resources = None;
        }
    }
    if rest.resources != old.resources {
        let detail = "only cpu and memory resources are mutable at pod-level";
        errors.push(FieldError::forbidden(path, detail));
    }
}

/// Sets CPU and memory back to what they were.
fn set_back(resources: &mut ResourceRequirements, old: &ResourceRequirements) {
    for (new, old) in [
        (&mut resources.limits, &old.limits),
        (&mut resources.requests, &old.requests),
    ] {
        let mut list = new.take().unwrap_or_default();
        for name in COMPUTE {
            match entry(old, name) {
                Some(quantity) => list.insert(name.to_owned(), quantity.clone()),
                None => list.remove(name),
            };
        }
        *new = (!list.is_empty()).then_some(list);
    }
}

fn same_containers(errors: &mut ErrorList, new: &PodSpec, old: &PodSpec, path: &Path) -> bool {
    let before = errors.len();
    let lists = [
        (
            "containers",
            new.containers.as_slice(),
            old.containers.as_slice(),
        ),
        (
            "initContainers",
            items(&new.init_containers),
            items(&old.init_containers),
        ),
    ];
    for (name, new, old) in lists {
        let path = path.child(name);
        if new.len() != old.len() {
            let detail = format!("{name} may not be added or removed on resize");
            errors.push(FieldError::forbidden(&path, &detail));
            continue;
        }
        for (index, (new, old)) in new.iter().zip(old).enumerate() {
            if new.name != old.name {
                let detail = format!("{name} may not be renamed or reordered on resize");
                errors.push(FieldError::forbidden(
                    &path.index(index).child("name"),
                    &detail,
                ));
            }
        }
    }
    errors.len() == before
}

fn removed_resources(errors: &mut ErrorList, new: &PodSpec, old: &PodSpec, path: &Path) {
    let none = ResourceRequirements::default();
    let lists: [(&str, &[Container], &[Container]); 2] = [
        (
            "initContainers",
            items(&new.init_containers),
            items(&old.init_containers),
        ),
        ("containers", &new.containers, &old.containers),
    ];
    for (list, new, old) in lists {
        for (index, (new, old)) in new.iter().zip(old).enumerate() {
            let path = path.child(list).index(index).child("resources");
            let (new, old) = (
                new.resources.as_ref().unwrap_or(&none),
                old.resources.as_ref().unwrap_or(&none),
            );
            for (name, new, old) in [
                ("requests", &new.requests, &old.requests),
                ("limits", &new.limits, &old.limits),
            ] {
                if removed(new, old) {
                    let detail = format!("resource {name} cannot be removed");
                    errors.push(FieldError::forbidden(&path.child(name), &detail));
                }
            }
        }
    }
}

fn other_changes(errors: &mut ErrorList, rest: &mut PodSpec, old: &PodSpec, path: &Path) {
    for (container, old) in rest.containers.iter_mut().zip(&old.containers) {
        container_set_back(container, old);
        if container != old {
            errors.push(FieldError::forbidden(
                path,
                "only cpu and memory resources are mutable",
            ));
        }
    }
    let init = rest.init_containers.iter_mut().flatten();
    for (index, (container, old)) in init.zip(items(&old.init_containers)).enumerate() {
        let path = path.child("initContainers").index(index);
        let changed = container != old;
        container_set_back(container, old);
        if container != old {
            errors.push(FieldError::forbidden(
                &path,
                "only cpu and memory resources for init or sidecar containers are mutable",
            ));
        }
        if changed && !is_sidecar(container) {
            for policy in items(&container.resize_policy) {
                if policy.restart_policy == "RestartContainer" {
                    errors.push(FieldError::forbidden(
                        &path,
                        "non-sidecar init containers with a resize policy of RestartContainer cannot be resized",
                    ));
                }
            }
        }
    }
}

fn container_set_back(container: &mut Container, old: &Container) {
    let none = ResourceRequirements::default();
    let resources = container.resources.get_or_insert_with(Default::default);
    // Upstream compares containers as if claims were no part of them.
    resources.claims = None;
    set_back(resources, old.resources.as_ref().unwrap_or(&none));
    if old.resources.is_none() && *resources == none {
        container.resources = None;
    }
}
