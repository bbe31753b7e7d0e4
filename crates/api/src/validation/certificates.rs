//! CertificateSigningRequests.

use std::collections::BTreeSet;

use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};

use super::absent::items;
use super::core::pod::volumes_projected::signer_name;
use crate::field::{ErrorList, FieldError, Path};

/// What a certificate may be for, in upstream's order.
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
const SHORTEST: i32 = 600;

/// What is wrong with a new CertificateSigningRequest, its metadata aside.
#[must_use]
pub fn validate_certificate_signing_request(request: &CertificateSigningRequest) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, path) = (&request.spec, Path::new("spec"));
    if !is_request(&spec.request.0) {
        // Bytes are shown as JSON shows them.
        let shown = serde_json::to_value(&spec.request).unwrap_or_default();
        errors.push(FieldError::invalid(
            &path.child("request"),
            shown.as_str().unwrap_or_default(),
            "PEM block type must be CERTIFICATE REQUEST",
        ));
    }
    let usages_path = path.child("usages");
    if items(&spec.usages).is_empty() {
        errors.push(FieldError::required(&usages_path, ""));
    }
    for (index, usage) in items(&spec.usages).iter().enumerate() {
        if !USAGES.contains(&usage.as_str()) {
            let path = usages_path.index(index);
            errors.push(FieldError::not_supported(&path, usage, &USAGES));
        }
    }
    let mut seen = BTreeSet::new();
    for (index, usage) in items(&spec.usages).iter().enumerate() {
        if !seen.insert(usage) {
            errors.push(FieldError::duplicate(&usages_path.index(index), usage));
        }
    }
    let signer_path = path.child("signerName");
    if spec.signer_name == LEGACY_SIGNER {
        let detail = "the legacy signerName is not allowed via this API version";
        errors.push(FieldError::invalid(&signer_path, LEGACY_SIGNER, detail));
    } else {
        signer_name(&mut errors, &spec.signer_name, &signer_path);
    }
    if let Some(seconds) = spec
        .expiration_seconds
        .filter(|seconds| *seconds < SHORTEST)
    {
        let path = path.child("expirationSeconds");
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(FieldError::invalid(&path, seconds, detail));
    }
    errors
}

/// Whether the first PEM block is a certificate request.
fn is_request(bytes: &[u8]) -> bool {
    const BEGIN: &str = "-----BEGIN ";
    let text = String::from_utf8_lossy(bytes);
    let mut lines = text.lines().map(str::trim_end);
    let kind = lines.find_map(|line| line.strip_prefix(BEGIN)?.strip_suffix("-----"));
    kind == Some("CERTIFICATE REQUEST")
        && lines.any(|line| line == "-----END CERTIFICATE REQUEST-----")
}

/// What an update of a CertificateSigningRequest may set, by the path it comes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settable {
    /// `/status`: the certificate and what failed; whether the request is approved is not for a signer to say.
    Certificate,
    /// `/approval`: whether the request is approved.
    Verdict,
}

/// The conditions that are never taken back.
const LASTING: [&str; 3] = ["Approved", "Denied", "Failed"];

/// What is wrong with the status of a CertificateSigningRequest that changed.
#[must_use]
pub fn validate_certificate_signing_request_status_update(
    new: &CertificateSigningRequest,
    old: &CertificateSigningRequest,
    settable: Settable,
) -> ErrorList {
    let of = |request: &CertificateSigningRequest| request.status.clone().unwrap_or_default();
    let (new, old) = (of(new), of(old));
    let path = Path::new("status");
    let conditions_path = path.child("conditions");
    let (after, before) = (items(&new.conditions), items(&old.conditions));
    let mut errors = conditions(after, before, &conditions_path);
    let certificate = |status: &CertificateSigningRequestStatus| {
        let certificate = status.certificate.clone();
        certificate.map(|bytes| bytes.0).unwrap_or_default()
    };
    let (certificate, issued) = (certificate(&new), certificate(&old));
    let certificate_path = path.child("certificate");
    if certificate != issued
        && let Err(detail) = check_certificate(&certificate)
    {
        let error = FieldError::invalid(&certificate_path, "<certificate data>", detail);
        errors.push(error);
    }
    for kind in LASTING {
        if of_type(after, kind).len() < of_type(before, kind).len() {
            let detail = format!("updates may not remove a condition of type {kind:?}");
            errors.push(FieldError::forbidden(&conditions_path, &detail));
        }
    }
    if settable != Settable::Verdict {
        for kind in ["Approved", "Denied"] {
            let (after, before) = (of_type(after, kind), of_type(before, kind));
            if after.len() > before.len() {
                let detail = format!("updates may not add a condition of type {kind:?}");
                errors.push(FieldError::forbidden(&conditions_path, &detail));
            } else if after.len() == before.len() && after != before {
                let detail = format!("updates may not modify a condition of type {kind:?}");
                errors.push(FieldError::forbidden(&conditions_path, &detail));
            }
        }
    }
    if certificate != issued {
        let detail = match settable {
            Settable::Verdict => "updates may not set certificate content",
            Settable::Certificate if issued.is_empty() => return errors,
            Settable::Certificate => "updates may not modify existing certificate content",
        };
        errors.push(FieldError::forbidden(&certificate_path, detail));
    }
    errors
}

