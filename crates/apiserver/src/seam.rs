//! Where authentication, authorization and token signing plug into the server.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use skiff_api::ApiResult;

use crate::authn::request_header::Standing;
use crate::authn::x509::{self, Identity};
use crate::request::{Attributes, UserInfo};

/// The client's certificate chain as the TLS layer verified it, leaf first, and whom it names. It is a request extension,
/// one and the same for all requests of a connection.
#[derive(Clone, Debug)]
pub struct PeerCertificates(Arc<Peer>);

#[derive(Debug)]
struct Peer {
    chain: Vec<CertificateDer<'static>>,
    identity: OnceLock<Result<Option<Identity>, AuthnError>>,
    standing: OnceLock<Standing>,
}

impl PeerCertificates {
    /// Of a verified chain, leaf first.
    #[must_use]
    pub fn new(chain: Vec<CertificateDer<'static>>) -> Self {
        Self(Arc::new(Peer {
            chain,
            identity: OnceLock::new(),
            standing: OnceLock::new(),
        }))
    }

    /// The chain, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.0.chain
    }

    /// What the chain is good for; found out, by the function given, for the first request that asks.
    pub(crate) fn standing(
        &self,
        find: impl FnOnce(&[CertificateDer<'static>]) -> Standing,
    ) -> Standing {
        *self.0.standing.get_or_init(|| find(&self.0.chain))
    }

    /// Whom the leaf names; found out by the first request that asks.
    pub fn identity(&self) -> Result<Option<&Identity>, AuthnError> {
        let found = self
            .0
            .identity
            .get_or_init(|| x509::identity(&self.0.chain));
        found.as_ref().map(Option::as_ref).map_err(Clone::clone)
    }
}

/// What is found out about a request on its way, beside the decision: warnings for the client and annotations for the
/// audit log. It is a request extension; clones are the same notes.
#[derive(Clone, Debug, Default)]
pub struct Notes(Arc<Noted>);

/// What [`Notes`] hold.
#[derive(Debug, Default)]
pub struct Noted {
    /// Sent to the client as headers.
    pub warnings: Mutex<Vec<String>>,
    /// For the audit log; the first value of a key stays.
    pub annotations: Mutex<BTreeMap<String, String>>,
    /// The secret (namespace, name) with the request's token, when it does not say yet that it is used today.
    pub unmarked_secret: Mutex<Option<(String, String)>>,
}

impl std::ops::Deref for Notes {
    type Target = Noted;

    fn deref(&self) -> &Noted {
        &self.0
    }
}

impl Notes {
    /// Adds a warning, once.
    pub fn warn(&self, text: impl Into<String>) {
        let text = text.into();
        let mut warnings = self.warnings.lock();
        if !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// Adds an annotation.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        let mut annotations = self.annotations.lock();
        annotations
            .entry(key.into())
            .or_insert_with(|| value.into());
    }
}

/// Credentials were given and are not good; the client gets 401.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct AuthnError(pub String);

/// Finds out who makes a request.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// The user; `None` when the request carries no credentials of this authenticator's kind. Whether a request that nobody
    /// knows is anonymous or refused is the authenticator's decision too: `None` from the last one gives 401.
    async fn authenticate(
        &self,
        parts: &http::request::Parts,
        tls: Option<&PeerCertificates>,
    ) -> Result<Option<Arc<UserInfo>>, AuthnError>;

    /// The names that this API server is meant by in tokens.
    fn audiences(&self) -> Vec<String> {
        Vec::new()
    }

    /// Judges a bearer token for TokenReview. Answers the user and the audiences it is good for.
    async fn review_token(
        &self,
        _token: &str,
        _audiences: &[String],
    ) -> Result<Option<(UserInfo, Vec<String>)>, AuthnError> {
        Ok(None)
    }
}

/// An authorizer's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Allowed, and why.
    Allow(String),
    /// Refused; no other authorizer is asked.
    Deny(String),
    /// Not known to this authorizer; refused when nobody allows. The text tells why, often empty.
    NoOpinion(String),
}

impl Decision {
    /// Whether it allows.
    #[must_use]
    pub fn allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }
    /// The reason, possibly empty.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::Allow(reason) | Self::Deny(reason) | Self::NoOpinion(reason) => reason,
        }
    }
}

/// What a user may do with resources in a namespace, for SelfSubjectRulesReview.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceRule {
    /// The verbs.
    pub verbs: Vec<String>,
    /// The API groups.
    pub api_groups: Vec<String>,
    /// The resources.
    pub resources: Vec<String>,
    /// Names; empty for all.
    pub resource_names: Vec<String>,
}

/// What a user may do with other paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NonResourceRule {
    /// The verbs.
    pub verbs: Vec<String>,
    /// The paths, possibly ending with `*`.
    pub paths: Vec<String>,
}

/// All that a user may do in a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// On resources.
    pub resources: Vec<ResourceRule>,
    /// On other paths.
    pub non_resources: Vec<NonResourceRule>,
    /// Whether an authorizer cannot list its rules.
    pub incomplete: bool,
    /// What went wrong while listing; empty for nothing.
    pub error: String,
}

/// Decides who may do what.
#[async_trait]
pub trait Authorizer: Send + Sync + 'static {
    /// The decision on one request.
    async fn authorize(&self, attributes: &Attributes) -> Decision;
    /// All that `user` may do in `namespace`.
    async fn rules(&self, _user: &UserInfo, _namespace: &str) -> Rules {
        Rules {
            incomplete: true,
            ..Rules::default()
        }
    }
}

/// The authorizer of a server that was given none: the group `system:masters` may do everything, nobody else
/// anything.
#[derive(Debug, Default)]
pub struct MastersOnly;

#[async_trait]
impl Authorizer for MastersOnly {
    async fn authorize(&self, attributes: &Attributes) -> Decision {
        if attributes.user.in_group("system:masters") {
            Decision::Allow(String::new())
        } else {
            Decision::NoOpinion(String::new())
        }
    }
}

/// What a service account's token shall say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRequestParams {
    /// The service account's namespace.
    pub namespace: String,
    /// The service account's name.
    pub service_account: String,
    /// The service account's uid.
    pub service_account_uid: String,
    /// Who the token is for; empty means the API server's own audience.
    pub audiences: Vec<String>,
    /// How long it shall be good for.
    pub expiration: Duration,
    /// The object the token dies with, (kind, name, uid): a Pod, Secret or Node.
    pub bound_object: Option<(String, String, String)>,
    /// The node of a bound pod: (name, uid).
    pub node: Option<(String, String)>,
}

/// A signed token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedToken {
    /// The JWT.
    pub token: String,
    /// When it expires.
    pub expires: SystemTime,
    /// Who it is for.
    pub audiences: Vec<String>,
}

/// Signs service-account tokens.
#[async_trait]
pub trait TokenIssuer: Send + Sync + 'static {
    /// Signs a token.
    async fn issue(&self, request: &TokenRequestParams) -> ApiResult<IssuedToken>;

    /// The longest life of a token that is asked for; `None`: as long as is asked.
    fn max_expiration(&self) -> Option<Duration> {
        None
    }

    /// The public keys, for `/openid/v1/jwks`; `None`: they are not served.
    fn key_set(&self) -> Option<serde_json::Value> {
        None
    }

    /// What `/.well-known/openid-configuration` says; `None`: it is not served.
    fn openid_configuration(&self, _jwks_uri: &str) -> Option<serde_json::Value> {
        None
    }
}
