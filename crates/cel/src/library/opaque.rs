//! Values of Kubernetes' own types, which only their functions look into.

use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value as Json;

use super::authorizer::{Authorizer, Decision, ResourceCheck, ServiceAccount};
use super::cidr::Cidr;
use super::format::Format;
use super::quantity::Quantity;
use super::url::Url;
use crate::error::EvalError;

/// A value of one of Kubernetes' own types.
#[derive(Clone)]
pub enum Opaque<'a> {
    /// `quantity("1Gi")`
    Quantity(Arc<Quantity>),
    /// `url("https://x/")`
    Url(Arc<Url>),
    /// `ip("10.0.0.1")`
    Ip(IpAddr),
    /// `cidr("10.0.0.0/8")`
    Cidr(Cidr),
    /// `format.dns1123Label()`
    Format(&'static Format),
    /// `semver("1.2.3")`
    Semver(Arc<semver::Version>),
    /// `authorizer`
    Authorizer(&'a dyn Authorizer),
    /// `authorizer.serviceAccount(..)`
    AccountAuthorizer(&'a dyn Authorizer, Arc<ServiceAccount>),
    /// `authorizer.path(..)`
    PathCheck(&'a dyn Authorizer, Option<Arc<ServiceAccount>>, Arc<str>),
    /// `authorizer.group(..)`
    GroupCheck(&'a dyn Authorizer, Option<Arc<ServiceAccount>>, Arc<str>),
    /// `authorizer.group(..).resource(..)`
    ResourceCheck(&'a dyn Authorizer, Arc<ResourceCheck>),
    /// `...check(..)`
    Decision(Arc<Decision>),
}

impl Opaque<'_> {
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Url(_) => "kubernetes.URL",
            Self::Ip(_) => "net.IP",
            Self::Cidr(_) => "net.CIDR",
            Self::Format(_) => "kubernetes.NamedFormat",
            Self::Semver(_) => "kubernetes.Semver",
            Self::Authorizer(_) | Self::AccountAuthorizer(..) => {
                "kubernetes.authorization.Authorizer"
            }
            Self::PathCheck(..) => "kubernetes.authorization.PathCheck",
            Self::GroupCheck(..) => "kubernetes.authorization.GroupCheck",
            Self::ResourceCheck(..) => "kubernetes.authorization.ResourceCheck",
            Self::Decision(_) => "kubernetes.authorization.Decision",
        }
    }

    /// What counts as the size when the cost is reckoned.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::Ip(ip) => address_bytes(*ip),
            Self::Cidr(cidr) => u64::from(cidr.prefix).div_ceil(8),
            _ => 1,
        }
    }

    pub(crate) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Quantity(a), Self::Quantity(b)) => a == b,
            (Self::Url(a), Self::Url(b)) => a.text == b.text,
            (Self::Ip(a), Self::Ip(b)) => a == b,
            (Self::Cidr(a), Self::Cidr(b)) => a == b,
            (Self::Format(a), Self::Format(b)) => a.name == b.name,
            (Self::Semver(a), Self::Semver(b)) => a.cmp_precedence(b).is_eq(),
            _ => false,
        }
    }

    pub(crate) fn to_json(&self) -> Result<Json, EvalError> {
        match self {
            Self::Quantity(quantity) => Ok(Json::String(quantity.to_string())),
            Self::Url(url) => Ok(Json::String(url.text.to_string())),
            Self::Ip(ip) => Ok(Json::String(ip.to_string())),
            Self::Cidr(cidr) => Ok(Json::String(cidr.to_string())),
            Self::Semver(version) => Ok(Json::String(version.to_string())),
            _ => Err(EvalError::fault(format!(
                "type conversion error from '{}' to JSON",
                self.type_name()
            ))),
        }
    }
}

fn address_bytes(ip: IpAddr) -> u64 {
    if ip.is_ipv4() { 4 } else { 16 }
}

impl std::fmt::Debug for Opaque<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.to_json() {
            Ok(json) => write!(f, "{}({json})", self.type_name()),
            Err(_) => f.write_str(self.type_name()),
        }
    }
}