fn of_type<'a>(
    conditions: &'a [CertificateSigningRequestCondition],
    kind: &str,
) -> Vec<&'a CertificateSigningRequestCondition> {
    let mut found: Vec<_> = conditions.iter().collect();
    found.retain(|condition| condition.type_ == kind);
    found
}

/// What is wrong with conditions; what was wrong before is tolerated where upstream does so.
fn conditions(
    new: &[CertificateSigningRequestCondition],
    old: &[CertificateSigningRequestCondition],
    path: &Path,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let types = |list: &[CertificateSigningRequestCondition]| -> BTreeSet<String> {
        let types = list.iter().map(|condition| condition.type_.clone());
        types.collect()
    };
    let repeats = types(old).len() < old.len();
    let nameless = types(old).contains("");
    let verdicts =
        |list: &[_]| !of_type(list, "Approved").is_empty() && !of_type(list, "Denied").is_empty();
    let mut seen = BTreeSet::new();
    for (index, condition) in new.iter().enumerate() {
        let path = path.index(index);
        if condition.type_.is_empty() && !nameless {
            errors.push(FieldError::required(&path.child("type"), ""));
        }
        let known: &[&str] = match LASTING.contains(&condition.type_.as_str()) {
            true => &["True"],
            false => &["False", "True", "Unknown"],
        };
        let (status, status_path) = (condition.status.as_str(), path.child("status"));
        if status.is_empty() {
            errors.push(FieldError::required(&status_path, ""));
        } else if !known.contains(&status) {
            errors.push(FieldError::not_supported(&status_path, status, known));
        }
        if !seen.insert(&condition.type_) && !repeats {
            errors.push(FieldError::duplicate(&path.child("type"), &condition.type_));
        }
    }
    if verdicts(new) && !verdicts(old) {
        let mut last = new.iter().rev();
        let last = last.find(|condition| matches!(condition.type_.as_str(), "Approved" | "Denied"));
        let shown = last.map_or("", |condition| &condition.type_);
        let detail = "Approved and Denied conditions are mutually exclusive";
        errors.push(FieldError::invalid(path, shown, detail));
    }
    errors
}

