//! LimitRanger: a namespace's limit ranges fill in what containers leave out, and bound what pods and claims ask for.

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{
    Container, LimitRange, LimitRangeItem, PersistentVolumeClaim, Pod, PodSpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use skiff_api::pod_resources::{self, Amounts};
use skiff_api::validation::quantity::Amount;
use skiff_api::{ApiResult, Object, ObjectExt};

use super::{Admission, AdmissionRequest, Operation};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

type Quantities = BTreeMap<String, Quantity>;

pub(crate) struct LimitRanger;

/// Whether limit ranges say anything about this write. A pod's containers are fixed once it is made, but for a resize.
fn concerns(request: &AdmissionRequest<'_>, old: Option<&dyn Object>) -> bool {
    if old.is_some_and(|old| old.metadata().deletion_timestamp.is_some()) {
        return false;
    }
    match request.operation {
        Operation::Create => request.is("", "pods") || request.is("", "persistentvolumeclaims"),
        Operation::Update => {
            let kind = &request.resource.kind;
            let resize =
                request.subresource == "resize" && kind.group.is_empty() && kind.plural == "pods";
            resize || request.is("", "persistentvolumeclaims")
        }
        _ => false,
    }
}

#[async_trait]
impl Admission for LimitRanger {
    async fn mutate(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut dyn Object,
        old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        if !concerns(request, old) {
            return Ok(());
        }
        if let Some(pod) = object.downcast_mut::<Pod>() {
            for range in ranges(request).await? {
                fill(pod, &range);
            }
        }
        Ok(())
    }

    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&dyn Object>,
        old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        let Some(object) = object.filter(|_| concerns(request, old)) else {
            return Ok(());
        };
        for range in ranges(request).await? {
            let mut found = Vec::new();
            for item in range.spec.iter().flat_map(|spec| &spec.limits) {
                if let Some(spec) = object
                    .downcast_ref::<Pod>()
                    .and_then(|pod| pod.spec.as_ref())
                {
                    check_pod(spec, item, &mut found);
                } else if let Some(claim) = object.downcast_ref::<PersistentVolumeClaim>() {
                    check_claim(claim, item, &mut found);
                }
            }
            if let Some(why) = one_message(found) {
                return Err(request.forbidden(&why));
            }
        }
        Ok(())
    }
}

async fn ranges(request: &AdmissionRequest<'_>) -> ApiResult<Vec<LimitRange>> {
    request.list("", "limitranges", request.namespace).await
}

/// Several complaints as one text, each said once.
fn one_message(found: Vec<String>) -> Option<String> {
    let mut said: Vec<String> = Vec::new();
    for text in found {
        if !said.contains(&text) {
            said.push(text);
        }
    }
    if said.len() > 1 {
        return Some(format!("[{}]", said.join(", ")));
    }
    said.pop()
}

/// Gives containers the range's defaults, and notes in an annotation which.
fn fill(pod: &mut Pod, range: &LimitRange) {
    let (mut limits, mut requests) = (Quantities::new(), Quantities::new());
    for item in range.spec.iter().flat_map(|spec| &spec.limits) {
        if item.type_ == "Container" {
            requests.extend(item.default_request.clone().unwrap_or_default());
            limits.extend(item.default.clone().unwrap_or_default());
        }
    }
    let Some(spec) = &mut pod.spec else { return };
    let mut notes = Vec::new();
    for container in &mut spec.containers {
        fill_container(container, &limits, &requests, "container", &mut notes);
    }
    for container in spec.init_containers.iter_mut().flatten() {
        fill_container(container, &limits, &requests, "init container", &mut notes);
    }
    if !notes.is_empty() {
        let annotations = pod.metadata.annotations.get_or_insert_default();
        let note = format!("LimitRanger plugin set: {}", notes.join("; "));
        annotations.insert(ANNOTATION.to_owned(), note);
    }
}

fn fill_container(
    container: &mut Container,
    limits: &Quantities,
    requests: &Quantities,
    what: &str,
    notes: &mut Vec<String>,
) {
    let resources = container.resources.get_or_insert_default();
    let sides = [
        (&mut resources.requests, requests, "request"),
        (&mut resources.limits, limits, "limit"),
    ];
    for (own, defaults, side) in sides {
        let mut set = Vec::new();
        for (name, quantity) in defaults {
            if own.as_ref().is_none_or(|own| !own.contains_key(name)) {
                own.get_or_insert_default()
                    .insert(name.clone(), quantity.clone());
                set.push(name.as_str());
            }
        }
        if !set.is_empty() {
            notes.push(format!(
                "{} {side} for {what} {}",
                set.join(", "),
                container.name
            ));
        }
    }
}

