//! Audit events sent to a webhook.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use skiff_base::SharedClock;

use super::backend::Sink;
use super::event::Event;
use super::{AuditError, WebhookSettings};
use crate::webhook::Client;

/// So many tries, the pauses between them growing by half each, as upstream.
const TRIES: u32 = 5;
const GROWTH: f64 = 1.5;
/// One try lasts no longer than this.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The webhook.
pub(super) struct Webhook {
    client: Client,
    initial_backoff: Duration,
    clock: SharedClock,
}

impl Webhook {
    pub fn open(settings: &WebhookSettings, clock: SharedClock) -> Result<Arc<Self>, AuditError> {
        let client = Client::from_kubeconfig(&settings.config_file, None, clock.clone())
            .map_err(|error| AuditError::new(format!("initializing audit webhook: {error}")))?;
        Ok(Arc::new(Self {
            client,
            initial_backoff: settings.initial_backoff,
            clock,
        }))
    }
}

/// An `EventList`.
fn list(events: &[Arc<Event>]) -> Bytes {
    let mut text =
        b"{\"kind\":\"EventList\",\"apiVersion\":\"audit.k8s.io/v1\",\"metadata\":{},\"items\":["
            .to_vec();
    for (at, event) in events.iter().enumerate() {
        if at > 0 {
            text.push(b',');
        }
        text.extend_from_slice(&event.json());
    }
    text.extend_from_slice(b"]}");
    text.into()
}

#[async_trait::async_trait]
impl Sink for Webhook {
    fn name(&self) -> &'static str {
        "webhook"
    }

    async fn send(&self, events: &[Arc<Event>]) -> Result<(), AuditError> {
        let body = list(events);
        let mut pause = self.initial_backoff;
        let mut tried = 1;
        loop {
            let sent = self.client.post_bytes(body.clone(), TIMEOUT, 1 << 20).await;
            match sent {
                Ok(_) => return Ok(()),
                Err(error) if tried < TRIES && error.is_transient() => {
                    tracing::debug!(%error, tried, "the audit webhook is asked again");
                    self.clock.sleep(pause).await;
                    pause = pause.mul_f64(GROWTH);
                    tried += 1;
                }
                Err(error) => return Err(AuditError::new(error.to_string())),
            }
        }
    }
}
