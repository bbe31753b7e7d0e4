//! The cluster's certificates: one authority, and the leaf certificates of our components.
//!
//! Everything lies in `<data-dir>/pki`, readable by root only. A leaf is made on first use, and made anew when a
//! third of its life or less is left or when it no longer says what is asked of it.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const LEAF_LIFE: Duration = Duration::from_secs(365 * DAY.as_secs());
const AUTHORITY_LIFE: Duration = Duration::from_secs(3650 * DAY.as_secs());
/// Certificates start this long ago, for clients whose clocks are behind and for a clock that is set back.
const CLOCK_SLACK: Duration = DAY;

/// What a leaf certificate says.
#[derive(Clone, Debug, Default)]
pub struct Subject {
    /// The common name: a user's name for a client.
    pub common_name: String,
    /// The organizations: a user's groups for a client.
    pub organizations: Vec<String>,
    /// DNS names and addresses of a server; a certificate with any is good for servers.
    pub names: Vec<String>,
    /// Whether a client may show it.
    pub client: bool,
}

/// A leaf certificate with its key, both PEM.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
}

/// The authority and the folder that it lies in.
pub struct Pki {
    directory: PathBuf,
    authority: Issuer<'static, KeyPair>,
    /// The authority's certificate, PEM.
    pub authority_pem: String,
}

impl Pki {
    /// Opens the folder; makes it and the authority when there is none.
    pub fn open(directory: &Path, now: SystemTime) -> Result<Self> {
        fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
        let (certificate, key) = (directory.join("ca.crt"), directory.join("ca.key"));
        if !certificate.exists() {
            let pair = KeyPair::generate()?;
            let mut params = CertificateParams::default();
            params
                .distinguished_name
                .push(DnType::CommonName, "skiff-ca");
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![
                KeyUsagePurpose::KeyCertSign,
                KeyUsagePurpose::CrlSign,
                KeyUsagePurpose::DigitalSignature,
            ];
            params.not_before = (now - CLOCK_SLACK).into();
            params.not_after = (now + AUTHORITY_LIFE).into();
            // The key first: a certificate without its key would be taken for a complete authority.
            write_private(&key, &pair.serialize_pem())?;
            write_private(&certificate, &params.self_signed(&pair)?.pem())?;
        }
        let authority_pem = read(&certificate)?;
        let pair = KeyPair::from_pem(&read(&key)?)
            .with_context(|| format!("reading {}", key.display()))?;
        let authority = Issuer::from_ca_cert_pem(&authority_pem, pair)
            .with_context(|| format!("reading {}", certificate.display()))?;
        Ok(Self {
            directory: directory.to_owned(),
            authority,
            authority_pem,
        })
    }

    /// The leaf `name` for `subject`: the one on disk if it is still good, else a new one.
    pub fn leaf(&self, name: &str, subject: &Subject, now: SystemTime) -> Result<Leaf> {
        let (certificate, key) = (
            self.directory.join(format!("{name}.crt")),
            self.directory.join(format!("{name}.key")),
        );
        if let (Ok(pem), Ok(key)) = (read(&certificate), read(&key))
            && self.is_good(&pem, subject, now)
            && KeyPair::from_pem(&key).is_ok_and(|pair| {
                public_key(&pem).is_some_and(|public| public == pair.public_key_raw())
            })
        {
            return Ok(Leaf {
                certificate: pem,
                key,
            });
        }
        let leaf = self.issue(subject, now)?;
        write_private(&key, &leaf.key)?;
        write_private(&certificate, &leaf.certificate)?;
        Ok(leaf)
    }

