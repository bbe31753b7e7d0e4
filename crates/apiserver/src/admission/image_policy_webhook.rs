//! ImagePolicyWebhook: a service outside the cluster says whether a pod may run its images.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use skiff_api::{ApiError, ApiResult, Object, ObjectExt};
use skiff_base::SystemClock;

use super::{Admission, AdmissionRequest, Operation};
use crate::authn::webhook::post_again_after;
use crate::webhook::{CallError, Client};

/// Annotations of pods that the service is told have this in their key.
const TOLD: &str = ".image-policy.k8s.io/";
/// In front of the keys of audit annotations.
const PREFIX: &str = "imagepolicywebhook.image-policy.k8s.io/";
/// The annotation of a pod that was let through unjudged.
const FAILED_OPEN: &str = "alpha.image-policy.k8s.io/failed-open";
const EPHEMERAL: &str = "ephemeralcontainers";
const TIMEOUT: Duration = Duration::from_secs(30);
/// How many answers are kept.
const KEPT: usize = 1024;

/// The plugin's configuration; a time of 0 is the default one, of -1 none.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Configuration {
    #[serde(default)]
    image_policy: Settings,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Settings {
    kube_config_file: String,
    /// In seconds.
    #[serde(rename = "allowTTL")]
    allow_ttl: i64,
    /// In seconds.
    #[serde(rename = "denyTTL")]
    deny_ttl: i64,
    /// In milliseconds.
    retry_backoff: i64,
    default_allow: bool,
}

/// What the service is asked.
#[derive(Serialize)]
struct Spec<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    containers: Vec<Value>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<&'a str, &'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
}

/// What it answers.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Answer {
    allowed: bool,
    reason: String,
    audit_annotations: BTreeMap<String, String>,
}

pub(crate) struct ImagePolicyWebhook {
    client: Client,
    allow_ttl: Duration,
    deny_ttl: Duration,
    retry_backoff: Duration,
    default_allow: bool,
    /// Until when, and the answer, by the question.
    answers: Mutex<HashMap<String, (Duration, Answer)>>,
}

/// A time of the configuration, in `unit`, between `least` and `most`.
fn time(
    value: i64,
    unit: Duration,
    [least, most, default]: [Duration; 3],
) -> Result<Duration, String> {
    let time = match value {
        -1 => return Ok(Duration::ZERO),
        0 => return Ok(default),
        value => u32::try_from(value)
            .ok()
            .and_then(|value| unit.checked_mul(value)),
    };
    match time {
        Some(time) if time >= least && time <= most => Ok(time),
        _ => Err(format!(
            "valid value is between {least:?} and {most:?}, got {value} times {unit:?}"
        )),
    }
}

impl ImagePolicyWebhook {
    pub fn new(configuration: &Value) -> Result<Self, String> {
        if configuration.is_null() {
            return Err("no config specified".to_owned());
        }
        let read = Configuration::deserialize(configuration);
        let settings = read.map_err(|error| error.to_string())?.image_policy;
        let (second, milli) = (Duration::from_secs(1), Duration::from_millis(1));
        let ttl = |default| [second, 1800 * second, default];
        let file = Path::new(&settings.kube_config_file);
        let client = Client::from_kubeconfig(file, None, SystemClock::shared());
        Ok(Self {
            retry_backoff: time(
                settings.retry_backoff,
                milli,
                [milli, 300 * second, 500 * milli],
            )?,
            allow_ttl: time(settings.allow_ttl, second, ttl(300 * second))?,
            deny_ttl: time(settings.deny_ttl, second, ttl(30 * second))?,
            default_allow: settings.default_allow,
            client: client.map_err(|error| error.to_string())?,
            answers: Mutex::default(),
        })
    }

    /// The answer to a question, kept or asked for.
    async fn answer(
        &self,
        request: &AdmissionRequest<'_>,
        spec: &Spec<'_>,
    ) -> Result<Answer, CallError> {
        let clock = &request.call.server.clock;
        let key = serde_json::to_string(spec).unwrap_or_default();
        let now = clock.monotonic();
        if let Some((until, answer)) = self.answers.lock().get(&key)
            && now < *until
        {
            return Ok(answer.clone());
        }
        let review = json!({"apiVersion": "imagepolicy.k8s.io/v1alpha1", "kind": "ImageReview",
            "metadata": {}, "spec": spec, "status": {"allowed": false}});
        let said =
            post_again_after(self.retry_backoff, &self.client, clock, &review, TIMEOUT).await?;
        let answer = match &said["status"] {
            Value::Null => Answer::default(),
            status => Answer::deserialize(status)
                .map_err(|error| CallError::Undecodable(error.to_string()))?,
        };
        let kept = if answer.allowed {
            self.allow_ttl
        } else {
            self.deny_ttl
        };
        if !kept.is_zero() {
            let mut answers = self.answers.lock();
            if answers.len() >= KEPT {
                answers.retain(|_, (until, _)| now < *until);
            }
            if answers.len() >= KEPT {
                answers.clear();
            }
            answers.insert(key, (now + kept, answer.clone()));
        }
        Ok(answer)
    }
}

