//! A Service's cluster addresses and IP families: well-formed, in step with each other, and kept.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::ServiceSpec;

use crate::field::{ErrorList, FieldError, Path};
use crate::validation::absent::{items, text};
use crate::validation::net;
use crate::validation::values::{json, one_of};

const ONCE: &str = "may not change once set";

/// Whether the service has no address of its own.
pub(super) fn is_headless(spec: &ServiceSpec) -> bool {
    matches!(items(&spec.cluster_ips), [only] if only == "None")
}

/// Whether the address is IPv4, if it is one.
fn is_v4(ip: &str) -> Option<bool> {
    net::parse_sloppy(ip).map(|ip| ip.is_ipv4())
}

pub(super) fn cluster_ips(
    errors: &mut ErrorList,
    spec: &ServiceSpec,
    old: Option<&ServiceSpec>,
    path: &Path,
) {
    let (ips, first) = (items(&spec.cluster_ips), text(&spec.cluster_ip));
    let (ips_path, families_path) = (path.child("clusterIPs"), path.child("ipFamilies"));
    let detail = match (first.is_empty(), ips.first()) {
        (false, None) => {
            errors.push(FieldError::required(&ips_path, ""));
            ""
        }
        (false, Some(ip)) if ip != first => "first value must match `clusterIP`",
        (true, Some(_)) => "must be empty when `clusterIP` is not specified",
        _ => "",
    };
    if !detail.is_empty() {
        errors.push(FieldError::invalid(&ips_path, json(ips), detail));
    }
    let families = items(&spec.ip_families);
    let mut seen = BTreeSet::new();
    for (index, family) in families.iter().enumerate() {
        let path = families_path.index(index);
        one_of(errors, &path, family, &["IPv4", "IPv6"]);
        if !seen.insert(family.as_str()) {
            errors.push(FieldError::duplicate(&path, family));
        }
    }
    if let Some(policy) = &spec.ip_family_policy {
        one_of(
            errors,
            &path.child("ipFamilyPolicy"),
            policy,
            &["PreferDualStack", "RequireDualStack", "SingleStack"],
        );
    }
    let kept: Vec<&str> = old
        .map(|old| items(&old.cluster_ips).iter().map(String::as_str).collect())
        .unwrap_or_default();
    let mut sound = true;
    for (index, ip) in ips.iter().enumerate() {
        if index == 0 && ip == "None" {
            if ips.len() > 1 {
                sound = false;
                let detail = "'None' must be the first and only value";
                errors.push(FieldError::invalid(&ips_path, json(ips), detail));
            }
            continue;
        }
        let wrong = net::legacy_ip(&ips_path.index(index), ip, &kept);
        sound &= wrong.is_empty();
        errors.extend(wrong);
    }
    if ips.len() > 2 {
        errors.push(FieldError::invalid(
            &ips_path,
            json(ips),
            "may only hold up to 2 values",
        ));
    }
    if sound {
        families_match(errors, spec, ips, families, &ips_path);
    }
}

fn families_match(
    errors: &mut ErrorList,
    spec: &ServiceSpec,
    ips: &[String],
    families: &[String],
    path: &Path,
) {
    if ips.len() > 1 {
        let distinct: BTreeSet<Option<bool>> = ips.iter().map(|ip| is_v4(ip)).collect();
        if distinct.len() < 2 {
            let detail = "may specify no more than one IP for each IP family";
            errors.push(FieldError::invalid(path, json(ips), detail));
        }
    }
    if is_headless(spec) {
        return;
    }
    for (index, (ip, family)) in ips.iter().zip(families).enumerate() {
        let wanted = match family.as_str() {
            "IPv4" => true,
            "IPv6" => false,
            _ => continue,
        };
        if is_v4(ip) != Some(wanted) {
            let detail =
                format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
            errors.push(FieldError::invalid(&path.index(index), ip, &detail));
        }
    }
}

fn is_external_name(spec: &ServiceSpec) -> bool {
    text(&spec.type_) == "ExternalName"
}

/// Once given, a cluster address stays; a second one may come and go.
pub(super) fn kept_cluster_ips(errors: &mut ErrorList, new: &ServiceSpec, old: &ServiceSpec) {
    if is_external_name(new) || is_external_name(old) || (is_headless(new) && is_headless(old)) {
        return;
    }
    let (ips, old_ips) = (items(&new.cluster_ips), items(&old.cluster_ips));
    let path = Path::new("spec").child("clusterIPs");
    let mut changed = |index: usize, detail: &str| {
        let shown = json(&Some(ips).filter(|ips| !ips.is_empty()));
        errors.push(FieldError::invalid(&path.index(index), shown, detail));
    };
    if ips.len() == old_ips.len() {
        for (index, _) in old_ips
            .iter()
            .zip(ips)
            .enumerate()
            .filter(|(_, (old, new))| old != new)
        {
            changed(index, ONCE);
        }
        return;
    }
    if ips.is_empty() {
        changed(0, "primary clusterIP can not be unset");
    } else if old_ips.first().is_some_and(|old| Some(old) != ips.first()) {
        changed(0, ONCE);
    }
    if ips.len() < old_ips.len() && ips.len() == 1 {
        released(errors, new, "clusterIP");
    }
}

/// Once given, the first IP family stays; a second one may come and go.
pub(super) fn kept_families(errors: &mut ErrorList, new: &ServiceSpec, old: &ServiceSpec) {
    if is_external_name(new) || is_external_name(old) || is_headless(new) || is_headless(old) {
        return;
    }
    let (families, old_families) = (items(&new.ip_families), items(&old.ip_families));
    let path = Path::new("spec").child("ipFamilies").index(0);
    if families.len() == old_families.len() {
        for _ in old_families
            .iter()
            .zip(families)
            .filter(|(old, new)| old != new)
        {
            errors.push(FieldError::invalid(&path, json(families), ONCE));
        }
        return;
    }
    if families.len() < old_families.len() && items(&new.cluster_ips).is_empty() {
        let detail = "primary ipFamily can not be unset";
        errors.push(FieldError::invalid(&path, json(families), detail));
    }
    if let (Some(first), Some(old)) = (families.first(), old_families.first())
        && first != old
    {
        // Upstream shows the addresses here.
        errors.push(FieldError::invalid(
            &path,
            json(items(&new.cluster_ips)),
            ONCE,
        ));
    }
    if families.len() < old_families.len() && families.len() == 1 {
        released(errors, new, "ipFamily");
    }
}

fn released(errors: &mut ErrorList, spec: &ServiceSpec, what: &str) {
    if text(&spec.ip_family_policy) != "SingleStack" {
        let detail = format!("must be set to 'SingleStack' when releasing the secondary {what}");
        let path = Path::new("spec").child("ipFamilyPolicy");
        errors.push(FieldError::invalid(
            &path,
            json(&spec.ip_family_policy),
            &detail,
        ));
    }
}
