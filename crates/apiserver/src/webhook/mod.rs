//! The client for webhooks: JSON sent by POST over HTTPS to a URL or to a service, and the answer read.
//!
//! Redirects are never followed, no identity of the server's own is shown (only what a kubeconfig file gives), a client
//! keeps its connections, and it goes with the configuration that it was made for.

use std::sync::{Arc, Weak};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use serde_json::Value;
use skiff_base::SharedClock;

use crate::server::ApiServer;

mod connector;
mod kubeconfig;
mod response;
mod tls;

pub use kubeconfig::KubeconfigError;
pub use response::CallError;
pub(crate) use tls::{Trust, check_bundle, client as tls_client};

use connector::Connector;

/// How long an idle connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Idle connections of one client, as many as upstream keeps.
const IDLE_CONNECTIONS: usize = 25;
/// What an answer may be long: two objects of the largest size, in base64, and some.
pub(crate) const ANSWER_LIMIT: usize = 16 << 20;
/// What the answer of a conversion may be long: it holds many objects.
pub(crate) const CONVERSION_LIMIT: usize = 256 << 20;
/// How long a conversion may take, as upstream.
pub(crate) const CONVERSION_TIMEOUT: Duration = Duration::from_secs(30);

/// Where a webhook is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// `https://host[:port]/path`.
    Url(String),
    /// A service of the cluster.
    Service {
        namespace: String,
        name: String,
        port: u16,
        path: String,
    },
}

/// What a client is made from; equal configurations share a client.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClientConfig {
    pub target: Target,
    /// PEM; empty: the system's authorities are trusted.
    pub ca_bundle: Vec<u8>,
}

impl ClientConfig {
    /// From the parts that all kinds of webhook configuration have; one of `url` and `service` (namespace, name, port, path)
    /// must be there.
    pub fn new(
        url: Option<&str>,
        service: Option<(&str, &str, Option<i32>, Option<&str>)>,
        ca_bundle: &[u8],
    ) -> Result<Self, String> {
        let target = match (service, url) {
            (Some((namespace, name, port, path)), _) => Target::Service {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                port: u16::try_from(port.unwrap_or(443))
                    .map_err(|_| "port is not valid".to_owned())?,
                path: path.unwrap_or_default().to_owned(),
            },
            (None, Some(url)) => Target::Url(url.to_owned()),
            (None, None) => {
                return Err("webhook configuration must have either service or URL".to_owned());
            }
        };
        Ok(Self {
            target,
            ca_bundle: ca_bundle.to_vec(),
        })
    }
}

type HttpClient = hyper_util::client::legacy::Client<Connector, Body>;

/// What a request shows beside its content.
#[derive(Clone, Default)]
struct Credentials {
    authorization: Option<HeaderValue>,
    /// Read again for every request: such tokens are renewed.
    token_file: Option<std::path::PathBuf>,
}

/// A client for one webhook, with its connections.
pub struct Client {
    http: HttpClient,
    /// Scheme, authority and path, without query.
    url: String,
    credentials: Credentials,
    clock: SharedClock,
}

impl Client {
    /// A client for a webhook's configuration. Services are looked up in `server`'s caches when a connection is made.
    pub(crate) fn new(server: &Arc<ApiServer>, config: &ClientConfig) -> Result<Self, String> {
        let trust = Trust::of(&config.ca_bundle);
        let tls = tls::client(&trust, None)?;
        let (url, connector) = match &config.target {
            Target::Url(text) => {
                let url =
                    url::Url::parse(text).map_err(|error| format!("Unparsable URL: {error}"))?;
                if url.scheme() != "https" {
                    return Err("'https' is the only allowed URL scheme".to_owned());
                }
                (plain(&url), Connector::to_url(&url, Some(tls), None)?)
            }
            Target::Service {
                namespace,
                name,
                port,
                path,
            } => (
                format!(
                    "https://{name}.{namespace}.svc:{port}/{}",
                    path.trim_start_matches('/')
                ),
                Connector::to_service(Arc::downgrade(server), (namespace, name, *port), tls)?,
            ),
        };
        Ok(Self::with(
            connector,
            url,
            Credentials::default(),
            server.clock.clone(),
        ))
    }

    /// A client that reads from one URL, the query included: keys of an issuer of tokens, and what describes them.
    pub(crate) fn of_url(text: &str, ca_bundle: &[u8], clock: SharedClock) -> Result<Self, String> {
        let url = url::Url::parse(text).map_err(|error| format!("Unparsable URL: {error}"))?;
        if url.scheme() != "https" {
            return Err("'https' is the only allowed URL scheme".to_owned());
        }
        let tls = tls::client(&Trust::of(ca_bundle), None)?;
        let connector = Connector::to_url(&url, Some(tls), None)?;
        Ok(Self::with(
            connector,
            url.to_string(),
            Credentials::default(),
            clock,
        ))
    }