/// Whether the bytes are PEM blocks of certificates, and nothing but.
fn check_certificate(bytes: &[u8]) -> Result<(), &'static str> {
    use base64::Engine as _;
    if bytes.is_empty() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(bytes);
    let mut blocks = 0;
    let mut inside: Option<String> = None;
    for line in text.lines().map(str::trim_end) {
        match &mut inside {
            None => {
                let begins = line.strip_prefix("-----BEGIN ");
                match begins.and_then(|rest| rest.strip_suffix("-----")) {
                    Some("CERTIFICATE") => inside = Some(String::new()),
                    Some(_) => return Err("only CERTIFICATE PEM blocks are allowed"),
                    None => {}
                }
            }
            Some(content) if line == "-----END CERTIFICATE-----" => {
                let der = base64::engine::general_purpose::STANDARD.decode(content.as_bytes());
                // A certificate is an ASN.1 sequence.
                if der.ok().and_then(|der| der.first().copied()) != Some(0x30) {
                    return Err("x509: malformed certificate");
                }
                blocks += 1;
                inside = None;
            }
            Some(_) if line.contains(':') => return Err("no PEM block headers are permitted"),
            Some(content) => content.push_str(line),
        }
    }
    match blocks {
        0 => Err("must contain at least one CERTIFICATE PEM block"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use serde_json::json;

    fn texts(errors: &ErrorList) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn requests() {
        let mut request: CertificateSigningRequest = serde_json::from_value(json!({"spec": {"request": "",
            "signerName": "example.org/s", "usages": ["client auth", "server auth"], "expirationSeconds": 600}}))
        .unwrap();
        request.spec.request = ByteString(
            b"-----BEGIN CERTIFICATE REQUEST-----\nMA==\n-----END CERTIFICATE REQUEST-----\n"
                .to_vec(),
        );
        assert_eq!(
            texts(&validate_certificate_signing_request(&request)),
            [""; 0]
        );
        request.spec.request = ByteString(b"none".to_vec());
        request.spec.usages = Some(vec!["any".into(), "any".into()]);
        request.spec.signer_name = LEGACY_SIGNER.to_owned();
        request.spec.expiration_seconds = Some(10);
        assert_eq!(
            texts(&validate_certificate_signing_request(&request)),
            [
                "spec.request: Invalid value: \"bm9uZQ==\": PEM block type must be CERTIFICATE REQUEST",
                "spec.usages[1]: Duplicate value: \"any\"",
                "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy signerName is not allowed via this API version",
                "spec.expirationSeconds: Invalid value: 10: may not specify a duration less than 600 seconds (10 minutes)",
            ]
        );
        let with = |conditions: serde_json::Value| -> CertificateSigningRequest {
            let mut request = request.clone();
            request.status = serde_json::from_value(json!({"conditions": conditions})).unwrap();
            request
        };
        let both = with(
            json!([{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "False"}]),
        );
        assert_eq!(
            texts(&validate_certificate_signing_request_status_update(
                &both,
                &request,
                Settable::Verdict
            )),
            [
                "status.conditions[1].status: Unsupported value: \"False\": supported values: \"True\"",
                "status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive",
            ]
        );
    }

    #[test]
    fn a_signer_neither_approves_nor_takes_back() {
        let with = |kinds: &[&str], certificate: &str| -> CertificateSigningRequest {
            let conditions: Vec<_> = kinds
                .iter()
                .map(|kind| json!({"type": kind, "status": "True"}))
                .collect();
            let mut request: CertificateSigningRequest = serde_json::from_value(
                json!({"spec": {"request": "", "signerName": "s"}, "status": {"conditions": conditions}}),
            )
            .unwrap();
            let bytes = ByteString(certificate.as_bytes().to_vec());
            request.status.as_mut().unwrap().certificate =
                Some(bytes).filter(|bytes| !bytes.0.is_empty());
            request
        };
        let pem = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
        let check = |new: &CertificateSigningRequest, old: &CertificateSigningRequest, what| {
            texts(&validate_certificate_signing_request_status_update(
                new, old, what,
            ))
        };
        let (signer, approver) = (Settable::Certificate, Settable::Verdict);
        let (bare, approved) = (with(&[], ""), with(&["Approved"], ""));
        assert_eq!(
            check(&approved, &bare, signer),
            ["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""]
        );
        assert_eq!(check(&approved, &bare, approver), [""; 0]);
        assert_eq!(
            check(&bare, &approved, approver),
            [
                "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""
            ]
        );
        let issued = with(&["Approved"], pem);
        assert_eq!(check(&issued, &approved, signer), [""; 0]);
        assert_eq!(
            check(&issued, &approved, approver),
            ["status.certificate: Forbidden: updates may not set certificate content"]
        );
        assert_eq!(
            check(&with(&["Approved"], &pem.repeat(2)), &issued, signer),
            ["status.certificate: Forbidden: updates may not modify existing certificate content"]
        );
        assert_eq!(
            check(&with(&["Approved"], "x"), &approved, signer),
            [
                "status.certificate: Invalid value: \"<certificate data>\": must contain at least one CERTIFICATE PEM block"
            ]
        );
    }
}
