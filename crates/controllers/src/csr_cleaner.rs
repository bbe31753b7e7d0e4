//! Deletes requests for certificates that nobody needs any more: an hour after they were answered, a day after they
//! were not.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::Client;
use kube::api::{Api, DeleteParams, Preconditions};
use skiff_base::SharedClock;
use skiff_client::{Event, ObjectKey, Outcome, ReconcileError, Reconciler, SharedCache};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::Context;
use crate::certificate_request::{has_condition, issued};
use crate::csr_signing::NAME;

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

struct Cleaner {
    client: Client,
    requests: SharedCache<CertificateSigningRequest>,
    clock: SharedClock,
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
    let reconciler = Cleaner {
        client: context.client(NAME),
        requests,
        clock: context.clock.clone(),
    };
    context.run(reconciler, queue, 1).await;
}

/// When the request may go; `None`: its age is not known.
fn deadline(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let status = request.status.as_ref();
    let conditions = status.and_then(|status| status.conditions.as_deref());
    let conditions = conditions.unwrap_or_default();
    if conditions.is_empty() {
        let made = request.metadata.creation_timestamp.as_ref()?;
        return made.0.checked_add(DAY).ok();
    }
    let certificate = issued(request);
    let ends = conditions.iter().filter_map(|condition| {
        let keep = match condition.type_.as_str() {
            "Denied" | "Failed" => HOUR,
            "Approved" if certificate.is_some() => HOUR,
            "Approved" => DAY,
            _ => return None,
        };
        let since = condition.last_update_time.as_ref()?;
        since.0.checked_add(keep).ok()
    });
    let expires = certificate.filter(|_| has_condition(request, "Approved"));
    ends.chain(expires.and_then(expiry)).min()
}

fn expiry(pem: &[u8]) -> Option<Timestamp> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem).ok()?;
    let (_, certificate) = X509Certificate::from_der(&pem.contents).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

#[async_trait]
impl Reconciler for Cleaner {
    fn name(&self) -> &'static str {
        "csrcleaner"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Outcome, ReconcileError> {
        let Some(request) = self.requests.get(key) else {
            return Ok(Outcome::Done);
        };
        let Some(deadline) = deadline(&request) else {
            return Ok(Outcome::Done);
        };
        let now = Timestamp::try_from(self.clock.now()).unwrap_or(Timestamp::UNIX_EPOCH);
        if let Ok(left) = Duration::try_from(now.duration_until(deadline)) {
            return Ok(Outcome::After(left + Duration::from_secs(1)));
        }
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: request.metadata.uid.clone(),
                resource_version: request.metadata.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        let api: Api<CertificateSigningRequest> = Api::all(self.client.clone());
        api.delete(key.name(), &parameters).await?;
        Ok(Outcome::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn answered_requests_go_after_an_hour_others_after_a_day() {
        let at = |text: &str| -> Timestamp { text.parse().unwrap() };
        let request = |condition: Option<&str>, certificate: &str| -> CertificateSigningRequest {
            let conditions: Vec<_> = condition
                .iter()
                .map(|kind| json!({"type": kind, "status": "True", "lastUpdateTime": "2026-01-01T10:00:00Z"}))
                .collect();
            serde_json::from_value(
                json!({"metadata": {"creationTimestamp": "2026-01-01T09:00:00Z"},
                "spec": {"request": "", "signerName": "s"},
                "status": {"conditions": conditions, "certificate": certificate}}),
            )
            .unwrap()
        };
        for (request, expected) in [
            (request(None, ""), "2026-01-02T09:00:00Z"),
            (request(Some("Denied"), ""), "2026-01-01T11:00:00Z"),
            (request(Some("Failed"), ""), "2026-01-01T11:00:00Z"),
            (request(Some("Approved"), ""), "2026-01-02T10:00:00Z"),
            (request(Some("Approved"), "eA=="), "2026-01-01T11:00:00Z"),
        ] {
            assert_eq!(deadline(&request), Some(at(expected)), "{request:?}");
        }
    }
}