    fn issue(&self, subject: &Subject, now: SystemTime) -> Result<Leaf> {
        let pair = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::CommonName, subject.common_name.as_str());
        for organization in &subject.organizations {
            params
                .distinguished_name
                .push(DnType::OrganizationName, organization.as_str());
        }
        for name in &subject.names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(
                    name.as_str()
                        .try_into()
                        .with_context(|| format!("{name:?} is no DNS name"))?,
                ),
            });
        }
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        if !subject.names.is_empty() {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        if subject.client {
            params
                .extended_key_usages
                .push(ExtendedKeyUsagePurpose::ClientAuth);
        }
        params.not_before = (now - CLOCK_SLACK).into();
        params.not_after = (now + LEAF_LIFE).into();
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&pair, &self.authority)?;
        Ok(Leaf {
            certificate: certificate.pem(),
            key: pair.serialize_pem(),
        })
    }

    /// Whether a leaf on disk is from our authority, says what is asked, and will live long enough.
    fn is_good(&self, pem: &str, subject: &Subject, now: SystemTime) -> bool {
        let check = || -> Result<bool> {
            let (der, authority) = (der_of(pem)?, der_of(&self.authority_pem)?);
            let (_, certificate) = X509Certificate::from_der(&der)?;
            let (_, authority) = X509Certificate::from_der(&authority)?;
            let left = certificate.validity().not_after.timestamp() - seconds(now);
            let names: Vec<String> = certificate
                .subject_alternative_name()?
                .map(|names| {
                    names
                        .value
                        .general_names
                        .iter()
                        .filter_map(name_text)
                        .collect()
                })
                .unwrap_or_default();
            let organizations = certificate
                .subject()
                .iter_organization()
                .filter_map(|name| name.as_str().ok())
                .collect::<Vec<_>>();
            Ok(certificate
                .verify_signature(Some(authority.public_key()))
                .is_ok()
                && left > i64::try_from(LEAF_LIFE.as_secs() / 3)?
                && certificate
                    .subject()
                    .iter_common_name()
                    .any(|name| name.as_str() == Ok(&subject.common_name))
                && organizations
                    == subject
                        .organizations
                        .iter()
                        .map(String::as_str)
                        .collect::<Vec<_>>()
                && subject.names.iter().all(|name| names.contains(name)))
        };
        check().unwrap_or(false)
    }

    /// The authority's private key, PEM: for the signer of certificates that are asked for through the API.
    pub fn authority_key(&self) -> Result<String> {
        read(&self.directory.join("ca.key"))
    }

    /// The key that signs service-account tokens, PEM (P-256).
    pub fn token_key(&self) -> Result<String> {
        let path = self.directory.join("sa.key");
        if !path.exists() {
            write_private(&path, &KeyPair::generate()?.serialize_pem())?;
        }
        read(&path)
    }
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        })
}

fn name_text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match *bytes {
            [a, b, c, d] => Some(IpAddr::from([*a, *b, *c, *d]).to_string()),
            bytes => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?).to_string()),
        },
        _ => None,
    }
}

fn der_of(pem: &str) -> Result<Vec<u8>> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes())?;
    Ok(pem.contents)
}

fn public_key(pem: &str) -> Option<Vec<u8>> {
    let der = der_of(pem).ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    Some(certificate.public_key().subject_public_key.data.to_vec())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// Writes a file that only its owner can read, and puts it in place in one step.
pub fn write_private(path: &Path, content: &str) -> Result<()> {
    let Some(name) = path.file_name() else {
        bail!("{} is no file name", path.display())
    };
    let mut temporary = name.to_owned();
    temporary.push(".new");
    let temporary = path.with_file_name(temporary);
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Subject {
        Subject {
            common_name: "kube-apiserver".into(),
            names: vec!["localhost".into(), "10.96.0.1".into()],
            ..Subject::default()
        }
    }

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + 20_000 * DAY
    }

    #[test]
    fn a_leaf_stays_until_it_grows_old_or_its_subject_changes() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(folder.path(), now()).unwrap();
        let first = pki.leaf("apiserver", &server(), now()).unwrap().certificate;
        let pki = Pki::open(folder.path(), now()).unwrap();
        assert_eq!(
            pki.leaf("apiserver", &server(), now() + 200 * DAY)
                .unwrap()
                .certificate,
            first
        );
        let wider = Subject {
            names: vec!["localhost".into(), "10.96.0.1".into(), "192.168.7.7".into()],
            ..server()
        };
        let second = pki.leaf("apiserver", &wider, now()).unwrap().certificate;
        assert_ne!(second, first);
        assert_ne!(
            pki.leaf("apiserver", &wider, now() + 300 * DAY)
                .unwrap()
                .certificate,
            second
        );
    }

    #[test]
    fn a_leaf_whose_key_is_another_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(folder.path(), now()).unwrap();
        let first = pki.leaf("apiserver", &server(), now()).unwrap().certificate;
        write_private(
            &folder.path().join("apiserver.key"),
            &KeyPair::generate().unwrap().serialize_pem(),
        )
        .unwrap();
        assert_ne!(
            pki.leaf("apiserver", &server(), now()).unwrap().certificate,
            first
        );
    }

    #[test]
    fn private_files_are_for_the_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let pki = Pki::open(folder.path(), now()).unwrap();
        pki.token_key().unwrap();
        for file in ["ca.key", "sa.key"] {
            assert_eq!(
                fs::metadata(folder.path().join(file))
                    .unwrap()
                    .permissions()
                    .mode()
                    & 0o777,
                0o600
            );
        }
    }
}
