//! CertificateSigningRequests.

use std::collections::BTreeSet;

use k8s_openapi::api::certificates::v1::CertificateSigningRequest;

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

/// What is wrong with a CertificateSigningRequest whose conditions changed.
#[must_use]
pub fn validate_certificate_signing_request_status_update(
    new: &CertificateSigningRequest,
    old: &CertificateSigningRequest,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let conditions = |request: &CertificateSigningRequest| {
        let status = request.status.clone().unwrap_or_default();
        status.conditions.unwrap_or_default()
    };
    let (new, old) = (conditions(new), conditions(old));
    let is = |list: &[_], kind: &str| {
        let mut list = list.iter();
        list.any(
            |condition: &k8s_openapi::api::certificates::v1::CertificateSigningRequestCondition| {
                condition.type_ == kind
            },
        )
    };
    let path = Path::new("status").child("conditions");
    let mut seen = BTreeSet::new();
    for (index, condition) in new.iter().enumerate() {
        let path = path.index(index);
        if condition.type_.is_empty() {
            errors.push(FieldError::required(&path.child("type"), ""));
        }
        let only_true = matches!(condition.type_.as_str(), "Approved" | "Denied" | "Failed");
        let known: &[&str] = if only_true {
            &["True"]
        } else {
            &["False", "True", "Unknown"]
        };
        let (status, status_path) = (condition.status.as_str(), path.child("status"));
        if status.is_empty() {
            errors.push(FieldError::required(&status_path, ""));
        } else if !known.contains(&status) {
            errors.push(FieldError::not_supported(&status_path, status, known));
        }
        if !seen.insert(&condition.type_) {
            errors.push(FieldError::duplicate(&path.child("type"), &condition.type_));
        }
    }
    let both = |list: &[_]| is(list, "Approved") && is(list, "Denied");
    if both(&new) && !both(&old) {
        let last = new
            .iter()
            .rev()
            .find(|condition| matches!(condition.type_.as_str(), "Approved" | "Denied"));
        let shown = last.map_or("", |condition| &condition.type_);
        let detail = "Approved and Denied conditions are mutually exclusive";
        errors.push(FieldError::invalid(&path, shown, detail));
    }
    errors
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
                &both, &request
            )),
            [
                "status.conditions[1].status: Unsupported value: \"False\": supported values: \"True\"",
                "status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive",
            ]
        );
    }
}
