//! Tokens that another service knows: it is asked by TokenReview, and its answer kept for a while.

use std::collections::HashMap;
use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use skiff_base::SharedClock;

use super::{Recognized, TokenAuthenticator};
use crate::request::UserInfo;
use crate::seam::AuthnError;
use crate::webhook::{CallError, Client};

const TIMEOUT: Duration = Duration::from_secs(30);
const LIMIT: usize = 1 << 20;
/// How often a webhook is asked that may answer soon.
const ATTEMPTS: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// How many answers are kept.
const KEPT: usize = 8192;

type Answer = Result<Option<Recognized>, AuthnError>;

/// Asks a webhook for the users of tokens.
pub struct WebhookTokens {
    client: Client,
    version: String,
    ttl: Duration,
    clock: SharedClock,
    audiences: Vec<String>,
    answers: Mutex<HashMap<[u8; 32], (Duration, Answer)>>,
}

impl WebhookTokens {
    /// `config`: a kubeconfig that tells where the webhook is. `version`: of the reviews, `v1` or `v1beta1`. `ttl`: how long
    /// answers are kept. `audiences`: those of this API server.
    pub fn new(
        config: &Path,
        version: &str,
        ttl: Duration,
        audiences: Vec<String>,
        clock: SharedClock,
    ) -> Result<Self, String> {
        if !matches!(version, "v1" | "v1beta1") {
            return Err(format!(
                "unsupported authentication webhook version {version:?}"
            ));
        }
        let client = Client::from_kubeconfig(config, None, clock.clone());
        Ok(Self {
            client: client.map_err(|error| error.to_string())?,
            version: version.to_owned(),
            ttl,
            clock,
            audiences,
            answers: Mutex::default(),
        })
    }

    async fn ask(&self, token: &str, audiences: &[String]) -> Answer {
        let review = json!({
            "apiVersion": format!("authentication.k8s.io/{}", self.version), "kind": "TokenReview",
            "metadata": {}, "spec": {"token": token, "audiences": audiences}});
        let answer = post(&self.client, &self.clock, &review, TIMEOUT).await;
        let answer = answer.map_err(|error| AuthnError(error.to_string()))?;
        self.read(&answer["status"], audiences)
    }

    fn read(&self, status: &Value, audiences: &[String]) -> Answer {
        if status["authenticated"] != true {
            return match status["error"].as_str().filter(|why| !why.is_empty()) {
                Some(why) => Err(AuthnError(why.to_owned())),
                None => Ok(None),
            };
        }
        let list = |value: &Value| -> Vec<String> {
            let values = value.as_array().into_iter().flatten();
            values
                .filter_map(|value| value.as_str().map(str::to_owned))
                .collect()
        };
        // A webhook that says nothing of audiences speaks of this API server's.
        let theirs = list(&status["audiences"]);
        let theirs = if theirs.is_empty() {
            &self.audiences
        } else {
            &theirs
        };
        let both = audiences.iter().filter(|asked| theirs.contains(asked));
        let both: Vec<String> = both.cloned().collect();
        if both.is_empty() {
            return Ok(None);
        }
        let user = &status["user"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let extra = user["extra"].as_object().into_iter().flatten();
        Ok(Some(Recognized {
            user: UserInfo {
                name: text(&user["username"]),
                uid: text(&user["uid"]),
                groups: list(&user["groups"]),
                extra: extra
                    .map(|(key, values)| (key.clone(), list(values)))
                    .collect(),
            },
            audiences: both,
        }))
    }
}

/// Asks, and again after a pause where the webhook may answer soon.
pub(crate) async fn post(
    client: &Client,
    clock: &SharedClock,
    review: &Value,
    timeout: Duration,
) -> Result<Value, CallError> {
    post_again_after(FIRST_PAUSE, client, clock, review, timeout).await
}

/// The same with the first pause.
pub(crate) async fn post_again_after(
    mut pause: Duration,
    client: &Client,
    clock: &SharedClock,
    review: &Value,
    timeout: Duration,
) -> Result<Value, CallError> {
    for _ in 1..ATTEMPTS {
        match client.post(review, timeout, LIMIT).await {
            Err(error) if error.is_transient() => {
                clock.sleep(pause).await;
                pause = pause * 3 / 2;
            }
            outcome => return outcome,
        }
    }
    client.post(review, timeout, LIMIT).await
}

#[async_trait]
impl TokenAuthenticator for WebhookTokens {
    async fn recognize(&self, token: &str, audiences: &[String]) -> Answer {
        let mut hash = Sha256::new();
        hash.update(token);
        for audience in audiences {
            hash.update([0]);
            hash.update(audience);
        }
        let key: [u8; 32] = hash.finalize().into();
        let now = self.clock.monotonic();
        if let Some((until, answer)) = self.answers.lock().get(&key)
            && now < *until
        {
            return answer.clone();
        }
        let answer = self.ask(token, audiences).await;
        // That it could not be asked is no answer.
        if answer.is_ok() && !self.ttl.is_zero() {
            let mut answers = self.answers.lock();
            if answers.len() >= KEPT {
                answers.retain(|_, (until, _)| now < *until);
            }
            if answers.len() >= KEPT {
                answers.clear();
            }
            answers.insert(key, (now + self.ttl, answer.clone()));
        }
        answer
    }
}