    /// GETs the client's URL. A redirect is an error, as with all requests.
    pub(crate) async fn get(&self, timeout: Duration, limit: usize) -> Result<Bytes, CallError> {
        let request = Request::get(&self.url)
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, "kube-apiserver")
            .body(Body::empty())
            .map_err(|error| CallError::Transport(error.to_string()))?;
        let exchange = async {
            let (parts, body) = self.send(request).await?.into_parts();
            let body = http_body_util::Limited::new(body, limit).collect().await;
            let bytes = body.map_err(|error| CallError::Undecodable(error.to_string()))?;
            response::judge(&parts, bytes.to_bytes())
        };
        let outcome = tokio::select! {
            outcome = exchange => outcome,
            () = self.clock.sleep(timeout) => Err(CallError::timeout()),
        };
        outcome.map_err(|error| error.on("Get", &self.url))
    }

    /// A client for a service whose TLS is settled elsewhere: paths are given with each request.
    pub(crate) fn to_service(
        server: &Arc<ApiServer>,
        service: (&str, &str, u16),
        tls: Arc<rustls::ClientConfig>,
    ) -> Result<Self, String> {
        let (namespace, name, port) = service;
        let connector = Connector::to_service(Arc::downgrade(server), service, tls)?;
        let url = format!("https://{name}.{namespace}.svc:{port}");
        Ok(Self::with(
            connector,
            url,
            Credentials::default(),
            server.clock.clone(),
        ))
    }

    fn with(
        connector: Connector,
        url: String,
        credentials: Credentials,
        clock: SharedClock,
    ) -> Self {
        let executor = hyper_util::rt::TokioExecutor::new();
        let http = hyper_util::client::legacy::Client::builder(executor)
            .pool_timer(hyper_util::rt::TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(connector);
        Self {
            http,
            url,
            credentials,
            clock,
        }
    }

    /// Scheme and authority, and the path of the configuration.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Sends a request as it is; its URI is completed by the caller with [`Client::url`]. No answer is followed anywhere.
    pub(crate) async fn send(
        &self,
        request: Request<Body>,
    ) -> Result<Response<hyper::body::Incoming>, CallError> {
        self.http
            .request(request)
            .await
            .map_err(|error| CallError::transport(&error))
    }

    /// POSTs JSON and reads JSON. `timeout` goes to the webhook as a query parameter; it bounds the whole exchange. An answer
    /// of more than `limit` bytes is an error.
    pub async fn post(
        &self,
        body: &Value,
        timeout: Duration,
        limit: usize,
    ) -> Result<Value, CallError> {
        let bytes = self
            .post_bytes(
                serde_json::to_vec(body).unwrap_or_default().into(),
                timeout,
                limit,
            )
            .await?;
        serde_json::from_slice(&bytes).map_err(|error| CallError::Undecodable(error.to_string()))
    }

    /// As [`Client::post`], with the JSON as bytes.
    pub async fn post_bytes(
        &self,
        body: Bytes,
        timeout: Duration,
        limit: usize,
    ) -> Result<Bytes, CallError> {
        let seconds = timeout.as_secs() + u64::from(timeout.subsec_nanos() > 0);
        let url = format!("{}?timeout={seconds}s", self.url);
        let exchange = self.exchange(&url, body, limit);
        let outcome = tokio::select! {
            outcome = exchange => outcome,
            () = self.clock.sleep(timeout) => Err(CallError::timeout()),
        };
        outcome.map_err(|error| error.on("Post", &url))
    }

    async fn exchange(&self, url: &str, body: Bytes, limit: usize) -> Result<Bytes, CallError> {
        let mut again = true;
        let response = loop {
            let request = self.request(url, body.clone()).await?;
            match self.http.request(request).await {
                Ok(response) => break response,
                // The webhook closed an idle connection just when we used it.
                Err(error) if again && response::was_closed(&error) => again = false,
                Err(error) => return Err(CallError::transport(&error)),
            }
        };
        let (parts, body) = response.into_parts();
        let bytes = match http_body_util::Limited::new(body, limit).collect().await {
            Ok(bytes) => bytes.to_bytes(),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                return Err(CallError::Undecodable(format!(
                    "the answer is longer than {limit} bytes"
                )));
            }
            Err(error) => {
                return Err(CallError::Undecodable(format!(
                    "unexpected error when reading response body. Please retry. Original error: {error}"
                )));
            }
        };
        response::judge(&parts, bytes)
    }

    async fn request(&self, url: &str, body: Bytes) -> Result<Request<Body>, CallError> {
        let mut request = Request::post(url)
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, */*")
            .header(USER_AGENT, "kube-apiserver-admission")
            .body(Body::from(body))
            .map_err(|error| CallError::Transport(error.to_string()))?;
        let authorization = match &self.credentials.token_file {
            Some(path) => Some(
                kubeconfig::bearer_from(path)
                    .await
                    .map_err(CallError::Transport)?,
            ),
            None => self.credentials.authorization.clone(),
        };
        if let Some(authorization) = authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization);
        }
        Ok(request)
    }
}

/// A URL without query and fragment.
fn plain(url: &url::Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// Sends a `ConversionReview` to a conversion webhook and hands back its answer, not looked into.
pub(crate) async fn convert(client: &Client, review: &Value) -> Result<Value, CallError> {
    client
        .post(review, CONVERSION_TIMEOUT, CONVERSION_LIMIT)
        .await
}

/// The server that a client looks services up in; clients do not keep it alive.
pub(crate) type ServerRef = Weak<ApiServer>;

#[cfg(test)]
mod tests;
