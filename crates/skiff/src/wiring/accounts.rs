//! Clients for controllers that run away from the API server: each asks for tokens of a service account of its own.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use kube::client::Body;
use skiff_base::SharedClock;
use skiff_controllers::ClientFactory;
use tokio::sync::Mutex;

const NAMESPACE: &str = "kube-system";
/// How long a token is good for.
const LIFE: Duration = Duration::from_secs(3600);
/// How long it is used.
const USE: Duration = Duration::from_secs(2700);

/// One controller's account.
struct Account {
    name: String,
    accounts: Api<ServiceAccount>,
    clock: SharedClock,
    /// The token and until when it is used.
    token: Mutex<Option<(HeaderValue, Duration)>>,
}

/// Clients by controller name. `manager` may make service accounts of kube-system and their tokens; `target` is the server.
pub fn clients(
    target: &kube::Config,
    manager: &kube::Client,
    clock: &SharedClock,
) -> Result<ClientFactory> {
    let mut nobody = target.clone();
    nobody.auth_info = kube::config::AuthInfo::default();
    // All of them share the connections of this one.
    let shared = kube::Client::try_from(nobody)?;
    let (manager, clock) = (manager.clone(), clock.clone());
    Ok(Arc::new(move |name| {
        let account = Arc::new(Account {
            name: name.to_owned(),
            accounts: Api::namespaced(manager.clone(), NAMESPACE),
            clock: clock.clone(),
            token: Mutex::new(None),
        });
        let shared = shared.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (account, shared) = (account.clone(), shared.clone());
            async move { account.send(&shared, request).await }
        });
        kube::Client::new(service, "default")
    }))
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Account {
    async fn send(
        &self,
        shared: &kube::Client,
        mut request: Request<Body>,
    ) -> Result<http::Response<Body>, BoxError> {
        let token = self.token().await?;
        request.headers_mut().insert(AUTHORIZATION, token);
        let response = shared.send(request).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            // The account was made anew, or the server's key was.
            *self.token.lock().await = None;
        }
        Ok(response)
    }

    async fn token(&self) -> Result<HeaderValue> {
        let mut held = self.token.lock().await;
        let now = self.clock.monotonic();
        if let Some((token, until)) = &*held
            && now < *until
        {
            return Ok(token.clone());
        }
        let token = self.request().await;
        let token =
            token.with_context(|| format!("asking for a token of {NAMESPACE}/{}", self.name))?;
        let mut header = HeaderValue::try_from(format!("Bearer {token}"))?;
        header.set_sensitive(true);
        *held = Some((header.clone(), now + USE));
        Ok(header)
    }

    async fn request(&self) -> Result<String> {
        let wanted = TokenRequest {
            spec: Some(TokenRequestSpec {
                expiration_seconds: Some(i64::try_from(LIFE.as_secs())?),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let parameters = PostParams::default();
        let ask = || {
            self.accounts
                .create_token_request(&self.name, &parameters, &wanted)
        };
        let answer = match ask().await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let mut account = ServiceAccount::default();
                account.metadata.name = Some(self.name.clone());
                match self.accounts.create(&parameters, &account).await {
                    // Another request was quicker.
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    made => drop(made?),
                }
                ask().await?
            }
            answer => answer?,
        };
        let token = answer.status.and_then(|status| status.token);
        token.context("an answer without a token")
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicU32, Ordering};

    use http::Response;
    use serde_json::json;
    use skiff_base::SimulatedClock;

    use super::*;

    /// A server that has no accounts at first and counts the tokens that it gave.
    #[derive(Default)]
    struct Server {
        accounts: AtomicU32,
        tokens: AtomicU32,
    }

    impl Server {
        fn answer(&self, path: &str) -> Response<Body> {
            let answer = |code: u16, value: serde_json::Value| {
                let body = Body::from(value.to_string().into_bytes());
                Response::builder().status(code).body(body).unwrap()
            };
            let missing = self.accounts.load(Ordering::SeqCst) == 0;
            if !path.ends_with("/token") {
                self.accounts.fetch_add(1, Ordering::SeqCst);
                return answer(201, json!({"metadata": {"name": "x"}}));
            }
            if missing {
                let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404});
                return answer(404, status);
            }
            let number = self.tokens.fetch_add(1, Ordering::SeqCst);
            let status = json!({"token": format!("t{number}"), "expirationTimestamp": "2026-01-01T00:00:00Z"});
            answer(
                201,
                json!({"metadata": {}, "spec": {"audiences": []}, "status": status}),
            )
        }
    }

    #[tokio::test]
    async fn an_account_is_made_once_and_its_token_is_used_for_a_while() {
        let server = Arc::new(Server::default());
        let behind = server.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let answer = behind.answer(request.uri().path());
            async move { Ok::<_, Infallible>(answer) }
        });
        let clock = SimulatedClock::new(std::time::SystemTime::UNIX_EPOCH);
        let account = Account {
            name: "x-controller".into(),
            accounts: Api::namespaced(kube::Client::new(service, "default"), NAMESPACE),
            clock: clock.clone(),
            token: Mutex::new(None),
        };
        for _ in 0..3 {
            assert_eq!(account.token().await.unwrap(), "Bearer t0");
        }
        clock.advance(USE);
        assert_eq!(account.token().await.unwrap(), "Bearer t1");
        assert_eq!(server.accounts.load(Ordering::SeqCst), 1);
    }
}
