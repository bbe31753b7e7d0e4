//! What claims ask for, in the form in which it is searched for.

use std::sync::Arc;

use k8s_openapi::api::resource::v1::{
    CapacityRequirements, DeviceClass, DeviceRequest, DeviceSelector, DeviceTaint,
    DeviceToleration, ResourceClaim,
};

/// A request, or one of several that another one lists.
#[derive(Debug)]
pub struct Request<'a> {
    /// The name of the request that lists it; none if it stands for itself.
    pub parent: Option<&'a str>,
    /// Its own name.
    pub name: &'a str,
    /// The class of the devices.
    pub class: &'a DeviceClass,
    /// What devices have to be like, beside what the class says.
    pub selectors: &'a [DeviceSelector],
    /// Taints that are borne.
    pub tolerations: &'a [DeviceToleration],
    /// How much of a device is needed.
    pub capacity: Option<&'a CapacityRequirements>,
    /// Whether devices are only looked at, whoever has them.
    pub admin: bool,
    /// How many devices; none for all there are.
    pub count: Option<usize>,
}

/// A request with its alternatives, the best first; exactly one unless they are listed.
#[derive(Debug)]
pub struct Requests<'a> {
    /// Whether it lists alternatives.
    pub listed: bool,
    /// They.
    pub alternatives: Vec<Request<'a>>,
}

/// A claim that devices are to be found for.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The claim.
    pub claim: &'a ResourceClaim,
    /// What it asks for.
    pub requests: Vec<Requests<'a>>,
}

/// Namespace and name, as messages have them.
#[must_use]
pub fn title(claim: &ResourceClaim) -> String {
    let meta = &claim.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    format!("{namespace}/{}", meta.name.as_deref().unwrap_or_default())
}

impl<'a> Wanted<'a> {
    /// Reads a claim. An error is a fault of the claim or of its classes.
    pub fn of(
        claim: &'a ResourceClaim,
        class: impl Fn(&str) -> Option<&'a Arc<DeviceClass>>,
    ) -> Result<Self, String> {
        let devices = claim.spec.devices.as_ref();
        let requests = devices.and_then(|devices| devices.requests.as_deref());
        let read = |request: &'a DeviceRequest| read(claim, request, &class);
        let requests = requests.unwrap_or_default().iter().map(read);
        Ok(Self {
            claim,
            requests: requests.collect::<Result<_, _>>()?,
        })
    }
}

fn read<'a>(
    claim: &'a ResourceClaim,
    request: &'a DeviceRequest,
    class: &impl Fn(&str) -> Option<&'a Arc<DeviceClass>>,
) -> Result<Requests<'a>, String> {
    let find = |name: &str, title_of: &str| {
        class(name).map(AsRef::as_ref).ok_or_else(|| {
            format!(
                "claim {}, request {title_of}: could not retrieve device class {name}: \
                 deviceclass.resource.k8s.io \"{name}\" not found",
                title(claim)
            )
        })
    };
    let count = |mode: Option<&str>, count: Option<i64>| match mode {
        Some("All") => Ok(None),
        None | Some("" | "ExactCount") => Ok(Some(
            usize::try_from(count.unwrap_or(1)).unwrap_or(usize::MAX),
        )),
        Some(other) => Err(format!(
            "claim {}, request {}: unsupported count mode {other}",
            title(claim),
            request.name
        )),
    };
    if let Some(exactly) = &request.exactly {
        return Ok(Requests {
            listed: false,
            alternatives: vec![Request {
                parent: None,
                name: &request.name,
                class: find(&exactly.device_class_name, &request.name)?,
                selectors: exactly.selectors.as_deref().unwrap_or_default(),
                tolerations: exactly.tolerations.as_deref().unwrap_or_default(),
                capacity: exactly.capacity.as_ref(),
                admin: exactly.admin_access == Some(true),
                count: count(exactly.allocation_mode.as_deref(), exactly.count)?,
            }],
        });
    }
    let listed = request.first_available.iter().flatten();
    let alternatives = listed.map(|one| {
        Ok(Request {
            parent: Some(&request.name),
            name: &one.name,
            class: find(&one.device_class_name, &one.name)?,
            selectors: one.selectors.as_deref().unwrap_or_default(),
            tolerations: one.tolerations.as_deref().unwrap_or_default(),
            capacity: one.capacity.as_ref(),
            admin: false,
            count: count(one.allocation_mode.as_deref(), one.count)?,
        })
    });
    Ok(Requests {
        listed: true,
        alternatives: alternatives.collect::<Result<_, String>>()?,
    })
}

impl Request<'_> {
    /// The name in results: that of an alternative comes with its list's.
    #[must_use]
    pub fn full_name(&self) -> String {
        match self.parent {
            Some(parent) => format!("{parent}/{}", self.name),
            None => self.name.to_owned(),
        }
    }

    /// Whether a list of names means this request; an empty one means all.
    #[must_use]
    pub fn is_among(&self, names: &[String]) -> bool {
        names.is_empty()
            || names.iter().any(|name| match self.parent {
                Some(parent) => name == parent || *name == self.full_name(),
                None => name == self.name,
            })
    }

    /// Whether it bears a device's taints.
    #[must_use]
    pub fn bears(&self, taints: &[DeviceTaint]) -> bool {
        let mut refusing = taints.iter().filter(|taint| keeps_away(taint));
        refusing.all(|taint| {
            let mut tolerations = self.tolerations.iter();
            tolerations.any(|toleration| tolerates(toleration, taint))
        })
    }
}

fn keeps_away(taint: &DeviceTaint) -> bool {
    matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute")
}

/// Whether a toleration bears a taint.
#[must_use]
pub fn tolerates(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let fits = |wanted: Option<&str>, actual: &str| {
        wanted.is_none_or(|wanted| wanted.is_empty() || wanted == actual)
    };
    fits(toleration.effect.as_deref(), &taint.effect)
        && fits(toleration.key.as_deref(), &taint.key)
        && match toleration.operator.as_deref() {
            None | Some("" | "Equal") => {
                toleration.value.as_deref().unwrap_or_default()
                    == taint.value.as_deref().unwrap_or_default()
            }
            operator => operator == Some("Exists"),
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tolerations() {
        let taint: DeviceTaint =
            serde_json::from_value(json!({"key": "k", "value": "v", "effect": "NoSchedule"}))
                .unwrap();
        for (toleration, expected) in [
            (json!({"operator": "Exists"}), true),
            (json!({"key": "k", "value": "v"}), true),
            (
                json!({"key": "k", "operator": "Equal", "value": "w"}),
                false,
            ),
            (
                json!({"key": "k", "operator": "Exists", "effect": "NoSchedule"}),
                true,
            ),
            (
                json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}),
                false,
            ),
            (json!({"key": "l", "operator": "Exists"}), false),
            (json!({"key": "k", "operator": "Unknown"}), false),
        ] {
            let toleration = serde_json::from_value(toleration).unwrap();
            assert_eq!(tolerates(&toleration, &taint), expected, "{toleration:?}");
        }
    }
}
