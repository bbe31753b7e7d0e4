//! Who makes a request: front proxies' headers, client certificates, bearer tokens of several kinds, else anonymous.

pub mod bootstrap_token;
pub mod claims;
pub mod configuration;
pub(crate) mod expression;
pub(crate) mod impersonation;
mod issuer_keys;
mod keys;
pub(crate) mod legacy_tracking;
pub mod oidc;
pub mod reload;
pub mod request_header;
pub mod token_file;
pub mod tokens;
pub(crate) mod used_secret;
pub mod webhook;
pub mod x509;

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::header::AUTHORIZATION;
use http::request::Parts;
use skiff_base::SharedClock;
use skiff_store::Store;

use crate::request::UserInfo;
use crate::seam::{Authenticator, AuthnError, Notes, PeerCertificates};

pub use request_header::{RequestHeader, RequestHeaderSettings};
pub use token_file::TokenFile;
pub use tokens::{TokenError, TokenSettings, Tokens};

/// What a good token says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recognized {
    /// Whose it is.
    pub user: UserInfo,
    /// Of the audiences that were asked about, those that it is for.
    pub audiences: Vec<String>,
}

/// Knows bearer tokens of one kind.
#[async_trait]
pub trait TokenAuthenticator: Send + Sync + 'static {
    /// Whose token it is; `None`: not one of this kind. `audiences`: who asks; a token must be for one of them.
    async fn recognize(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<Recognized>, AuthnError>;
}

/// Who may come without credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anonymous {
    /// Whether anybody may.
    pub enabled: bool,
    /// The paths that they may ask for; empty: all.
    pub paths: Vec<String>,
}

impl Anonymous {
    fn allows(&self, path: &str) -> bool {
        self.enabled && (self.paths.is_empty() || self.paths.iter().any(|allowed| allowed == path))
    }
}

/// What may change while the server runs.
struct Dynamic {
    anonymous: Anonymous,
    /// Asked after the built-in ones, in order.
    further: Vec<Arc<dyn TokenAuthenticator>>,
}

/// Every authenticator, in upstream's order: front proxies, certificate, tokens, anonymous.
pub struct Authentication {
    tokens: Arc<Tokens>,
    token_file: Option<TokenFile>,
    front_proxies: Option<RequestHeader>,
    store: Arc<dyn Store>,
    clock: SharedClock,
    dynamic: ArcSwap<Dynamic>,
}

impl Authentication {
    /// The built-in authenticators. `anonymous`: whether requests without credentials are `system:anonymous` (RBAC then
    /// decides) rather than refused.
    #[must_use]
    pub fn new(
        tokens: Arc<Tokens>,
        store: Arc<dyn Store>,
        clock: SharedClock,
        anonymous: bool,
    ) -> Self {
        let dynamic = Dynamic {
            anonymous: Anonymous {
                enabled: anonymous,
                paths: Vec::new(),
            },
            further: Vec::new(),
        };
        Self {
            tokens,
            token_file: None,
            front_proxies: None,
            store,
            clock,
            dynamic: ArcSwap::from_pointee(dynamic),
        }
    }

    /// Believes the tokens of a file, too.
    #[must_use]
    pub fn with_token_file(mut self, file: TokenFile) -> Self {
        self.token_file = Some(file);
        self
    }

    /// Believes front proxies about users, too.
    #[must_use]
    pub fn with_front_proxies(mut self, proxies: RequestHeader) -> Self {
        self.front_proxies = Some(proxies);
        self
    }

    /// The user of a connection's certificate: its own, or whom a front proxy speaks for.
    fn certificate_user(
        &self,
        peer: &PeerCertificates,
        headers: &http::HeaderMap,
    ) -> Result<Option<Arc<UserInfo>>, AuthnError> {
        let now = tokens::seconds(self.clock.now());
        let mut refused = None;
        if let Some(proxies) = &self.front_proxies {
            let standing = proxies.standing(peer, now);
            if standing.front_proxy {
                match proxies.user(peer, headers, now) {
                    Ok(Some(user)) => return Ok(Some(user)),
                    Ok(None) => {}
                    Err(error) => refused = Some(error),
                }
            }
            if !standing.user {
                // A front proxy is nobody itself, whatever its certificate says.
                return refused.map_or(Ok(None), Err);
            }
        }
        match peer.identity()?.map(|identity| identity.user(now)) {
            Some(user) => user.map(Some),
            None => refused.map_or(Ok(None), Err),
        }
    }

    /// Replaces who may come without credentials, and the authenticators that are asked after the built-in ones.
    pub fn set_dynamic(&self, anonymous: Anonymous, further: Vec<Arc<dyn TokenAuthenticator>>) {
        self.dynamic.store(Arc::new(Dynamic { anonymous, further }));
    }

