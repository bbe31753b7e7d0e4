//! Issues certificates for requests that were approved: the request's subject and key, the usages and life that the
//! signer grants, signed by the cluster's authority.
//!
//! The certificate is written as DER here: the subject has to stay as the request has it, with all its organizations in
//! their order, which no builder at hand keeps.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use jiff::Timestamp;
use rcgen::{KeyPair, SigningKey as _};
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::certificate_request::{AlternativeName, Asked};

/// Certificates start this long before they are issued, for clocks that are behind.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// A life shorter than this is not shortened by what it was backdated.
const SHORT: Duration = Duration::from_secs(8 * 3600);

const SEQUENCE: u8 = 0x30;
const SET_BITS: u8 = 0x03;
const OCTETS: u8 = 0x04;

/// The certificate and key that requests are signed with.
#[derive(Clone)]
pub struct CertificateAuthority {
    key: Arc<KeyPair>,
    subject: Vec<u8>,
    key_id: Option<Vec<u8>>,
    not_after: SystemTime,
}

impl std::fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CertificateAuthority")
    }
}

/// What the signer grants.
#[derive(Clone, Debug)]
pub struct Grant<'a> {
    /// As in the request's `spec.usages`.
    pub usages: &'a [String],
    /// How long the certificate lives, from now.
    pub life: Duration,
    /// When it is issued.
    pub now: SystemTime,
    /// Random bytes for the serial number.
    pub serial: [u8; 16],
}

impl CertificateAuthority {
    /// Of a certificate and its key, both PEM.
    pub fn new(certificate: &str, key: &str) -> Result<Self, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let (_, pem) = x509_parser::pem::parse_x509_pem(certificate.as_bytes())
            .map_err(|error| text(&error))?;
        let (_, parsed) = X509Certificate::from_der(&pem.contents).map_err(|error| text(&error))?;
        let key_id =
            parsed
                .extensions()
                .iter()
                .find_map(|extension| match extension.parsed_extension() {
                    ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                    _ => None,
                });
        let seconds = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        Ok(Self {
            key: Arc::new(KeyPair::from_pem(key).map_err(|error| text(&error))?),
            subject: parsed.subject().as_raw().to_vec(),
            key_id,
            not_after: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
        })
    }

    /// The certificate, PEM.
    pub fn issue(&self, asked: &Asked, grant: &Grant<'_>) -> Result<String, String> {
        if grant.now >= self.not_after {
            return Err("refusing to sign a certificate that expired in the past".to_owned());
        }
        let life = match grant.life < SHORT {
            true => grant.life,
            false => grant.life.saturating_sub(BACKDATE),
        };
        let until = (grant.now + life).min(self.not_after);
        let (bits, purposes) = usages(grant.usages)?;
        let algorithm = self.signature_algorithm()?;
        let tbs = node(
            SEQUENCE,
            &[
                node(0xa0, &[tlv(0x02, &[2])]),
                serial(grant.serial),
                algorithm.clone(),
                self.subject.clone(),
                node(SEQUENCE, &[time(grant.now - BACKDATE)?, time(until)?]),
                asked.subject.clone(),
                asked.public_key.clone(),
                node(
                    0xa3,
                    &[node(SEQUENCE, &self.extensions(asked, bits, &purposes))],
                ),
            ],
        );
        let signature = self.key.sign(&tbs).map_err(|error| error.to_string())?;
        let mut bit_string = vec![0];
        bit_string.extend(signature);
        let der = node(SEQUENCE, &[tbs, algorithm, tlv(SET_BITS, &bit_string)]);
        Ok(pem(&der))
    }

    fn extensions(&self, asked: &Asked, bits: u16, purposes: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        if bits != 0 {
            all.push(extension(15, true, &key_usage(bits)));
        }
        if !purposes.is_empty() {
            all.push(extension(37, false, &node(SEQUENCE, purposes)));
        }
        all.push(extension(19, true, &node(SEQUENCE, &[])));
        if let Some(id) = &self.key_id {
            all.push(extension(35, false, &node(SEQUENCE, &[tlv(0x80, id)])));
        }
        if !asked.names.is_empty() {
            let names: Vec<Vec<u8>> = asked
                .names
                .iter()
                .map(|name| match name {
                    AlternativeName::Email(text) => tlv(0x81, text.as_bytes()),
                    AlternativeName::Dns(text) => tlv(0x82, text.as_bytes()),
                    AlternativeName::Uri(text) => tlv(0x86, text.as_bytes()),
                    AlternativeName::Ip(bytes) => tlv(0x87, bytes),
                })
                .collect();
            // Without a subject the names are all there is: they are critical then.
            let alone = asked.subject == node(SEQUENCE, &[]);
            all.push(extension(17, alone, &node(SEQUENCE, &names)));
        }
        all
    }

    fn signature_algorithm(&self) -> Result<Vec<u8>, String> {
        let algorithm = self.key.algorithm();
        let known: [(&rcgen::SignatureAlgorithm, &[u8], bool); 4] = [
            (
                &rcgen::PKCS_ECDSA_P256_SHA256,
                &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2],
                false,
            ),
            (
                &rcgen::PKCS_ECDSA_P384_SHA384,
                &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3],
                false,
            ),
            (&rcgen::PKCS_ED25519, &[0x2b, 0x65, 0x70], false),
            (
                &rcgen::PKCS_RSA_SHA256,
                &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 11],
                true,
            ),
        ];
        let found = known.into_iter().find(|(of, ..)| **of == *algorithm);
        let (_, oid, null) = found.ok_or("the authority's key is of an unknown kind")?;
        let mut parts = vec![tlv(0x06, oid)];
        if null {
            parts.push(tlv(0x05, &[]));
        }
        Ok(node(SEQUENCE, &parts))
    }
}

