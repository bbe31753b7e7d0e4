//! Who talks to the kubelet: a client certificate, or a bearer token that the API server knows.

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::Client;
use kube::api::{Api, PostParams};
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The user's name.
    pub user: String,
    /// The user's groups.
    pub groups: Vec<String>,
}

/// The identity in a client certificate that TLS has verified.
#[must_use]
pub fn of_certificate(certificate: &CertificateDer<'_>) -> Option<Identity> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let user = subject.iter_common_name().next()?.as_str().ok()?;
    let groups = subject.iter_organization();
    let groups = groups.filter_map(|g| g.as_str().ok().map(ToOwned::to_owned));
    Some(Identity {
        user: user.to_owned(),
        groups: groups.collect(),
    })
}

/// The identity behind a bearer token, as the API server sees it.
pub async fn of_token(client: &Client, token: &str) -> Option<Identity> {
    let review = TokenReview {
        spec: TokenReviewSpec {
            token: token.to_owned(),
            audiences: None,
        },
        ..TokenReview::default()
    };
    let reviews: Api<TokenReview> = Api::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await;
    let status = match answer {
        Ok(review) => review.status?,
        Err(error) => {
            tracing::warn!(%error, "cannot review a token");
            return None;
        }
    };
    let user = status.user.filter(|_| status.authenticated == Some(true))?;
    Some(Identity {
        user: user.username?,
        groups: user.groups.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_subject() {
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        let name = &mut params.distinguished_name;
        name.push(rcgen::DnType::CommonName, "ann");
        name.push(rcgen::DnType::OrganizationName, "system:masters");
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let identity = of_certificate(certificate.der()).unwrap();
        assert_eq!(identity.user, "ann");
        assert_eq!(identity.groups, ["system:masters"]);
    }
}
