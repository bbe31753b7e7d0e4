//! Makes sure that the image of a container is there: pull policy, credentials, back-off, events.

pub mod credentials;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, Secret};
use parking_lot::Mutex;
use skiff_base::SharedClock;
use skiff_runtime::cri;
use tokio::sync::Semaphore;

use crate::cluster::{Cluster, Notice};
use crate::pod::plan::Waiting;
use crate::pod::restart::Delays;
use crate::runtime::{ImageFacts, Runtime};

/// So many images are fetched at a time.
const PARALLEL_PULLS: usize = 5;
/// How long a failed pull is shown as such before it shows as back-off.
const SHOW_ERROR: Duration = Duration::from_secs(5);

/// Fetches images.
pub struct Images {
    runtime: Runtime,
    cluster: Arc<dyn Cluster>,
    clock: SharedClock,
    state: Mutex<State>,
    slots: Semaphore,
}

#[derive(Default)]
struct State {
    delays: Delays,
    /// The last failure by key.
    failures: BTreeMap<String, (Timestamp, String)>,
}

/// An image that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What the container's status says.
    pub waiting: Waiting,
    /// When to ask again.
    pub retry_after: Duration,
}

/// What an image is wanted for.
pub struct Wanted<'a> {
    /// The pod's uid.
    pub pod_uid: &'a str,
    /// The container, for events.
    pub about: ObjectReference,
    /// The image as the spec says it.
    pub image: &'a str,
    /// `Always`, `IfNotPresent` or `Never`.
    pub policy: &'a str,
    /// The pod's `imagePullSecrets`.
    pub secrets: &'a [Arc<Secret>],
    /// The sandbox that it is pulled for.
    pub sandbox: cri::PodSandboxConfig,
}

impl Images {
    /// An empty record of failures.
    #[must_use]
    pub fn new(runtime: Runtime, cluster: Arc<dyn Cluster>, clock: SharedClock) -> Self {
        Self {
            runtime,
            cluster,
            clock,
            state: Mutex::default(),
            slots: Semaphore::new(PARALLEL_PULLS),
        }
    }

    /// The image, fetched if the policy asks for it.
    pub async fn ensure(&self, wanted: Wanted<'_>) -> Result<ImageFacts, Missing> {
        let requested = wanted.image;
        let name = with_default_tag(requested);
        if !valid_name(requested) {
            let message = format!(
                "Failed to apply default image tag \"{requested}\": couldn't parse image name \"{requested}\": invalid reference format"
            );
            self.tell(&wanted, true, "InspectFailed", &message);
            return Err(missing("InvalidImageName", message));
        }
        if wanted.policy != "Always" {
            let found = self.runtime.image(&name).await.map_err(|error| {
                let message = format!("Failed to inspect image \"\": {}", status_text(&error));
                self.tell(&wanted, true, "InspectFailed", &message);
                missing("ImageInspectError", message)
            })?;
            if let Some(image) = found {
                let message = format!(
                    "Container image \"{requested}\" already present on machine and can be accessed by the pod"
                );
                self.tell(&wanted, false, "Pulled", &message);
                return Ok(image);
            }
            if wanted.policy == "Never" {
                let message = format!(
                    "Container image \"{requested}\" is not present with pull policy of Never"
                );
                self.tell(&wanted, true, "ErrImageNeverPull", &message);
                return Err(missing("ErrImageNeverPull", message));
            }
        }
        self.pull(&wanted, &name).await
    }

    async fn pull(&self, wanted: &Wanted<'_>, name: &str) -> Result<ImageFacts, Missing> {
        let requested = wanted.image;
        let key = format!("{}_{requested}", wanted.pod_uid);
        if let Some(held) = self.held(&key, requested) {
            let message = format!("Back-off pulling image \"{requested}\"");
            self.tell(wanted, false, "BackOff", &message);
            return Err(held);
        }
        self.tell(
            wanted,
            false,
            "Pulling",
            &format!("Pulling image \"{requested}\""),
        );
        let asked = self.clock.monotonic();
        // The semaphore is never closed.
        let _slot = self.slots.acquire().await;
        let started = self.clock.monotonic();
        let outcome = self.try_credentials(wanted, name).await;
        let finished = self.clock.monotonic();
        match outcome {
            Ok(image) => {
                let mut state = self.state.lock();
                state.delays.forget(&key);
                state.failures.remove(&key);
                drop(state);
                let message = format!(
                    "Successfully pulled image \"{requested}\" in {} ({} including waiting). Image size: {} bytes.",
                    seconds(finished.saturating_sub(started)),
                    seconds(finished.saturating_sub(asked)),
                    image.size
                );
                self.tell(wanted, false, "Pulled", &message);
                Ok(image)
            }
            Err(error) => Err(self.failed(wanted, &key, &status_text(&error))),
        }
    }

    fn held(&self, key: &str, requested: &str) -> Option<Missing> {
        let state = self.state.lock();
        let (failed_at, failure) = state.failures.get(key)?;
        let (_, left) = state.delays.pending(key, *failed_at, self.cluster.now())?;
        Some(Missing {
            waiting: Waiting {
                reason: "ImagePullBackOff".into(),
                message: format!("Back-off pulling image \"{requested}\": {failure}"),
            },
            retry_after: left,
        })
    }

    fn failed(&self, wanted: &Wanted<'_>, key: &str, error: &str) -> Missing {
        let requested = wanted.image;
        let message = format!("Failed to pull image \"{requested}\": {error}");
        self.tell(wanted, true, "Failed", &message);
        let (reason, message) = classify(requested, error);
        let now = self.cluster.now();
        let mut state = self.state.lock();
        state.delays.advance(key, now);
        let shown = format!("{reason}: {message}");
        state.failures.insert(key.to_owned(), (now, shown));
        Missing {
            waiting: Waiting {
                reason: reason.to_owned(),
                message,
            },
            retry_after: SHOW_ERROR,
        }
    }

