//! Front proxies: who has a certificate of their authority says in headers who the user is.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;
use http::header::HeaderName;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;

use super::authenticated;
use crate::request::{UserInfo, decode};
use crate::seam::{AuthnError, PeerCertificates};

/// Which front proxies are believed, and in which headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeaderSettings {
    /// Common names of their certificates; empty: any.
    pub allowed_names: Vec<String>,
    /// The first of these that has a value names the user.
    pub username_headers: Vec<String>,
    /// The first of these that has a value is the user's uid.
    pub uid_headers: Vec<String>,
    /// All values of these are groups.
    pub group_headers: Vec<String>,
    /// Headers that begin so hold extras; what follows is the key, percent-encoded.
    pub extra_headers_prefix: Vec<String>,
}

impl Default for RequestHeaderSettings {
    fn default() -> Self {
        let one = |name: &str| vec![name.to_owned()];
        Self {
            allowed_names: one(crate::aggregation::FRONT_PROXY_NAME),
            username_headers: one("X-Remote-User"),
            uid_headers: one("X-Remote-Uid"),
            group_headers: one("X-Remote-Group"),
            extra_headers_prefix: one("X-Remote-Extra-"),
        }
    }
}

/// What a client's certificate is good for, by the authority that signed it. The two authorities may be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// It may speak for users.
    pub front_proxy: bool,
    /// It is a user's own.
    pub user: bool,
}

/// Believes front proxies.
#[derive(Debug)]
pub struct RequestHeader {
    allowed_names: Vec<String>,
    username: Vec<HeaderName>,
    uid: Vec<HeaderName>,
    group: Vec<HeaderName>,
    /// In lower case.
    extra: Vec<String>,
    proxies: Arc<dyn ClientCertVerifier>,
    users: Arc<dyn ClientCertVerifier>,
}

fn verifier(authorities: &str) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authorities.as_bytes()) {
        let added = certificate.map_err(|error| error.to_string());
        roots.add(added?).map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|error| error.to_string())
}

fn headers(names: &[String]) -> Result<Vec<HeaderName>, String> {
    let names = names.iter().map(|name| {
        let parsed = HeaderName::try_from(name.trim());
        parsed.map_err(|_| format!("{name:?} is no name of a header"))
    });
    names.collect()
}

impl RequestHeader {
    /// `authorities`: of front proxies, PEM. `client_authorities`: of users' own certificates, PEM.
    pub fn new(
        settings: &RequestHeaderSettings,
        authorities: &str,
        client_authorities: &str,
    ) -> Result<Self, String> {
        let extra = settings.extra_headers_prefix.iter();
        let extra: Vec<String> = extra.map(|prefix| prefix.trim().to_lowercase()).collect();
        if extra.iter().any(String::is_empty) {
            return Err("empty header \"\"".to_owned());
        }
        Ok(Self {
            allowed_names: settings.allowed_names.clone(),
            username: headers(&settings.username_headers)?,
            uid: headers(&settings.uid_headers)?,
            group: headers(&settings.group_headers)?,
            extra,
            proxies: verifier(authorities)?,
            users: verifier(client_authorities)?,
        })
    }

    /// What the certificate of a connection is good for. The connection's handshake verified that it is of one of the
    /// authorities; which one is found out by the first request.
    pub(super) fn standing(&self, peer: &PeerCertificates, now: i64) -> Standing {
        peer.standing(|chain| {
            let Some((leaf, between)) = chain.split_first() else {
                return Standing {
                    front_proxy: false,
                    user: false,
                };
            };
            let now = std::time::Duration::from_secs(u64::try_from(now).unwrap_or_default());
            let now = UnixTime::since_unix_epoch(now);
            let of = |verifier: &dyn ClientCertVerifier| {
                verifier.verify_client_cert(leaf, between, now).is_ok()
            };
            Standing {
                front_proxy: of(&*self.proxies),
                user: of(&*self.users),
            }
        })
    }

    /// The user that a front proxy speaks for; `None`: it names none.
    pub(super) fn user(
        &self,
        peer: &PeerCertificates,
        headers: &HeaderMap,
        now: i64,
    ) -> Result<Option<Arc<UserInfo>>, AuthnError> {
        let proxy = peer.identity()?.map(|identity| identity.user(now));
        let proxy = proxy.transpose()?;
        let name = proxy.map_or_else(String::new, |proxy| proxy.name.clone());
        if !self.allowed_names.is_empty() && !self.allowed_names.contains(&name) {
            return Err(AuthnError(format!(
                "x509: subject with cn={name} is not in the allowed list"
            )));
        }
        Ok(self.named(headers).map(authenticated).map(Arc::new))
    }

