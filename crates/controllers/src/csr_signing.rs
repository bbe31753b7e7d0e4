//! Signs requests for certificates that were approved and name one of Kubernetes' own signers.

use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use kube::Client;
use kube::api::{Api, PostParams};
use skiff_base::{Random, SharedClock};
use skiff_client::{Event, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache};

use crate::Context;
use crate::certificate_authority::{CertificateAuthority, Grant};
use crate::certificate_request::{
    Asked, CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY, check_client_usages, has_condition,
    issued,
};

/// The account that this controller, the approver and the cleaner act as.
pub const NAME: &str = "certificate-controller";

/// The longest life of a certificate; upstream's default.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// The shortest, twice the time that certificates are backdated by.
const SHORTEST: Duration = Duration::from_secs(600);

struct Signing {
    client: Client,
    requests: SharedCache<CertificateSigningRequest>,
    authority: CertificateAuthority,
    clock: SharedClock,
    random: Random,
}

/// Runs the controller.
pub async fn run(context: Context) {
    let Some(authority) = context.config.authority.clone() else {
        // Another signs in this cluster.
        context.shutdown.triggered().await;
        return;
    };
    let requests = context.caches.of::<CertificateSigningRequest>();
    let queue = context.queue();
    requests.wait_synced().await;
    let _requests = {
        let queue = queue.clone();
        requests.on_event(move |event| {
            if !matches!(event, Event::Deleted(_)) {
                queue.add(ObjectKey::of(&event.object().metadata));
            }
        })
    };
    let reconciler = Signing {
        client: context.client(NAME),
        requests,
        authority,
        clock: context.clock.clone(),
        random: context.random.clone(),
    };
    context.run(reconciler, queue, 1).await;
}

/// What becomes of a request.
#[derive(Debug, PartialEq)]
enum Plan {
    /// It is not approved, is settled, or is for another signer.
    Leave,
    /// It asks for what the signer does not sign.
    Fail(String),
    /// A certificate for this long.
    Issue(Box<Asked>, Duration),
}

fn plan(request: &CertificateSigningRequest) -> Result<Plan, String> {
    let settled = issued(request).is_some() || failed(request);
    if settled || !has_condition(request, "Approved") || has_condition(request, "Denied") {
        return Ok(Plan::Leave);
    }
    let spec = &request.spec;
    let signer = spec.signer_name.as_str();
    if ![CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY].contains(&signer) {
        return Ok(Plan::Leave);
    }
    let asked = Asked::parse(&spec.request.0)?;
    let usages = spec.usages.as_deref().unwrap_or_default();
    let checked = match signer {
        CLIENT => check_client_usages(usages),
        KUBELET_CLIENT => asked.check_kubelet_client(usages),
        KUBELET_SERVING => asked.check_kubelet_serving(usages),
        _ => Ok(()),
    };
    let wanted = spec.expiration_seconds.map_or(LONGEST, |seconds| {
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    });
    Ok(match checked {
        Err(why) => Plan::Fail(why),
        Ok(()) => Plan::Issue(Box::new(asked), wanted.clamp(SHORTEST, LONGEST)),
    })
}

fn failed(request: &CertificateSigningRequest) -> bool {
    let status = request.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref());
    let mut conditions = conditions.unwrap_or_default().iter();
    conditions.any(|condition| {
        condition.type_ == "Failed" && matches!(condition.status.as_str(), "" | "True")
    })
}

#[async_trait]
impl Reconciler for Signing {
    fn name(&self) -> &'static str {
        "csrsigning"
    }

    fn queue(&self) -> &'static str {
        "certificate"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(request) = self.requests.get(key) else {
            return Ok(Outcome::Done);
        };
        let plan = plan(&request);
        let mut request = (*request).clone();
        let status = request.status.get_or_insert_default();
        match plan.map_err(ReconcileError::Other)? {
            Plan::Leave => return Ok(Outcome::Done),
            Plan::Fail(why) => fail(status, why),
            Plan::Issue(asked, life) => {
                let usages = request.spec.usages.clone().unwrap_or_default();
                let grant = Grant {
                    usages: &usages,
                    life,
                    now: self.clock.now(),
                    serial: self.serial(),
                };
                let issued = self.authority.issue(&asked, &grant);
                let issued = issued.map_err(ReconcileError::Other)?;
                status.certificate = Some(ByteString(issued.into_bytes()));
            }
        }
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        let parameters = PostParams::default();
        api.replace_status(key.name(), &parameters, &request)
            .await?;
        Ok(Outcome::Done)
    }
}

impl Signing {
    fn serial(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.random.below(u64::MAX).to_be_bytes());
        bytes[8..].copy_from_slice(&self.random.below(u64::MAX).to_be_bytes());
        bytes
    }
}

fn fail(status: &mut CertificateSigningRequestStatus, why: String) {
    let condition = CertificateSigningRequestCondition {
        type_: "Failed".to_owned(),
        status: "True".to_owned(),
        reason: Some("SignerValidationFailure".to_owned()),
        message: Some(why),
        ..CertificateSigningRequestCondition::default()
    };
    status.conditions.get_or_insert_default().push(condition);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request(signer: &str, conditions: &[&str], usages: &[&str]) -> CertificateSigningRequest {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, "jane");
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        let conditions: Vec<_> = conditions
            .iter()
            .map(|kind| json!({"type": kind, "status": "True"}))
            .collect();
        let mut request: CertificateSigningRequest = serde_json::from_value(json!({
            "spec": {"request": "", "signerName": signer, "usages": usages, "expirationSeconds": 60},
            "status": {"conditions": conditions}}))
        .unwrap();
        request.spec.request = ByteString(pem.into_bytes());
        request
    }

    #[test]
    fn only_what_is_approved_and_ours_is_signed() {
        let usages = ["client auth"];
        let planned = plan(&request(CLIENT, &["Approved"], &usages)).unwrap();
        assert!(
            matches!(planned, Plan::Issue(asked, life) if asked.common_name == "jane" && life == SHORTEST)
        );
        for (signer, conditions) in [
            (CLIENT, &[][..]),
            (CLIENT, &["Approved", "Denied"]),
            (CLIENT, &["Approved", "Failed"]),
            ("example.org/own", &["Approved"]),
        ] {
            assert_eq!(
                plan(&request(signer, conditions, &usages)),
                Ok(Plan::Leave),
                "{signer} {conditions:?}"
            );
        }
        let planned = plan(&request(CLIENT, &["Approved"], &["server auth"]));
        let why = "invalid usage for client certificate: server auth";
        assert_eq!(planned, Ok(Plan::Fail(why.to_owned())));
        let planned = plan(&request(KUBELET_CLIENT, &["Approved"], &usages)).unwrap();
        assert_eq!(
            planned,
            Plan::Fail("subject organization is not system:nodes".to_owned())
        );
    }
}
