//! Which versions are served: those that upstream serves by default, and what `--runtime-config` adds and takes.

use std::collections::BTreeMap;

use crate::kind::Kind;

static OTHERS: &[Kind] = &[crate::settings::pod_preset::KIND];

/// The kinds and versions that are served only where they are asked for.
pub(crate) fn optional() -> impl Iterator<Item = &'static Kind> {
    crate::legacy::kinds().iter().chain(OTHERS)
}

/// What upstream 1.36 still knows of them, group, version and kinds; the others are `api/legacy`.
const KNOWN_UPSTREAM: &[(&str, &str, &[&str])] = &[
    (
        "networking.k8s.io",
        "v1beta1",
        &["IPAddress", "ServiceCIDR"],
    ),
    ("storage.k8s.io", "v1beta1", &["VolumeAttributesClass"]),
    ("admissionregistration.k8s.io", "v1beta1", MUTATING),
    ("admissionregistration.k8s.io", "v1alpha1", MUTATING),
    (
        "resource.k8s.io",
        "v1beta2",
        &[
            "DeviceClass",
            "ResourceClaim",
            "ResourceClaimTemplate",
            "ResourceSlice",
        ],
    ),
];

const MUTATING: &[&str] = &["MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"];

/// What kind of version it is, as the keys of `--runtime-config` call it.
fn stage(kind: &Kind) -> &'static str {
    let upstream = KNOWN_UPSTREAM.iter().any(|(group, version, kinds)| {
        *group == kind.group && *version == kind.version && kinds.contains(&kind.kind)
    });
    let is_optional = optional().any(|other| {
        (other.group, other.version, other.kind) == (kind.group, kind.version, kind.kind)
    });
    if is_optional && !upstream {
        return "api/legacy";
    }
    match kind.version {
        version if version.contains("alpha") => "api/alpha",
        version if version.contains("beta") => "api/beta",
        _ => "api/ga",
    }
}

/// The values of `--runtime-config`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Choices(BTreeMap<String, bool>);

impl Choices {
    fn parse(values: &[String]) -> Result<Self, String> {
        let mut choices = BTreeMap::new();
        for entry in values.iter().filter(|entry| !entry.is_empty()) {
            let (key, value) = entry.split_once('=').unwrap_or((entry, ""));
            let on = match value.trim() {
                "" | "true" | "True" | "TRUE" | "t" | "T" | "1" => true,
                "false" | "False" | "FALSE" | "f" | "F" | "0" => false,
                _ => {
                    return Err(format!(
                        "runtime-config: invalid value of: {key}: {value}, err: strconv.ParseBool: parsing {value:?}: invalid syntax"
                    ));
                }
            };
            choices.insert(key.trim().trim_end_matches('/').to_owned(), on);
        }
        let choices = Self(choices);
        choices.check()?;
        Ok(choices)
    }

    fn check(&self) -> Result<(), String> {
        let known = || crate::kinds().iter().chain(optional());
        for key in self.0.keys() {
            let parts: Vec<&str> = key.split('/').collect();
            let fits = match parts.as_slice() {
                ["api", "all" | "ga" | "beta" | "alpha" | "legacy"] => true,
                ["v1"] | ["api", "v1"] => true,
                [group, version] => {
                    known().any(|kind| kind.group == *group && kind.version == *version)
                }
                [group, version, resource] => known().any(|kind| {
                    kind.group == *group && kind.version == *version && kind.plural == *resource
                }),
                _ => false,
            };
            if !fits {
                return Err(format!("--runtime-config: unknown API version {key:?}"));
            }
        }
        Ok(())
    }

    /// Whether a kind is served; the more a key says the more it counts.
    fn serves(&self, kind: &Kind, by_default: bool) -> bool {
        let version = match kind.group {
            "" => format!("api/{}", kind.version),
            group => format!("{group}/{}", kind.version),
        };
        let resource = format!("{version}/{}", kind.plural);
        // All removed versions are asked for by their own name only.
        let stage = stage(kind);
        let all = (stage != "api/legacy").then_some("api/all");
        let keys = [
            Some(resource.as_str()),
            Some(version.as_str()),
            Some(stage),
            all,
        ];
        let chosen = keys.into_iter().flatten().find_map(|key| self.0.get(key));
        let bare = (kind.group.is_empty())
            .then(|| self.0.get(kind.version))
            .flatten();
        chosen.or(bare).copied().unwrap_or(by_default)
    }
}

