//! Annotations of pods that mean something to the server.

use k8s_openapi::api::core::v1::{AppArmorProfile, Pod, PodSpec, SeccompProfile, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::containers::visit;
use super::rules::PodRules;
use super::{paths, scheduling};
use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{entries, entry, text};

/// Marks the pod that stands for a static pod.
pub const MIRROR: &str = "kubernetes.io/config.mirror";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";
pub(super) const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Whether the deletion cost is a number as it has to be, or absent.
pub(super) fn deletion_cost_is_valid(meta: &ObjectMeta) -> bool {
    entry(&meta.annotations, DELETION_COST).is_none_or(|cost| {
        let plain = cost == "0" || cost.starts_with(|c: char| c == '-' || matches!(c, '1'..='9'));
        plain && cost.parse::<i32>().is_ok()
    })
}

/// The annotations of a pod or a template.
pub(super) fn annotations(
    errors: &mut ErrorList,
    meta: &ObjectMeta,
    spec: &PodSpec,
    rules: &PodRules,
    path: &Path,
) {
    let annotation = |key: &str| entry(&meta.annotations, key);
    if let Some(value) = annotation(MIRROR)
        && text(&spec.node_name).is_empty()
    {
        errors.push(FieldError::invalid(
            &path.key(MIRROR),
            value,
            "must set spec.nodeName if mirror pod annotation is set",
        ));
    }
    if let Some(value) = annotation(TOLERATIONS).filter(|value| !value.is_empty()) {
        match serde_json::from_str::<Vec<Toleration>>(value) {
            Ok(list) => scheduling::tolerations(errors, &list, rules, &path.child(TOLERATIONS)),
            Err(error) => {
                errors.push(FieldError::invalid(path, TOLERATIONS, &error.to_string()));
            }
        }
    }
    if !rules.allow_invalid_deletion_cost && !deletion_cost_is_valid(meta) {
        let value = annotation(DELETION_COST).map_or("", String::as_str);
        let path = path.key(DELETION_COST);
        errors.push(FieldError::invalid(&path, value, "must be a 32bit integer"));
    }
    if let Some(profile) = annotation(SECCOMP_POD) {
        seccomp_profile(errors, profile, &path.child(SECCOMP_POD));
    }
    for (key, profile) in entries(&meta.annotations) {
        if key.starts_with(SECCOMP_CONTAINER) {
            seccomp_profile(errors, profile, &path.child(key));
        }
    }
    for (key, profile) in entries(&meta.annotations) {
        if let Some(container) = key.strip_prefix(APP_ARMOR) {
            app_armor_profile(errors, container, profile, spec, &path.key(key));
        }
    }
}

fn seccomp_profile(errors: &mut ErrorList, profile: &str, path: &Path) {
    match profile {
        "runtime/default" | "docker/default" | "unconfined" => {}
        _ => match profile.strip_prefix("localhost/") {
            Some(file) => paths::descending(errors, file, path),
            None => {
                let detail = "must be a valid seccomp profile";
                errors.push(FieldError::invalid(path, profile, detail));
            }
        },
    }
}

fn app_armor_profile(
    errors: &mut ErrorList,
    container: &str,
    profile: &str,
    spec: &PodSpec,
    path: &Path,
) {
    let mut found = false;
    visit(spec, &Path::default(), |other, _| {
        found |= other.name == container
    });
    if !found {
        errors.push(FieldError::invalid(path, container, "container not found"));
    }
    let known = matches!(profile, "" | "runtime/default" | "unconfined");
    if !known && !profile.starts_with("localhost/") {
        let detail = format!("invalid AppArmor profile name: {profile:?}");
        errors.push(FieldError::invalid(path, profile, &detail));
    }
}

/// Annotations that stay as they are after creation.
pub(super) fn update(errors: &mut ErrorList, new: &Pod, old: &Pod, path: &Path) {
    let (new, old) = (&new.metadata.annotations, &old.metadata.annotations);
    for (key, value) in entries(old) {
        if entry(new, key) == Some(value) {
            continue;
        }
        if key.starts_with(APP_ARMOR) {
            let detail = "may not remove or update AppArmor annotations";
            errors.push(FieldError::forbidden(&path.key(key), detail));
        }
        if key == MIRROR {
            let detail = "may not remove or update mirror pod annotation";
            errors.push(FieldError::forbidden(&path.key(key), detail));
        }
    }
    for (key, _) in entries(new) {
        if entry(old, key).is_some() {
            continue;
        }
        if key.starts_with(APP_ARMOR) {
            let detail = "may not add AppArmor annotations";
            errors.push(FieldError::forbidden(&path.key(key), detail));
        }
        if key == MIRROR {
            let detail = "may not add mirror pod annotation";
            errors.push(FieldError::forbidden(&path.key(key), detail));
        }
    }
}

/// Where both the old annotations and the fields name a profile, they agree.
pub(super) fn match_fields(errors: &mut ErrorList, meta: &ObjectMeta, spec: &PodSpec, path: &Path) {
    let context = spec.security_context.as_ref();
    let annotation = |key: &str| entry(&meta.annotations, key).map(String::as_str);
    if let Some(profile) = context.and_then(|context| context.seccomp_profile.as_ref())
        && let Some(value) = annotation(SECCOMP_POD)
    {
        let path = path.child("securityContext").child("seccompProfile");
        errors.extend(mismatch("seccomp", value, seccomp_parts(profile), &path));
    }
    visit(spec, path, |container, path| {
        let own = container.security_context.as_ref();
        if let Some(profile) = own.and_then(|own| own.seccomp_profile.as_ref())
            && let Some(value) = annotation(&format!("{SECCOMP_CONTAINER}{}", container.name))
        {
            let path = path.child("securityContext").child("seccompProfile");
            errors.extend(mismatch("seccomp", value, seccomp_parts(profile), &path));
        }
    });
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        return;
    }
    let pod = context.and_then(|context| context.app_armor_profile.as_ref());
    visit(spec, path, |container, path| {
        let own = container.security_context.as_ref();
        if let Some(profile) = own.and_then(|own| own.app_armor_profile.as_ref()).or(pod)
            && let Some(value) = annotation(&format!("{APP_ARMOR}{}", container.name))
        {
            let path = path.child("securityContext").child("appArmorProfile");
            errors.extend(mismatch("apparmor", value, app_armor_parts(profile), &path));
        }
    });
}

type Parts<'a> = (&'a str, Option<&'a str>);

fn seccomp_parts(profile: &SeccompProfile) -> Parts<'_> {
    (&profile.type_, profile.localhost_profile.as_deref())
}

fn app_armor_parts(profile: &AppArmorProfile) -> Parts<'_> {
    (&profile.type_, profile.localhost_profile.as_deref())
}

fn mismatch(what: &str, value: &str, (kind, file): Parts<'_>, path: &Path) -> Option<FieldError> {
    let docker = what == "seccomp" && value == "docker/default";
    let field = match kind {
        "Unconfined" if value != "unconfined" => "type",
        "RuntimeDefault" if value != "runtime/default" && !docker => "type",
        "Localhost" => match value.strip_prefix("localhost/") {
            None => "type",
            Some(named) if file != Some(named) => "localhostProfile",
            Some(_) => return None,
        },
        _ => return None,
    };
    let noun = if field == "type" { "type" } else { "profile" };
    let detail = format!("{what} {noun} in annotation and field must match");
    Some(FieldError::forbidden(&path.child(field), &detail))
}
