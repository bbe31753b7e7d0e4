//! What a pod wants of devices: claims by name, and extended resources that devices may stand for.

use k8s_openapi::api::core::v1::{Pod, PodResourceClaim, PodSpec};

use crate::devices::extended::{ContainerWants, containers};

/// A claim that a pod names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimUse {
    /// A claim of that name, and whether it was made for the pod.
    Named(Box<str>, bool),
    /// One that is still to be made for the pod.
    ToBeMade,
    /// One that is not needed after all.
    Needless,
    /// One of a kind that is not known here: its name within the pod.
    Unknown(Box<str>),
}

/// All of it. Pods that want nothing have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceWants {
    /// Claims, in the order in which the pod names them.
    pub claims: Vec<ClaimUse>,
    /// Containers, if any asks for a resource that devices may stand for.
    pub containers: Vec<ContainerWants>,
}

impl DeviceWants {
    /// Reads a pod.
    #[must_use]
    pub fn of(pod: &Pod, spec: &PodSpec) -> Option<Box<Self>> {
        let claims = spec.resource_claims.iter().flatten();
        let wants = Self {
            claims: claims.map(|claim| claim_use(pod, claim)).collect(),
            containers: containers(spec),
        };
        let any = !wants.claims.is_empty() || !wants.containers.is_empty();
        any.then(|| Box::new(wants))
    }

    /// The names of claims.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.claims.iter().filter_map(|claim| match claim {
            ClaimUse::Named(name, _) => Some(&**name),
            _ => None,
        })
    }
}

fn claim_use(pod: &Pod, claim: &PodResourceClaim) -> ClaimUse {
    if let Some(name) = &claim.resource_claim_name {
        return ClaimUse::Named(name.as_str().into(), false);
    }
    if claim.resource_claim_template_name.is_none() {
        return ClaimUse::Unknown(claim.name.as_str().into());
    }
    let status = pod.status.as_ref();
    let mut made = status
        .into_iter()
        .flat_map(|status| status.resource_claim_statuses.iter().flatten());
    match made.find(|made| made.name == claim.name) {
        None => ClaimUse::ToBeMade,
        Some(made) => match &made.resource_claim_name {
            Some(name) => ClaimUse::Named(name.as_str().into(), true),
            None => ClaimUse::Needless,
        },
    }
}