/// The images that a write is about: those of the ephemeral containers where it is to them (they run as well as others).
fn containers(spec: &PodSpec, subresource: &str) -> Vec<Value> {
    let ephemeral = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .map(|container| &container.image);
    let plain = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    let plain = plain.map(|container| &container.image);
    let images: Vec<_> = match subresource {
        EPHEMERAL => ephemeral.collect(),
        _ => plain.collect(),
    };
    let told = images.into_iter().map(|image| match image {
        Some(image) => json!({"image": image}),
        None => json!({}),
    });
    told.collect()
}

#[async_trait]
impl Admission for ImagePolicyWebhook {
    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&dyn Object>,
        _old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        let kind = &request.resource.kind;
        let pods = kind.group.is_empty()
            && kind.plural == "pods"
            && matches!(request.subresource, "" | EPHEMERAL);
        if !pods || !matches!(request.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        let Some(pod) = object.and_then(|object| object.downcast_ref::<Pod>()) else {
            return Err(ApiError::bad_request(
                "Resource was marked with kind Pod but was unable to be converted",
            ));
        };
        let annotations = pod.metadata.annotations.iter().flatten();
        let told = annotations.filter(|(key, _)| key.contains(TOLD));
        let spec = Spec {
            containers: pod
                .spec
                .as_ref()
                .map_or_else(Vec::new, |spec| containers(spec, request.subresource)),
            annotations: told
                .map(|(key, value)| (key.as_str(), value.as_str()))
                .collect(),
            namespace: request.namespace,
        };
        let answer = match self.answer(request, &spec).await {
            Ok(answer) => answer,
            Err(error) if self.default_allow => {
                tracing::warn!(%error, "the image policy webhook does not answer; pods are let through");
                request
                    .call
                    .annotate(format!("{PREFIX}failed-open"), "true".to_owned());
                let mut marks = request.marks.lock();
                marks.insert(FAILED_OPEN.to_owned(), "true".to_owned());
                return Ok(());
            }
            Err(error) => return Err(request.forbidden(&error.to_string())),
        };
        for (key, value) in &answer.audit_annotations {
            request
                .call
                .annotate(format!("{PREFIX}{key}"), value.clone());
        }
        match (answer.allowed, answer.reason.as_str()) {
            (true, _) => Ok(()),
            (false, "") => Err(request.forbidden("one or more images rejected by webhook backend")),
            (false, why) => Err(request.forbidden(&format!(
                "image policy webhook backend denied one or more images: {why}"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_defaults_and_limits() {
        let second = Duration::from_secs(1);
        let limits = [second, 1800 * second, 300 * second];
        assert_eq!(time(0, second, limits), Ok(300 * second));
        assert_eq!(time(-1, second, limits), Ok(Duration::ZERO));
        assert_eq!(time(7, second, limits), Ok(7 * second));
        for wrong in [1801, -2, i64::MAX] {
            let why = time(wrong, second, limits).unwrap_err();
            assert!(
                why.starts_with("valid value is between 1s and 1800s, got "),
                "{why}"
            );
        }
        assert_eq!(
            ImagePolicyWebhook::new(&Value::Null).err().unwrap(),
            "no config specified"
        );
    }

    #[test]
    fn a_write_to_ephemeral_containers_is_about_their_images() {
        let spec: PodSpec = serde_json::from_value(json!({
            "containers": [{"name": "a", "image": "a:1"}], "initContainers": [{"name": "b", "image": "b:1"}],
            "ephemeralContainers": [{"name": "c", "image": "c:1"}]}))
        .unwrap();
        assert_eq!(
            containers(&spec, ""),
            [json!({"image": "a:1"}), json!({"image": "b:1"})]
        );
        assert_eq!(containers(&spec, EPHEMERAL), [json!({"image": "c:1"})]);
    }
}
