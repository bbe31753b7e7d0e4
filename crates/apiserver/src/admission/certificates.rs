//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction: who may approve and sign requests for
//! certificates, and what may not be asked for.

use async_trait::async_trait;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use skiff_api::{ApiError, ApiResult, FieldError, Object, ObjectExt, Path};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer as _;
use x509_parser::x509::X509Name;

use super::{Admission, AdmissionRequest, Operation};
use crate::request::Attributes;

const GROUP: &str = "certificates.k8s.io";
const CLIENTS: &str = "kubernetes.io/kube-apiserver-client";
const MASTERS: &str = "system:masters";

pub(crate) struct CertificateApproval;
pub(crate) struct CertificateSigning;
pub(crate) struct CertificateSubjectRestriction;

fn concerns(request: &AdmissionRequest<'_>, operation: Operation, subresource: &str) -> bool {
    let kind = &request.resource.kind;
    kind.group == GROUP
        && kind.plural == "certificatesigningrequests"
        && request.operation == operation
        && request.subresource == subresource
}

/// Whether the user may act for the signer, or for all signers of its domain.
async fn is_allowed(request: &AdmissionRequest<'_>, verb: &str, signer: &str) -> bool {
    let domain = signer.split('/').next().unwrap_or_default();
    for name in [signer.to_owned(), format!("{domain}/*")] {
        let attributes = Attributes {
            user: request.call.user.clone(),
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            version: "*".to_owned(),
            resource: "signers".to_owned(),
            name,
            is_resource: true,
            ..Attributes::default()
        };
        if request.call.server.decide(&attributes).await.allowed() {
            return true;
        }
    }
    false
}

fn as_request(object: Option<&dyn Object>) -> Option<&CertificateSigningRequest> {
    object.and_then(|object| object.downcast_ref())
}

#[async_trait]
impl Admission for CertificateApproval {
    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        _object: Option<&dyn Object>,
        old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        let Some(old) = as_request(old) else {
            return Ok(());
        };
        let signer = &old.spec.signer_name;
        if concerns(request, Operation::Update, "approval")
            && !is_allowed(request, "approve", signer).await
        {
            return Err(request.forbidden(&format!(
                "user not permitted to approve requests with signerName {signer:?}"
            )));
        }
        Ok(())
    }
}

#[async_trait]
impl Admission for CertificateSigning {
    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&dyn Object>,
        old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        let (Some(new), Some(old)) = (as_request(object), as_request(old)) else {
            return Ok(());
        };
        let (after, before) = (
            new.status.clone().unwrap_or_default(),
            old.status.clone().unwrap_or_default(),
        );
        let changed =
            after.certificate != before.certificate || after.conditions != before.conditions;
        let signer = &old.spec.signer_name;
        if changed
            && concerns(request, Operation::Update, "status")
            && !is_allowed(request, "sign", signer).await
        {
            return Err(request.forbidden(&format!(
                "user not permitted to sign requests with signerName {signer:?}"
            )));
        }
        Ok(())
    }
}

#[async_trait]
impl Admission for CertificateSubjectRestriction {
    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&dyn Object>,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        let Some(asked) = as_request(object) else {
            return Ok(());
        };
        if !concerns(request, Operation::Create, "") {
            return Ok(());
        }
        let groups = organizations(&asked.spec.request.0).map_err(|why| {
            let shown = serde_json::to_value(&asked.spec.request).unwrap_or_default();
            let path = Path::new("spec").child("request");
            let shown = shown.as_str().unwrap_or_default();
            let error = FieldError::invalid(&path, shown, &why);
            ApiError::invalid(GROUP, "CertificateSigningRequest", request.name, &[error])
        })?;
        if asked.spec.signer_name == CLIENTS && groups.iter().any(|group| group == MASTERS) {
            return Err(request.forbidden(&format!(
                "use of {CLIENTS} signer with {MASTERS} group is not allowed"
            )));
        }
        Ok(())
    }
}

/// The organizations in the subject of a request, whose signature must be its own key's.
fn organizations(pem: &[u8]) -> Result<Vec<String>, String> {
    subject(pem, |subject| {
        let names = subject.iter_organization();
        names
            .filter_map(|name| name.as_str().ok().map(str::to_owned))
            .collect()
    })
}

/// The common name in the subject of a request.
pub(super) fn common_name(pem: &[u8]) -> Result<String, String> {
    subject(pem, |subject| {
        let names = subject.iter_common_name();
        let names = names.filter_map(|name| name.as_str().ok());
        names.last().unwrap_or_default().to_owned()
    })
}

fn subject<T>(pem: &[u8], read: impl FnOnce(&X509Name<'_>) -> T) -> Result<T, String> {
    let block = Pem::iter_from_buffer(pem).next().and_then(Result::ok);
    let block = block
        .filter(|block| block.label == "CERTIFICATE REQUEST")
        .ok_or("PEM block type must be CERTIFICATE REQUEST")?;
    let (_, request) =
        X509CertificationRequest::from_der(&block.contents).map_err(|error| error.to_string())?;
    request
        .verify_signature()
        .map_err(|error| error.to_string())?;
    Ok(read(&request.certification_request_info.subject))
}