/// The bits of a key usage extension (bit 0 first) and the object identifiers of an extended one.
fn usages(usages: &[String]) -> Result<(u16, Vec<Vec<u8>>), String> {
    const PKIX: [u8; 7] = [0x2b, 6, 1, 5, 5, 7, 3];
    let mut bits = 0u16;
    let mut purposes: Vec<(u8, Vec<u8>)> = Vec::new();
    let mut unknown = Vec::new();
    for usage in usages {
        let bit = match usage.as_str() {
            "signing" | "digital signature" => Some(0),
            "content commitment" => Some(1),
            "key encipherment" => Some(2),
            "data encipherment" => Some(3),
            "key agreement" => Some(4),
            "cert sign" => Some(5),
            "crl sign" => Some(6),
            "encipher only" => Some(7),
            "decipher only" => Some(8),
            _ => None,
        };
        if let Some(bit) = bit {
            bits |= 1 << bit;
            continue;
        }
        // Their order in upstream's certificates, and the last part of their identifiers.
        let pkix = |last: u8| PKIX.iter().copied().chain([last]).collect();
        let purpose: (u8, Vec<u8>) = match usage.as_str() {
            "any" => (0, vec![0x55, 0x1d, 0x25, 0]),
            "server auth" => (1, pkix(1)),
            "client auth" => (2, pkix(2)),
            "code signing" => (3, pkix(3)),
            "email protection" | "s/mime" => (4, pkix(4)),
            "ipsec end system" => (5, pkix(5)),
            "ipsec tunnel" => (6, pkix(6)),
            "ipsec user" => (7, pkix(7)),
            "timestamping" => (8, pkix(8)),
            "ocsp signing" => (9, pkix(9)),
            "microsoft sgc" => (10, vec![0x2b, 6, 1, 4, 1, 0x82, 0x37, 10, 3, 3]),
            "netscape sgc" => (11, vec![0x60, 0x86, 0x48, 1, 0x86, 0xf8, 0x42, 4, 1]),
            _ => {
                unknown.push(format!("{usage:?}"));
                continue;
            }
        };
        if !purposes.contains(&purpose) {
            purposes.push(purpose);
        }
    }
    if !unknown.is_empty() {
        return Err(format!(
            "unrecognized usage values: [{}]",
            unknown.join(" ")
        ));
    }
    purposes.sort();
    let purposes = purposes.into_iter().map(|(_, oid)| tlv(0x06, &oid));
    Ok((bits, purposes.collect()))
}

/// A bit string without its trailing zeros.
fn key_usage(bits: u16) -> Vec<u8> {
    // Bit 0 is the first byte's highest.
    let [high, low] = bits.reverse_bits().to_be_bytes();
    let bytes: &[u8] = if low == 0 { &[high] } else { &[high, low] };
    let last = if low == 0 { high } else { low };
    let unused = u8::try_from(last.trailing_zeros()).unwrap_or(0);
    let mut content = vec![unused];
    content.extend(bytes);
    tlv(SET_BITS, &content)
}

/// An extension under 2.5.29.
fn extension(id: u8, critical: bool, value: &[u8]) -> Vec<u8> {
    let mut parts = vec![tlv(0x06, &[0x55, 0x1d, id])];
    if critical {
        parts.push(tlv(0x01, &[0xff]));
    }
    parts.push(tlv(OCTETS, value));
    node(SEQUENCE, &parts)
}

/// A positive integer.
fn serial(bytes: [u8; 16]) -> Vec<u8> {
    let mut bytes = bytes;
    // Neither negative nor with a leading zero byte.
    bytes[0] = (bytes[0] & 0x7f) | 0x40;
    tlv(0x02, &bytes)
}

