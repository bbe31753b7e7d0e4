//! Approves requests of kubelets for client certificates, when the one who asks may ask for them.

use async_trait::async_trait;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition,
};
use kube::Client;
use kube::api::{Api, PostParams};
use skiff_client::{Event, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache};

use crate::Context;
use crate::certificate_request::{Asked, KUBELET_CLIENT, has_condition, issued};
use crate::csr_signing::NAME;

struct Approving {
    client: Client,
    requests: SharedCache<CertificateSigningRequest>,
}

/// Runs the controller.
pub async fn run(context: Context) {
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
    let reconciler = Approving {
        client: context.client(NAME),
        requests,
    };
    context.run(reconciler, queue, 1).await;
}

/// A right that the requester needs, and what approval says then.
type Right = (&'static str, &'static str);

const OWN: Right = (
    "selfnodeclient",
    "Auto approving self kubelet client certificate after SubjectAccessReview.",
);
const ANY: Right = (
    "nodeclient",
    "Auto approving kubelet client certificate after SubjectAccessReview.",
);

/// The rights of which one is enough; none for requests that are not for this controller.
fn rights(request: &CertificateSigningRequest) -> Vec<Right> {
    let decided = has_condition(request, "Approved") || has_condition(request, "Denied");
    if decided || issued(request).is_some() || request.spec.signer_name != KUBELET_CLIENT {
        return Vec::new();
    }
    // What cannot be read was refused when it was made.
    let Ok(asked) = Asked::parse(&request.spec.request.0) else {
        return Vec::new();
    };
    let usages = request.spec.usages.as_deref().unwrap_or_default();
    if asked.check_kubelet_client(usages).is_err() {
        return Vec::new();
    }
    match request.spec.username.as_deref() == Some(asked.common_name.as_str()) {
        true => vec![OWN, ANY],
        false => vec![ANY],
    }
}

#[async_trait]
impl Reconciler for Approving {
    fn name(&self) -> &'static str {
        "csrapproving"
    }

    fn queue(&self) -> &'static str {
        "certificate"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(request) = self.requests.get(key) else {
            return Ok(Outcome::Done);
        };
        let rights = rights(&request);
        for (subresource, message) in &rights {
            if self.may(&request, subresource).await? {
                self.approve(key, &request, message).await?;
                return Ok(Outcome::Done);
            }
        }
        match rights.is_empty() {
            true => Ok(Outcome::Done),
            // The right may be given later.
            false => Ok(Outcome::Retry),
        }
    }
}

impl Approving {
    async fn may(
        &self,
        request: &CertificateSigningRequest,
        subresource: &str,
    ) -> Result<bool, ReconcileError> {
        let spec = &request.spec;
        let text = |text: &str| Some(text.to_owned());
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: spec.username.clone(),
                uid: spec.uid.clone(),
                groups: spec.groups.clone(),
                extra: spec.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    group: text("certificates.k8s.io"),
                    resource: text("certificatesigningrequests"),
                    verb: text("create"),
                    subresource: text(subresource),
                    version: text("*"),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = api.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    async fn approve(
        &self,
        key: &ObjectKey,
        request: &CertificateSigningRequest,
        message: &str,
    ) -> Result<(), ReconcileError> {
        let mut request = request.clone();
        let status = request.status.get_or_insert_default();
        let condition = CertificateSigningRequestCondition {
            type_: "Approved".to_owned(),
            status: "True".to_owned(),
            reason: Some("AutoApproved".to_owned()),
            message: Some(message.to_owned()),
            ..CertificateSigningRequestCondition::default()
        };
        status.conditions.get_or_insert_default().push(condition);
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        let parameters = PostParams::default();
        api.replace_subresource("approval", key.name(), &parameters, &request)
            .await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;
    use serde_json::json;

    #[test]
    fn a_kubelet_asks_for_itself_or_for_another() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        let name = &mut params.distinguished_name;
        name.push(rcgen::DnType::CommonName, "system:node:n1");
        name.push(rcgen::DnType::OrganizationName, "system:nodes");
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        let request = |user: &str, signer: &str| -> CertificateSigningRequest {
            let mut request: CertificateSigningRequest = serde_json::from_value(json!({
                "spec": {"request": "", "signerName": signer, "username": user,
                    "usages": ["digital signature", "client auth"]}}))
            .unwrap();
            request.spec.request = ByteString(pem.clone().into_bytes());
            request
        };
        assert_eq!(
            rights(&request("system:node:n1", KUBELET_CLIENT)),
            [OWN, ANY]
        );
        assert_eq!(
            rights(&request("system:bootstrap:abcdef", KUBELET_CLIENT)),
            [ANY]
        );
        assert_eq!(
            rights(&request(
                "system:node:n1",
                "kubernetes.io/kube-apiserver-client"
            )),
            []
        );
        let mut denied = request("system:node:n1", KUBELET_CLIENT);
        denied.status =
            serde_json::from_value(json!({"conditions": [{"type": "Denied", "status": "True"}]}))
                .unwrap();
        assert_eq!(rights(&denied), []);
    }
}
