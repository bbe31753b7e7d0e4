//! What a request for a certificate asks for, and whether a signer of Kubernetes may grant it.

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer as _;

/// Signs client certificates that the API server believes.
pub const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
/// Signs client certificates of kubelets.
pub const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signs serving certificates of kubelets.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// Signs anything; requests for it came over API versions that are gone.
pub const LEGACY: &str = "kubernetes.io/legacy-unknown";

/// A subject alternative name of the kinds that certificates are issued with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AlternativeName {
    /// An e-mail address.
    Email(String),
    /// A DNS name.
    Dns(String),
    /// A URI.
    Uri(String),
    /// An address, 4 or 16 bytes.
    Ip(Vec<u8>),
}

type Is = fn(&AlternativeName) -> bool;

/// What a request for a certificate says. Its signature was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The subject's distinguished name, DER.
    pub subject: Vec<u8>,
    /// The subject's public key, DER (SubjectPublicKeyInfo).
    pub public_key: Vec<u8>,
    /// The last common name in the subject.
    pub common_name: String,
    /// The organizations in the subject.
    pub organizations: Vec<String>,
    /// Names beside the subject.
    pub names: Vec<AlternativeName>,
}

impl Asked {
    /// Reads a PEM request.
    pub fn parse(pem: &[u8]) -> Result<Self, String> {
        let block = Pem::iter_from_buffer(pem).next().and_then(Result::ok);
        let block = block
            .filter(|block| block.label == "CERTIFICATE REQUEST")
            .ok_or("PEM block type must be CERTIFICATE REQUEST")?;
        let (_, request) = X509CertificationRequest::from_der(&block.contents)
            .map_err(|error| format!("unable to parse certificate request: {error}"))?;
        request
            .verify_signature()
            .map_err(|error| format!("unable to verify certificate request signature: {error}"))?;
        let info = &request.certification_request_info;
        let mut names = Vec::new();
        for extension in request.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(found) = extension {
                names.extend(found.general_names.iter().filter_map(alternative_name));
            }
        }
        let text = |value: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            value.as_str().ok().map(str::to_owned)
        };
        let common_names = info.subject.iter_common_name().filter_map(text);
        Ok(Self {
            subject: info.subject.as_raw().to_vec(),
            public_key: info.subject_pki.raw.to_vec(),
            common_name: common_names.last().unwrap_or_default(),
            organizations: info.subject.iter_organization().filter_map(text).collect(),
            names,
        })
    }

    /// Why the kubelet signer for clients refuses the request.
    pub fn check_kubelet_client(&self, usages: &[String]) -> Result<(), String> {
        self.check_organization()?;
        // In upstream's order of complaints.
        let kinds: [(&str, Is); 4] = [
            ("DNS", |name| matches!(name, AlternativeName::Dns(_))),
            ("Email", |name| matches!(name, AlternativeName::Email(_))),
            ("IP", |name| matches!(name, AlternativeName::Ip(_))),
            ("URI", |name| matches!(name, AlternativeName::Uri(_))),
        ];
        for (kind, is) in kinds {
            if self.names.iter().any(is) {
                return Err(format!("{kind} subjectAltNames are not allowed"));
            }
        }
        self.check_common_name()?;
        check_usages(usages, "client auth")
    }

    /// Why the signer of kubelets' serving certificates refuses the request.
    pub fn check_kubelet_serving(&self, usages: &[String]) -> Result<(), String> {
        self.check_organization()?;
        let has = |is: fn(&AlternativeName) -> bool| self.names.iter().any(is);
        if !has(|name| matches!(name, AlternativeName::Dns(_) | AlternativeName::Ip(_))) {
            return Err("DNS or IP subjectAltName is required".to_owned());
        }
        if has(|name| matches!(name, AlternativeName::Email(_))) {
            return Err("Email subjectAltNames are not allowed".to_owned());
        }
        if has(|name| matches!(name, AlternativeName::Uri(_))) {
            return Err("URI subjectAltNames are not allowed".to_owned());
        }
        check_usages(usages, "server auth")?;
        self.check_common_name()
    }

    fn check_organization(&self) -> Result<(), String> {
        match self.organizations.as_slice() {
            [only] if only == "system:nodes" => Ok(()),
            _ => Err("subject organization is not system:nodes".to_owned()),
        }
    }

    fn check_common_name(&self) -> Result<(), String> {
        match self.common_name.starts_with("system:node:") {
            true => Ok(()),
            false => Err("subject common name does not begin with system:node:".to_owned()),
        }
    }
}