    /// Whose token it is. What one kind of authenticator has against a token counts only when no other knows it.
    async fn token_user(
        &self,
        token: &str,
        audiences: &[String],
        notes: Option<&Notes>,
    ) -> Result<Option<Recognized>, AuthnError> {
        // Kinds of token that know no audience are for this server.
        let ours = self.tokens.audiences();
        let ours: Vec<String> = audiences
            .iter()
            .filter(|audience| ours.contains(audience))
            .cloned()
            .collect();
        let plain = |user| Recognized {
            user,
            audiences: ours.clone(),
        };
        if let Some(user) = self.token_file.as_ref().and_then(|file| file.user(token))
            && !ours.is_empty()
        {
            return Ok(Some(plain(user)));
        }
        let mut failures = Vec::new();
        match self.tokens.verify(token, audiences).await {
            Ok(verified) => {
                if let Some(notes) = notes {
                    note(notes, &verified);
                }
                return Ok(Some(Recognized {
                    user: verified.user,
                    audiences: verified.audiences,
                }));
            }
            Err(TokenError::Foreign) => {}
            Err(error) => failures.push(error.to_string()),
        }
        if !ours.is_empty()
            && let Some(user) = bootstrap_token::user(token, &*self.store, &self.clock).await
        {
            return Ok(Some(plain(user)));
        }
        let dynamic = self.dynamic.load_full();
        for authenticator in &dynamic.further {
            match authenticator.recognize(token, audiences).await {
                Ok(Some(recognized)) => return Ok(Some(recognized)),
                Ok(None) => {}
                Err(error) => failures.push(error.0),
            }
        }
        match failures.as_slice() {
            [] => Ok(None),
            [only] => Err(AuthnError(only.clone())),
            several => Err(AuthnError(format!("[{}]", several.join(", ")))),
        }
    }
}

fn note(notes: &Notes, verified: &tokens::Verified) {
    for (key, value) in &verified.annotations {
        notes.annotate(*key, value.clone());
    }
    for warning in &verified.warnings {
        notes.warn(warning.clone());
    }
    if let Some(secret) = &verified.unmarked {
        *notes.unmarked_secret.lock() = Some(secret.clone());
    }
}

fn bearer(parts: &Parts) -> Option<String> {
    if let Some(value) = parts.headers.get(AUTHORIZATION) {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        return scheme
            .eq_ignore_ascii_case("bearer")
            .then(|| token.trim().to_owned())
            .filter(|token| !token.is_empty());
    }
    // Browsers cannot set headers on WebSockets: the token comes as a subprotocol.
    let protocols = parts
        .headers
        .get_all(http::header::SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let encoded = protocols
        .flat_map(|value| value.split(','))
        .find_map(|name| {
            name.trim()
                .strip_prefix("base64url.bearer.authorization.k8s.io.")
        })?;
    let bytes =
        base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, encoded).ok()?;
    String::from_utf8(bytes)
        .ok()
        .filter(|token| !token.is_empty())
}

/// Everyone whose identity was proved is in this group.
fn authenticated(mut user: UserInfo) -> UserInfo {
    if user.name != "system:anonymous" && !user.in_group("system:authenticated") {
        user.groups.push("system:authenticated".to_owned());
    }
    user
}

#[async_trait]
impl Authenticator for Authentication {
    async fn authenticate(
        &self,
        parts: &Parts,
        tls: Option<&PeerCertificates>,
    ) -> Result<Option<Arc<UserInfo>>, AuthnError> {
        let mut refused = None;
        if let Some(peer) = tls {
            match self.certificate_user(peer, &parts.headers) {
                Ok(Some(user)) => return Ok(Some(user)),
                Ok(None) => {}
                Err(error) => refused = Some(error),
            }
        }
        if let Some(token) = bearer(parts) {
            let notes = parts.extensions.get::<Notes>();
            let found = self
                .token_user(&token, self.tokens.audiences(), notes)
                .await?;
            return match found {
                Some(found) => Ok(Some(Arc::new(authenticated(found.user)))),
                None => Err(AuthnError("invalid bearer token".to_owned())),
            };
        }
        if let Some(refused) = refused {
            return Err(refused);
        }
        let anonymous = self
            .dynamic
            .load()
            .anonymous
            .allows(parts.uri.path())
            .then(|| {
                Arc::new(UserInfo::new(
                    "system:anonymous",
                    &["system:unauthenticated"],
                ))
            });
        Ok(anonymous)
    }

    fn audiences(&self) -> Vec<String> {
        self.tokens.audiences().to_vec()
    }

    async fn review_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<(UserInfo, Vec<String>)>, AuthnError> {
        let audiences = if audiences.is_empty() {
            self.tokens.audiences()
        } else {
            audiences
        };
        let found = self.token_user(token, audiences, None).await?;
        Ok(found.map(|found| (authenticated(found.user), found.audiences)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_credentials_some_paths_may_be_open() {
        let anonymous = |enabled, paths: &[&str]| Anonymous {
            enabled,
            paths: paths.iter().map(ToString::to_string).collect(),
        };
        assert!(anonymous(true, &[]).allows("/api"));
        assert!(!anonymous(false, &[]).allows("/livez"));
        assert!(anonymous(true, &["/livez"]).allows("/livez"));
        assert!(!anonymous(true, &["/livez"]).allows("/livez/ping"));
    }
}