    /// Tries the pod's credentials for the registry one after the other, or none.
    async fn try_credentials(
        &self,
        wanted: &Wanted<'_>,
        name: &str,
    ) -> Result<ImageFacts, tonic::Status> {
        let found = credentials::lookup(wanted.secrets, name);
        let mut tries: Vec<Option<cri::AuthConfig>> = found.into_iter().map(Some).collect();
        if tries.is_empty() {
            tries.push(None);
        }
        let mut last = tonic::Status::unknown("no credentials were tried");
        for auth in tries {
            match self.runtime.pull(name, auth, wanted.sandbox.clone()).await {
                Ok(reference) => {
                    let image = match self.runtime.image(&reference).await? {
                        Some(image) => Some(image),
                        None => self.runtime.image(name).await?,
                    };
                    return image.ok_or_else(|| {
                        tonic::Status::not_found("the image was pulled and is not there")
                    });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn tell(&self, wanted: &Wanted<'_>, warning: bool, reason: &str, message: &str) {
        self.cluster.notify(Notice {
            about: wanted.about.clone(),
            warning,
            reason: reason.to_owned(),
            message: message.to_owned(),
        });
    }

    /// Forgets what failed for a pod that is gone.
    pub fn forget(&self, pod_uid: &str) {
        let mut state = self.state.lock();
        let prefix = format!("{pod_uid}_");
        let keys: Vec<String> = state
            .failures
            .keys()
            .filter(|key| key.starts_with(&prefix))
            .cloned()
            .collect();
        for key in keys {
            state.failures.remove(&key);
            state.delays.forget(&key);
        }
    }
}

fn missing(reason: &str, message: String) -> Missing {
    Missing {
        waiting: Waiting {
            reason: reason.to_owned(),
            message,
        },
        retry_after: Duration::from_secs(10),
    }
}

/// An error of the runtime as upstream writes it.
#[must_use]
pub fn status_text(status: &tonic::Status) -> String {
    format!(
        "rpc error: code = {:?} desc = {}",
        status.code(),
        status.message()
    )
}

/// The runtime's own word for a failure, if it has one.
fn classify(image: &str, error: &str) -> (&'static str, String) {
    let detail = error.split_once("desc = ").map_or(error, |(_, d)| d);
    if let Some(rest) = detail.strip_prefix("RegistryUnavailable") {
        let message =
            format!("image pull failed for {image} because the registry is unavailable{rest}");
        return ("RegistryUnavailable", message);
    }
    if let Some(rest) = detail.strip_prefix("SignatureValidationFailed") {
        let message =
            format!("image pull failed for {image} because the signature validation failed{rest}");
        return ("SignatureValidationFailed", message);
    }
    ("ErrImagePull", error.to_owned())
}

/// A duration as upstream writes it: milliseconds, at most three decimals.
fn seconds(duration: Duration) -> String {
    let millis = duration.as_millis();
    if millis < 1000 {
        return format!("{millis}ms");
    }
    let text = format!("{}.{:03}", millis / 1000, millis % 1000);
    format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
}

/// The image with `:latest` where neither a tag nor a digest is said.
#[must_use]
pub fn with_default_tag(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

/// Whether this can be the name of an image.
fn valid_name(image: &str) -> bool {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let digest_fits = digest.is_none_or(|d| {
        d.split_once(':')
            .is_some_and(|(_, hex)| hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
    });
    let last_slash = name.rfind('/').map_or(0, |at| at + 1);
    let (path, tag) = match name.get(last_slash..).and_then(|l| l.rfind(':')) {
        Some(at) => name.split_at(last_slash + at),
        None => (name, ""),
    };
    let tag = tag.strip_prefix(':');
    let word = |w: &str| {
        !w.is_empty()
            && w.bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let tag_fits = tag.is_none_or(|t| word(t) && t.len() <= 128);
    let mut parts = path.split('/').peekable();
    let first = parts.peek().copied().unwrap_or_default();
    let has_host =
        path.contains('/') && (first.contains('.') || first.contains(':') || first == "localhost");
    if has_host {
        parts.next();
    }
    let host_fits = !has_host || first.split(':').all(word);
    let path_fits = parts.all(|part| word(part) && !part.bytes().any(|b| b.is_ascii_uppercase()));
    digest_fits && tag_fits && host_fits && path_fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (image, good) in [
            ("nginx", true),
            ("nginx:1.27", true),
            ("docker.io/library/nginx", true),
            ("localhost:5000/a/b:c", true),
            ("r.io/a@sha256:0123456789abcdef0123456789abcdef", true),
            ("", false),
            ("UPPER", false),
            ("a b", false),
            ("nginx:", false),
            ("a//b", false),
            ("x@sha256:zz", false),
        ] {
            assert_eq!(valid_name(image), good, "{image}");
        }
        assert_eq!(with_default_tag("a/b"), "a/b:latest");
        assert_eq!(with_default_tag("h:5000/b"), "h:5000/b:latest");
        assert_eq!(with_default_tag("a:1"), "a:1");
    }

    #[test]
    fn durations() {
        assert_eq!(seconds(Duration::from_millis(15)), "15ms");
        assert_eq!(seconds(Duration::from_millis(1500)), "1.5s");
        assert_eq!(seconds(Duration::from_millis(2000)), "2s");
    }
}
