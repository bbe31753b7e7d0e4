//! Writes a pod's status to the API, only when it changed.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};

use crate::cluster::ClusterError;
use crate::context::Context;
use crate::pod::spec;
use crate::pod::status::patch;

/// A write that takes longer than this is given up and made again.
const LIMIT: Duration = Duration::from_secs(10);

/// What the API holds of a pod, as far as we know.
#[derive(Clone, Debug, Default)]
pub struct Published {
    status: PodStatus,
    version: u64,
    uid: String,
}

/// What came of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The API holds the status.
    Done,
    /// The pod is no longer there.
    Gone,
    /// It could not be written; try again.
    Failed,
}

fn version(pod: &Pod) -> u64 {
    let version = pod.metadata.resource_version.as_deref();
    version.and_then(|v| v.parse().ok()).unwrap_or(0)
}

impl Published {
    /// Takes note of what the API's watch says, unless it is older than our own last write.
    pub fn observe(&mut self, pod: &Pod) {
        let other = spec::uid(pod) != self.uid;
        if other || version(pod) > self.version || version(pod) == 0 {
            self.version = version(pod);
            spec::uid(pod).clone_into(&mut self.uid);
            self.status = pod.status.clone().unwrap_or_default();
        }
    }

    /// Writes `status` if the API holds another one.
    pub async fn send(&mut self, context: &Arc<Context>, pod: &Pod, status: &PodStatus) -> Sent {
        self.observe(pod);
        let Some(patch) = patch::patch(&self.uid, &self.status, status) else {
            return Sent::Done;
        };
        let (namespace, name) = (spec::namespace(pod), spec::name(pod));
        let write = context.cluster.patch_pod_status(namespace, name, patch);
        let answer = tokio::select! {
            answer = write => answer,
            () = context.clock.sleep(LIMIT) => Err(ClusterError::Unavailable("timed out".into())),
        };
        match answer {
            Ok(now) => {
                self.version = version(&now);
                self.status = now.status.unwrap_or_default();
                Sent::Done
            }
            Err(ClusterError::NotFound(_)) => Sent::Gone,
            // The uid in the patch is another pod's: ours is gone.
            Err(ClusterError::Conflict(_)) => Sent::Gone,
            Err(error) => {
                tracing::warn!(pod = spec::display(pod), %error, "cannot write pod status");
                Sent::Failed
            }
        }
    }
}