fn check_pod(spec: &PodSpec, item: &LimitRangeItem, found: &mut Vec<String>) {
    if item.type_ == "Container" {
        let containers = spec.containers.iter();
        for container in containers.chain(spec.init_containers.iter().flatten()) {
            let amounts = |pick: fn(
                &k8s_openapi::api::core::v1::ResourceRequirements,
            ) -> Option<&Quantities>|
             -> Amounts {
                let list = container
                    .resources
                    .as_ref()
                    .and_then(pick)
                    .into_iter()
                    .flatten();
                list.map(|(name, quantity)| (name.clone(), Amount::of(quantity)))
                    .collect()
            };
            let requests = amounts(|resources| resources.requests.as_ref());
            let limits = amounts(|resources| resources.limits.as_ref());
            check(item, &requests, &limits, found);
        }
    }
    if item.type_ == "Pod" {
        let requests = pod_resources::requests(spec);
        check(item, &requests, &pod_resources::limits(spec), found);
    }
}

fn check_claim(claim: &PersistentVolumeClaim, item: &LimitRangeItem, found: &mut Vec<String>) {
    if item.type_ != "PersistentVolumeClaim" {
        return;
    }
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    let requests = resources.and_then(|resources| resources.requests.as_ref());
    let requests = requests.into_iter().flatten();
    let requests: Amounts = requests
        .map(|(name, quantity)| (name.clone(), Amount::of(quantity)))
        .collect();
    for (name, least) in item.min.iter().flatten() {
        found.extend(below(&item.type_, name, least, &requests, &Amounts::new()));
    }
    for (name, most) in item.max.iter().flatten() {
        let head = format!("maximum {name} usage per {} is {}", item.type_, most.0);
        match requests.get(name) {
            None => found.push(format!("{head}.  No request is specified")),
            Some(request) if *request > Amount::of(most) => {
                found.push(format!("{head}, but request is {}", request.canonical()));
            }
            Some(_) => {}
        }
    }
}

fn check(item: &LimitRangeItem, requests: &Amounts, limits: &Amounts, found: &mut Vec<String>) {
    for (name, least) in item.min.iter().flatten() {
        found.extend(below(&item.type_, name, least, requests, limits));
    }
    for (name, most) in item.max.iter().flatten() {
        found.extend(above(&item.type_, name, most, requests, limits));
    }
    for (name, ratio) in item.max_limit_request_ratio.iter().flatten() {
        found.extend(too_far_apart(&item.type_, name, ratio, requests, limits));
    }
}

fn below(
    what: &str,
    name: &str,
    least: &Quantity,
    requests: &Amounts,
    limits: &Amounts,
) -> Option<String> {
    let head = format!("minimum {name} usage per {what} is {}", least.0);
    let bound = Amount::of(least);
    let Some(request) = requests.get(name) else {
        return Some(format!("{head}.  No request is specified"));
    };
    if *request < bound {
        return Some(format!("{head}, but request is {}", request.canonical()));
    }
    let limit = limits.get(name).filter(|limit| **limit < bound)?;
    Some(format!("{head}, but limit is {}", limit.canonical()))
}

fn above(
    what: &str,
    name: &str,
    most: &Quantity,
    requests: &Amounts,
    limits: &Amounts,
) -> Option<String> {
    let head = format!("maximum {name} usage per {what} is {}", most.0);
    let bound = Amount::of(most);
    let Some(limit) = limits.get(name) else {
        return Some(format!("{head}.  No limit is specified"));
    };
    if *limit > bound {
        return Some(format!("{head}, but limit is {}", limit.canonical()));
    }
    let request = requests.get(name).filter(|request| **request > bound)?;
    Some(format!("{head}, but request is {}", request.canonical()))
}

#[allow(
    clippy::cast_precision_loss,
    reason = "upstream compares and prints the ratio as a floating number"
)]
fn too_far_apart(
    what: &str,
    name: &str,
    ratio: &Quantity,
    requests: &Amounts,
    limits: &Amounts,
) -> Option<String> {
    let head = format!(
        "{name} max limit to request ratio per {what} is {}",
        ratio.0
    );
    let there = |list: &Amounts| list.get(name).copied().filter(|amount| !amount.is_zero());
    let Some(request) = there(requests) else {
        return Some(format!(
            "{head}, but no request is specified or request is 0"
        ));
    };
    let Some(limit) = there(limits) else {
        return Some(format!("{head}, but no limit is specified or limit is 0"));
    };
    // Thousandths where they fit, as large amounts do not.
    let fits = |amount: Amount| amount.value() <= i64::MAX / 1000;
    let bound = Amount::of(ratio);
    let observed = if fits(request) && fits(limit) && fits(bound) {
        limit.milli_value() as f64 / request.milli_value() as f64
    } else {
        limit.value() as f64 / request.value() as f64
    };
    let too_far = if fits(bound) {
        observed * 1000.0 > bound.milli_value() as f64
    } else {
        observed > bound.value() as f64
    };
    too_far.then(|| format!("{head}, but provided ratio is {observed:.6}"))
}
