//! Service-account tokens of pods, kept until they should be renewed.

use std::collections::HashMap;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Client;
use kube::api::{Api, PostParams};
use parking_lot::Mutex;
use skiff_base::{Random, SharedClock};

use crate::cluster::kube_cluster::cluster_error;
use crate::cluster::{ClusterError, GrantedToken, TokenWish};

/// A token is renewed after this part of its life, or after a day.
const RENEW_AT: f64 = 0.8;
const RENEW_AFTER: Duration = Duration::from_secs(24 * 3600);
/// Renewals are spread over this long.
const SPREAD: f64 = 10.0;

/// Asks for tokens and remembers them.
pub struct Tokens {
    client: Client,
    clock: SharedClock,
    random: Random,
    known: Mutex<HashMap<TokenWish, Known>>,
}

struct Known {
    token: String,
    renew_at: Duration,
}

impl Tokens {
    /// No tokens yet.
    #[must_use]
    pub fn new(client: Client, clock: SharedClock, random: Random) -> Self {
        Self {
            client,
            clock,
            random,
            known: Mutex::default(),
        }
    }

    /// A token that is good for a while.
    pub async fn get(&self, wish: &TokenWish) -> Result<GrantedToken, ClusterError> {
        let now = self.clock.monotonic();
        if let Some(known) = self.known.lock().get(wish)
            && known.renew_at > now
        {
            return Ok(GrantedToken {
                token: known.token.clone(),
                fresh_for: known.renew_at - now,
            });
        }
        let token = self.request(wish).await?;
        let life = u64::try_from(wish.seconds).unwrap_or(3600);
        let fresh_for = Duration::from_secs(life).mul_f64(RENEW_AT).min(RENEW_AFTER);
        let jitter = Duration::from_secs_f64(self.random.fraction() * SPREAD);
        let fresh_for = fresh_for.saturating_sub(jitter);
        let known = Known {
            token: token.clone(),
            renew_at: now + fresh_for,
        };
        self.known.lock().insert(wish.clone(), known);
        Ok(GrantedToken { token, fresh_for })
    }

    async fn request(&self, wish: &TokenWish) -> Result<String, ClusterError> {
        let body = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: wish.audience.clone().map(|audience| vec![audience]),
                expiration_seconds: Some(wish.seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(wish.pod_name.clone()),
                    uid: Some(wish.pod_uid.clone()),
                }),
            }),
            ..TokenRequest::default()
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &wish.namespace);
        let params = PostParams::default();
        let answer = accounts
            .create_token_request(&wish.account, &params, &body)
            .await
            .map_err(cluster_error)?;
        match answer.status.and_then(|status| status.token) {
            Some(token) => Ok(token),
            None => Err(ClusterError::Unavailable(
                "the token request has no status".into(),
            )),
        }
    }

    /// Forgets the tokens of a pod that is gone.
    pub fn forget(&self, pod_uid: &str) {
        self.known.lock().retain(|wish, _| wish.pod_uid != pod_uid);
    }
}
