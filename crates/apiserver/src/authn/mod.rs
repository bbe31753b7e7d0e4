//! Who makes a request: client certificates, service-account and bootstrap tokens, else anonymous.

pub mod bootstrap_token;
pub(crate) mod impersonation;
pub mod tokens;
pub mod x509;

use std::sync::Arc;

use async_trait::async_trait;
use http::header::AUTHORIZATION;
use http::request::Parts;
use skiff_base::SharedClock;
use skiff_store::Store;

use crate::request::UserInfo;
use crate::seam::{Authenticator, AuthnError, PeerCertificates};

pub use tokens::{TokenError, Tokens};

/// Every authenticator, in upstream's order: certificate, tokens, anonymous.
pub struct Authentication {
    tokens: Arc<Tokens>,
    store: Arc<dyn Store>,
    clock: SharedClock,
    /// Whether requests without credentials are `system:anonymous` (RBAC then decides) rather than refused.
    anonymous: bool,
}

impl Authentication {
    /// All built-in authenticators.
    #[must_use]
    pub fn new(
        tokens: Arc<Tokens>,
        store: Arc<dyn Store>,
        clock: SharedClock,
        anonymous: bool,
    ) -> Self {
        Self {
            tokens,
            store,
            clock,
            anonymous,
        }
    }

    async fn token_user(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<(UserInfo, Vec<String>)>, AuthnError> {
        match self.tokens.verify(token, audiences).await {
            Ok(verified) => return Ok(Some((verified.user, verified.audiences))),
            Err(TokenError::Foreign) => {}
            Err(error) => return Err(AuthnError(error.to_string())),
        }
        Ok(bootstrap_token::user(token, &*self.store, &self.clock)
            .await
            .map(|user| (user, audiences.to_vec())))
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
    ) -> Result<Option<UserInfo>, AuthnError> {
        if let Some(user) = tls.map(x509::user).transpose()?.flatten() {
            return Ok(Some(authenticated(user)));
        }
        if let Some(token) = bearer(parts) {
            let user = self.token_user(&token, self.tokens.audiences()).await?;
            return user
                .map(|(user, _)| Some(authenticated(user)))
                .ok_or_else(|| AuthnError("unknown token".to_owned()));
        }
        Ok(self
            .anonymous
            .then(|| UserInfo::new("system:anonymous", &["system:unauthenticated"])))
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
        let user = self.token_user(token, audiences).await?;
        Ok(user.map(|(user, audiences)| (authenticated(user), audiences)))
    }
}
