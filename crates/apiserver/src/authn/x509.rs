//! Client certificates: the common name is the user, the organizations are the groups.

use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::request::UserInfo;
use crate::seam::{AuthnError, PeerCertificates};

/// The user that the verified leaf certificate names; `None` for one without a common name.
pub fn user(certificates: &PeerCertificates) -> Result<Option<UserInfo>, AuthnError> {
    let Some(leaf) = certificates.0.first() else {
        return Ok(None);
    };
    let (_, certificate) = X509Certificate::from_der(leaf)
        .map_err(|error| AuthnError(format!("client certificate: {error}")))?;
    let subject = certificate.subject();
    let Some(name) = subject
        .iter_common_name()
        .find_map(|name| name.as_str().ok())
        .filter(|name| !name.is_empty())
    else {
        return Ok(None);
    };
    let groups = subject
        .iter_organization()
        .filter_map(|name| name.as_str().ok())
        .map(str::to_owned);
    Ok(Some(UserInfo {
        name: name.to_owned(),
        groups: groups.collect(),
        ..UserInfo::default()
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    #[test]
    fn name_and_groups_come_from_the_subject() {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, "system:node:n1");
        params
            .distinguished_name
            .push(DnType::OrganizationName, "system:nodes");
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let peer = PeerCertificates(std::sync::Arc::new(vec![certificate.der().clone()]));
        assert_eq!(
            user(&peer).unwrap(),
            Some(UserInfo::new("system:node:n1", &["system:nodes"]))
        );
    }
}