/// The kinds that a server with these values of `--runtime-config` serves, in discovery's order; says what is wrong with
/// a value. The outcome lives as long as the process: call it once.
pub fn served(values: &[String]) -> Result<&'static [Kind], String> {
    let choices = Choices::parse(values)?;
    if choices.0.is_empty() {
        return Ok(crate::kinds());
    }
    let mut served: Vec<Kind> = Vec::new();
    let usual = crate::kinds().iter().map(|kind| (kind, true));
    for (kind, by_default) in usual.chain(optional().map(|kind| (kind, false))) {
        if !choices.serves(kind, by_default) {
            continue;
        }
        // Versions of a group stay together.
        let after = served.iter().rposition(|other| other.group == kind.group);
        served.insert(after.map_or(served.len(), |index| index + 1), *kind);
    }
    // A version cannot be served without the one that is stored.
    let stored: Vec<(&str, String)> = served
        .iter()
        .filter(|kind| kind.conversion.is_none())
        .map(|kind| (kind.storage, kind.api_version()))
        .collect();
    served.retain(|kind| {
        kind.conversion.is_none_or(|conversion| {
            let mut stored = stored.iter();
            stored.any(|(storage, version)| {
                *storage == kind.storage && version == conversion.storage_version
            })
        })
    });
    Ok(Vec::leak(served))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(values: &[&str]) -> Result<Vec<String>, String> {
        let values: Vec<String> = values.iter().map(|value| (*value).to_owned()).collect();
        served(&values).map(|kinds| {
            kinds
                .iter()
                .map(|kind| format!("{}/{}", kind.api_version(), kind.plural))
                .collect()
        })
    }

    #[test]
    fn versions_come_and_go_by_their_keys() {
        let usual = versions(&[]).unwrap();
        assert_eq!(usual.len(), crate::kinds().len());
        let more = versions(&["extensions/v1beta1=true"]).unwrap();
        assert_eq!(more.len(), usual.len() + 5);
        assert!(more.contains(&"extensions/v1beta1/ingresses".to_owned()));
        let one = versions(&["extensions/v1beta1/deployments", "batch/v2alpha1"]).unwrap();
        assert_eq!(one.len(), usual.len() + 2);
        let legacy = versions(&["api/legacy=true", "apps/v1beta1=false"]).unwrap();
        assert!(legacy.contains(&"settings.k8s.io/v1alpha1/podpresets".to_owned()));
        assert!(legacy.contains(&"batch/v1beta1/cronjobs".to_owned()));
        assert!(
            !legacy
                .iter()
                .any(|version| version.starts_with("apps/v1beta1"))
        );
        assert!(!legacy.contains(&"storage.k8s.io/v1alpha1/volumeattributesclasses".to_owned()));
        let all = versions(&["api/all=true"]).unwrap();
        assert!(all.contains(&"resource.k8s.io/v1beta2/resourceclaims".to_owned()));
        assert!(!all.iter().any(|version| version.starts_with("extensions/")));
        // Without the stored version none is left.
        let none = versions(&["api/legacy=true", "batch/v1=false"]).unwrap();
        assert!(!none.iter().any(|version| version.starts_with("batch/")));
        // Groups stay together.
        let mut groups: Vec<&str> = legacy
            .iter()
            .map(|version| version.split('/').next().unwrap())
            .collect();
        groups.dedup();
        let mut once = groups.clone();
        once.sort_unstable();
        once.dedup();
        assert_eq!(groups.len(), once.len());
        for (values, wrong) in [
            (["apps/v9=true"], "unknown API version \"apps/v9\""),
            (["apps/v1=maybe"], "invalid value of: apps/v1: maybe"),
        ] {
            let error = versions(&values).unwrap_err();
            assert!(error.contains(wrong), "{error}");
        }
    }
}
