//! Tells whoever listens what happens to pods and containers, so that nobody needs to poll.

use futures::StreamExt;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tonic::Status;

use super::EmbeddedRuntime;
use crate::cri::{self, MessageStream};

impl EmbeddedRuntime {
    /// Tells that something happened to container or sandbox `id`.
    pub(super) fn announce(&self, id: &str, sandbox: &str, kind: cri::ContainerEventType) {
        if self.0.events.receiver_count() == 0 {
            return;
        }
        let event = cri::ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind as i32,
            created_at: self.now(),
            pod_sandbox_status: self
                .find_sandbox(sandbox)
                .map(|sandbox| self.sandbox_status(&sandbox)),
            containers_statuses: self
                .containers_of(sandbox)
                .iter()
                .map(|container| self.container_status_of(container))
                .collect(),
        };
        // Without listeners there is nobody to tell.
        let _ = self.0.events.send(event);
    }

    /// Everything that happens from now on. A listener that is too slow gets an error and has to
    /// list anew.
    #[must_use]
    pub fn events(&self) -> MessageStream<cri::ContainerEventResponse> {
        BroadcastStream::new(self.0.events.subscribe())
            .map(|event| {
                event.map_err(|BroadcastStreamRecvError::Lagged(missed)| {
                    Status::data_loss(format!("{missed} container events were missed"))
                })
            })
            .boxed()
    }
}
