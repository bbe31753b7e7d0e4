//! What must hold between the devices of one claim.

use k8s_openapi::api::resource::v1::{Device, DeviceAttribute, DeviceConstraint, ResourceClaim};

use super::request::{Request, title};

/// One of them, with the devices chosen so far.
#[derive(Debug)]
pub struct Constraint<'a> {
    requests: &'a [String],
    attribute: &'a str,
    distinct: bool,
    /// The values of devices chosen so far, in the order in which they were.
    values: Vec<&'a DeviceAttribute>,
}

/// All constraints of a claim.
pub fn all(claim: &ResourceClaim) -> Result<Vec<Constraint<'_>>, String> {
    let devices = claim.spec.devices.as_ref();
    let stated = devices.and_then(|devices| devices.constraints.as_deref());
    let stated = stated.unwrap_or_default().iter().enumerate();
    stated
        .map(|(number, stated)| {
            Constraint::of(stated).ok_or_else(|| {
                format!(
                    "claim {}, constraint #{number}: empty constraint (unsupported constraint type?)",
                    title(claim)
                )
            })
        })
        .collect()
}

/// The attribute of a device by its full name; the driver's own may be without a domain.
fn attribute<'a>(device: &'a Device, driver: &str, name: &str) -> Option<&'a DeviceAttribute> {
    let all = device.attributes.as_ref()?;
    all.get(name).or_else(|| {
        let (domain, id) = name.split_once('/')?;
        all.get(id).filter(|_| domain == driver)
    })
}

/// Whether two attributes are of a kind and have the same value. Lists never have.
fn same(a: &DeviceAttribute, b: &DeviceAttribute) -> bool {
    let known = a.string.is_some() || a.int.is_some() || a.bool.is_some() || a.version.is_some();
    known && a.string == b.string && a.int == b.int && a.bool == b.bool && a.version == b.version
}

impl<'a> Constraint<'a> {
    fn of(stated: &'a DeviceConstraint) -> Option<Self> {
        let matching = stated.match_attribute.as_deref();
        let attribute = matching.or(stated.distinct_attribute.as_deref())?;
        Some(Self {
            requests: stated.requests.as_deref().unwrap_or_default(),
            attribute,
            distinct: matching.is_none(),
            values: Vec::new(),
        })
    }

    /// Adds a device if that is all right. Answers whether it is.
    pub fn add(&mut self, request: &Request<'_>, driver: &str, device: &'a Device) -> bool {
        if !request.is_among(self.requests) {
            return true;
        }
        let Some(value) = attribute(device, driver, self.attribute) else {
            return false;
        };
        let fits = if self.distinct {
            !self.values.iter().any(|other| same(value, other))
        } else {
            self.values.first().is_none_or(|first| same(value, first))
        };
        if fits {
            self.values.push(value);
        }
        fits
    }

    /// Takes back what was added last, for the same request.
    pub fn remove(&mut self, request: &Request<'_>) {
        if request.is_among(self.requests) {
            self.values.pop();
        }
    }
}