    fn named(&self, headers: &HeaderMap) -> Option<UserInfo> {
        let text = |name: &HeaderName| {
            let value = headers.get(name)?.to_str().ok()?;
            (!value.is_empty()).then(|| value.to_owned())
        };
        let name = self.username.iter().find_map(text)?;
        let uid = self.uid.iter().find_map(text).unwrap_or_default();
        let groups = self.group.iter().flat_map(|name| headers.get_all(name));
        let groups = groups.filter_map(|value| value.to_str().ok());
        let groups = groups.filter(|group| !group.is_empty());
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for prefix in &self.extra {
            for (name, value) in headers {
                // Names of headers are in lower case.
                let Some(key) = name.as_str().strip_prefix(prefix.as_str()) else {
                    continue;
                };
                if let Ok(value) = value.to_str() {
                    extra.entry(decode(key)).or_default().push(value.to_owned());
                }
            }
        }
        Some(UserInfo {
            name,
            uid,
            groups: groups.map(str::to_owned).collect(),
            extra,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    const NOW: i64 = 1_800_000_000;

    struct Authority {
        pem: String,
        params: CertificateParams,
        key: KeyPair,
    }

    fn authority(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { pem, params, key }
    }

    fn peer(authority: &Authority, name: &str) -> PeerCertificates {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let issuer = Issuer::from_params(&authority.params, &authority.key);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &issuer).unwrap();
        PeerCertificates::new(vec![leaf.der().clone()])
    }

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            let name = HeaderName::try_from(*name).unwrap();
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn who_a_certificate_speaks_for_depends_on_its_authority() {
        let (proxies, users) = (authority("proxies"), authority("users"));
        let settings = RequestHeaderSettings::default();
        let known = RequestHeader::new(&settings, &proxies.pem, &users.pem).unwrap();
        let standing = |peer: &PeerCertificates| {
            let standing = known.standing(peer, NOW);
            (standing.front_proxy, standing.user)
        };
        assert_eq!(
            standing(&peer(&proxies, "front-proxy-client")),
            (true, false)
        );
        assert_eq!(standing(&peer(&users, "front-proxy-client")), (false, true));
        assert_eq!(standing(&peer(&authority("users"), "x")), (false, false));
        let one = RequestHeader::new(&settings, &users.pem, &users.pem).unwrap();
        let both = one.standing(&peer(&users, "x"), NOW);
        assert!(both.front_proxy && both.user);
    }

    #[test]
    fn users_are_read_from_headers_of_allowed_proxies() {
        let proxies = authority("proxies");
        let settings = RequestHeaderSettings::default();
        let known = RequestHeader::new(&settings, &proxies.pem, &proxies.pem).unwrap();
        let sent = headers(&[
            ("X-Remote-User", "jane"),
            ("X-Remote-Group", "a"),
            ("x-remote-group", "b"),
            ("X-Remote-Uid", "7"),
            ("X-Remote-Extra-Example.com%2fScopes", "s1"),
            ("X-Remote-Extra-Example.com%2FScopes", "s2"),
        ]);
        let proxy = peer(&proxies, "front-proxy-client");
        let user = known.user(&proxy, &sent, NOW).unwrap().unwrap();
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("jane", "7"));
        assert_eq!(user.groups, ["a", "b", "system:authenticated"]);
        let extra = BTreeMap::from([(
            "example.com/scopes".to_owned(),
            vec!["s1".to_owned(), "s2".to_owned()],
        )]);
        assert_eq!(user.extra, extra);
        assert_eq!(known.user(&proxy, &headers(&[]), NOW).unwrap(), None);
        let other = known
            .user(&peer(&proxies, "other"), &sent, NOW)
            .unwrap_err();
        assert_eq!(
            other.0,
            "x509: subject with cn=other is not in the allowed list"
        );
        let any = RequestHeaderSettings {
            allowed_names: Vec::new(),
            ..settings
        };
        let any = RequestHeader::new(&any, &proxies.pem, &proxies.pem).unwrap();
        assert!(
            any.user(&peer(&proxies, "other"), &sent, NOW)
                .unwrap()
                .is_some()
        );
    }
}