fn alternative_name(name: &GeneralName<'_>) -> Option<AlternativeName> {
    Some(match name {
        GeneralName::RFC822Name(text) => AlternativeName::Email((*text).to_owned()),
        GeneralName::DNSName(text) => AlternativeName::Dns((*text).to_owned()),
        GeneralName::URI(text) => AlternativeName::Uri((*text).to_owned()),
        GeneralName::IPAddress(bytes) if matches!(bytes.len(), 4 | 16) => {
            AlternativeName::Ip(bytes.to_vec())
        }
        _ => return None,
    })
}

/// A kubelet's certificate signs and says what it is for; keys of RSA encipher, too.
fn check_usages(usages: &[String], purpose: &str) -> Result<(), String> {
    let mut usages: Vec<&str> = usages.iter().map(String::as_str).collect();
    usages.sort_unstable();
    usages.dedup();
    let mut all = vec!["digital signature", "key encipherment", purpose];
    all.sort_unstable();
    let without: Vec<&str> = all
        .iter()
        .copied()
        .filter(|usage| *usage != "key encipherment")
        .collect();
    if usages == all || usages == without {
        return Ok(());
    }
    Err(format!("usages did not match [{}]", all.join(" ")))
}

/// Why the signer of API clients refuses the usages.
pub fn check_client_usages(usages: &[String]) -> Result<(), String> {
    let optional = ["digital signature", "key encipherment", "client auth"];
    if let Some(wrong) = usages
        .iter()
        .find(|usage| !optional.contains(&usage.as_str()))
    {
        return Err(format!("invalid usage for client certificate: {wrong}"));
    }
    match usages.iter().any(|usage| usage == "client auth") {
        true => Ok(()),
        false => Err("missing required usage for client certificate: client auth".to_owned()),
    }
}

/// Whether a request has a condition of a type.
pub(crate) fn has_condition(request: &CertificateSigningRequest, kind: &str) -> bool {
    let status = request.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref());
    let mut conditions = conditions.unwrap_or_default().iter();
    conditions.any(|condition| condition.type_ == kind)
}

/// The certificate that was issued, if one was.
pub(crate) fn issued(request: &CertificateSigningRequest) -> Option<&[u8]> {
    let certificate = request.status.as_ref()?.certificate.as_ref()?;
    Some(certificate.0.as_slice()).filter(|bytes| !bytes.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    pub(crate) fn request(name: &str, organization: &str, names: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .distinguished_name
            .push(DnType::OrganizationName, organization);
        params.subject_alt_names = names;
        let key = KeyPair::generate().unwrap();
        params
            .serialize_request(&key)
            .unwrap()
            .pem()
            .unwrap()
            .into_bytes()
    }

    fn list(usages: &[&str]) -> Vec<String> {
        usages.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn kubelets_ask_for_what_is_theirs() {
        let plain = list(&["digital signature", "client auth"]);
        let rsa = list(&["key encipherment", "digital signature", "client auth"]);
        let asked = |name: &str, organization: &str, names| {
            Asked::parse(&request(name, organization, names)).unwrap()
        };
        let good = asked("system:node:n1", "system:nodes", vec![]);
        assert_eq!(good.check_kubelet_client(&plain), Ok(()));
        assert_eq!(good.check_kubelet_client(&rsa), Ok(()));
        let dns = || vec![SanType::DnsName("n1".try_into().unwrap())];
        for (asked, usages, why) in [
            (
                asked("system:node:n1", "x", vec![]),
                &plain,
                "subject organization is not system:nodes",
            ),
            (
                asked("n1", "system:nodes", vec![]),
                &plain,
                "subject common name does not begin with system:node:",
            ),
            (
                asked("system:node:n1", "system:nodes", dns()),
                &plain,
                "DNS subjectAltNames are not allowed",
            ),
            (
                good.clone(),
                &list(&["client auth"]),
                "usages did not match [client auth digital signature key encipherment]",
            ),
        ] {
            assert_eq!(asked.check_kubelet_client(usages), Err(why.to_owned()));
        }
        let serving = list(&["digital signature", "server auth"]);
        assert_eq!(
            good.check_kubelet_serving(&serving),
            Err("DNS or IP subjectAltName is required".to_owned())
        );
        assert_eq!(
            asked("system:node:n1", "system:nodes", dns()).check_kubelet_serving(&serving),
            Ok(())
        );
        assert_eq!(check_client_usages(&plain), Ok(()));
        assert!(check_client_usages(&serving).is_err());
        assert!(check_client_usages(&list(&["digital signature"])).is_err());
        assert!(Asked::parse(b"nothing").is_err());
    }
}