/// UTCTime until 2049, then GeneralizedTime, as RFC 5280 wants.
fn time(at: SystemTime) -> Result<Vec<u8>, String> {
    let at = Timestamp::try_from(at).map_err(|error| error.to_string())?;
    let at = at.to_zoned(jiff::tz::TimeZone::UTC);
    let rest = at.strftime("%m%d%H%M%SZ");
    Ok(match at.year() {
        1950..=2049 => tlv(0x17, format!("{:02}{rest}", at.year() % 100).as_bytes()),
        year => tlv(0x18, format!("{year:04}{rest}").as_bytes()),
    })
}

fn node(tag: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(tag, &parts.concat())
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = content.len();
    if let Ok(short @ 0..=127) = u8::try_from(length) {
        out.push(short);
    } else {
        let bytes = length.to_be_bytes();
        let used: Vec<u8> = bytes.into_iter().skip_while(|byte| *byte == 0).collect();
        out.push(0x80 | u8::try_from(used.len()).unwrap_or(8));
        out.extend(used);
    }
    out.extend(content);
    out
}

fn pem(der: &[u8]) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, tail) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = tail;
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyUsagePurpose, SanType};
    use x509_parser::extensions::GeneralName;

    fn authority(until: i32) -> (CertificateAuthority, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "ca");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let pem = params.self_signed(&key).unwrap().pem();
        (
            CertificateAuthority::new(&pem, &key.serialize_pem()).unwrap(),
            pem,
        )
    }

    fn asked() -> Asked {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "jane");
        params
            .distinguished_name
            .push(DnType::OrganizationName, "dev");
        params.subject_alt_names = vec![
            SanType::DnsName("a.example".try_into().unwrap()),
            SanType::IpAddress("10.0.0.1".parse().unwrap()),
        ];
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        Asked::parse(pem.as_bytes()).unwrap()
    }

    fn grant(usages: &[String], life: u64) -> Grant<'_> {
        Grant {
            usages,
            life: Duration::from_secs(life),
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            serial: [0xff; 16],
        }
    }

    #[test]
    fn a_certificate_says_what_was_asked_and_granted() {
        let (authority, own) = authority(2060);
        let usages = ["digital signature", "key encipherment", "client auth"].map(str::to_owned);
        let issued = authority.issue(&asked(), &grant(&usages, 3600)).unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(issued.as_bytes()).unwrap();
        let (rest, certificate) = X509Certificate::from_der(&block.contents).unwrap();
        assert!(rest.is_empty());
        let (_, block) = x509_parser::pem::parse_x509_pem(own.as_bytes()).unwrap();
        let (_, issuer) = X509Certificate::from_der(&block.contents).unwrap();
        certificate
            .verify_signature(Some(issuer.public_key()))
            .unwrap();
        assert_eq!(certificate.issuer(), issuer.subject());
        assert_eq!(certificate.subject().to_string(), "CN=jane, O=dev");
        let (from, until) = (
            certificate.validity().not_before,
            certificate.validity().not_after,
        );
        // A short life is not cut by the backdating.
        assert_eq!(
            (from.timestamp(), until.timestamp()),
            (1_799_999_700, 1_800_003_600)
        );
        let key_usage = certificate.key_usage().unwrap().unwrap();
        assert!(key_usage.critical && key_usage.value.digital_signature());
        assert!(key_usage.value.key_encipherment() && !key_usage.value.key_cert_sign());
        let extended = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.client_auth && !extended.server_auth);
        assert!(!certificate.basic_constraints().unwrap().unwrap().value.ca);
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        assert_eq!(
            names.value.general_names,
            [
                GeneralName::DNSName("a.example"),
                GeneralName::IPAddress(&[10, 0, 0, 1])
            ]
        );
    }

    #[test]
    fn a_life_ends_with_the_authority_and_usages_must_be_known() {
        let usages = ["decipher only", "server auth", "any"].map(str::to_owned);
        let (authority_2060, _) = authority(2060);
        let issued = authority_2060
            .issue(&asked(), &grant(&usages, 1 << 31))
            .unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(issued.as_bytes()).unwrap();
        let (_, certificate) = X509Certificate::from_der(&block.contents).unwrap();
        let until = certificate.validity().not_after;
        assert_eq!(until.to_datetime().year(), 2060);
        assert!(
            certificate
                .key_usage()
                .unwrap()
                .unwrap()
                .value
                .decipher_only()
        );
        let wrong = ["sleeping".to_owned()];
        assert_eq!(
            authority_2060.issue(&asked(), &grant(&wrong, 600)),
            Err("unrecognized usage values: [\"sleeping\"]".to_owned())
        );
        let (gone, _) = authority(2020);
        assert!(gone.issue(&asked(), &grant(&usages, 600)).is_err());
    }
}
