//! Client certificates: the common name is the user, the organizations are the groups.
//!
//! A certificate is read once for each connection; a request on it costs a look at the clock.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use sha2::{Digest as _, Sha256};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::authenticated;
use crate::request::UserInfo;
use crate::seam::AuthnError;

/// The extra of a user that names the credential of the request.
pub(crate) const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";
/// The attribute of a subject that holds the user's uid: 1.3.6.1.4.1.57683.2.
const UID: &str = "1.3.6.1.4.1.57683.2";

/// What a certificate says, and from when until when, in seconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    user: Arc<UserInfo>,
    not_before: i64,
    not_after: i64,
}

impl Identity {
    /// The user, while the certificate is valid: a connection may outlive it.
    pub fn user(&self, now: i64) -> Result<Arc<UserInfo>, AuthnError> {
        if now < self.not_before || now > self.not_after {
            return Err(AuthnError(
                "x509: certificate has expired or is not yet valid".to_owned(),
            ));
        }
        Ok(self.user.clone())
    }
}

/// The user that the leaf of a verified chain names; `None` for one without a common name.
pub fn identity(chain: &[CertificateDer<'_>]) -> Result<Option<Identity>, AuthnError> {
    let Some(leaf) = chain.first() else {
        return Ok(None);
    };
    let (_, certificate) = X509Certificate::from_der(leaf)
        .map_err(|error| AuthnError(format!("client certificate: {error}")))?;
    let subject = certificate.subject();
    // Of several common names the last counts, as in Go's reading.
    let name = subject
        .iter_common_name()
        .filter_map(|name| name.as_str().ok());
    let Some(name) = name.last().filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let groups = subject
        .iter_organization()
        .filter_map(|name| name.as_str().ok())
        .map(str::to_owned);
    let mut fingerprint = String::from("X509SHA256=");
    for byte in Sha256::digest(leaf) {
        // Writing to a string cannot fail.
        let _ = write!(fingerprint, "{byte:02x}");
    }
    let user = UserInfo {
        name: name.to_owned(),
        uid: uid(&certificate)?,
        groups: groups.collect(),
        extra: BTreeMap::from([(CREDENTIAL_ID.to_owned(), vec![fingerprint])]),
    };
    let validity = certificate.validity();
    Ok(Some(Identity {
        user: Arc::new(authenticated(user)),
        not_before: validity.not_before.timestamp(),
        not_after: validity.not_after.timestamp(),
    }))
}

fn uid(certificate: &X509Certificate<'_>) -> Result<String, AuthnError> {
    let attributes = certificate.subject().iter_attributes();
    let mut found = attributes.filter(|attribute| attribute.attr_type().to_id_string() == UID);
    let wrong = |why: &str| Err(AuthnError(why.to_owned()));
    match (found.next(), found.next()) {
        (None, _) => Ok(String::new()),
        (Some(_), Some(_)) => wrong("expected 1 UID, but found multiple"),
        (Some(only), None) => match only.as_str() {
            Ok("") => wrong("UID cannot be an empty string"),
            Ok(uid) => Ok(uid.to_owned()),
            Err(_) => wrong("unable to parse UID into a string"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

    fn certificate(uids: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, "system:node:n1");
        name.push(DnType::OrganizationName, "system:nodes");
        for uid in uids {
            name.push(DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]), *uid);
        }
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2026, 2, 1);
        let signed = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        signed.der().clone()
    }

    #[test]
    fn name_and_groups_come_from_the_subject_while_it_is_valid() {
        let found = identity(&[certificate(&["7"])]).unwrap().unwrap();
        let at = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_second();
        let user = found.user(at("2026-01-15T00:00:00Z")).unwrap();
        assert_eq!(
            (user.name.as_str(), user.uid.as_str()),
            ("system:node:n1", "7")
        );
        assert_eq!(user.groups, ["system:nodes", "system:authenticated"]);
        assert!(user.extra[CREDENTIAL_ID][0].starts_with("X509SHA256="));
        assert_eq!(user.extra[CREDENTIAL_ID][0].len(), 11 + 64);
        assert!(found.user(at("2026-03-01T00:00:00Z")).is_err());
        assert!(found.user(at("2025-12-31T00:00:00Z")).is_err());
        assert!(identity(&[certificate(&[""])]).is_err());
        assert_eq!(identity(&[]).unwrap(), None);
    }
}
