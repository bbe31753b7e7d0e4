//! Service-account tokens: JSON web tokens that the server signs, and checks against the objects they are bound to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use jsonwebtoken::{Header, Validation};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use skiff_base::SharedClock;
use skiff_store::Store;
use subtle::ConstantTimeEq as _;

pub use super::claims::{Bound, Reference};
use super::claims::{Claims, Legacy};
use super::keys::{SigningKey, VerifyingKey};

use crate::request::UserInfo;
use crate::seam::{IssuedToken, TokenIssuer, TokenRequestParams};

/// How much a client's idea of the time may differ; upstream's leeway.
const LEEWAY: Duration = Duration::from_secs(60);
/// Upstream's issuer of tokens in secrets is this constant, whatever the issuer of the others.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
/// The life that the kubelet asks for: tokens of this life are extended.
const EXTENDED: Duration = Duration::from_secs(3607);
/// How long they live then.
const EXTENSION: Duration = Duration::from_secs(365 * 24 * 3600);
/// How many tokens' signatures are remembered.
const REMEMBERED: usize = 8192;
/// The label of a secret that says when its token was used last.
pub(crate) const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";
const AUTO_GENERATED: &str = "Use tokens from the TokenRequest API or manually created secret-based tokens instead of auto-generated secret-based tokens.";

/// Why a token is refused; the text goes to the log and into token reviews, never the token.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    /// Not one of our tokens: another authenticator may know it.
    #[error("not a token of this issuer")]
    Foreign,
    /// Ours, but no good.
    #[error("{0}")]
    Invalid(String),
    /// The key is none that tokens are signed with, or signing failed.
    #[error("signing key: {0}")]
    Key(String),
}

fn invalid(message: impl Into<String>) -> TokenError {
    TokenError::Invalid(message.into())
}

/// What a good token says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verified {
    /// The service account as a user.
    pub user: UserInfo,
    /// The token's audiences, of those that were asked for.
    pub audiences: Vec<String>,
    /// What the audit log shall say of the token.
    pub annotations: Vec<(&'static str, String)>,
    /// What the client shall be told.
    pub warnings: Vec<String>,
    /// The secret (namespace, name) that holds the token and does not say yet that it is used today.
    pub unmarked: Option<(String, String)>,
}

/// How tokens are issued and which are believed.
#[derive(Clone, Debug, Default)]
pub struct TokenSettings {
    /// PEM of the private key that signs: RSA, P-256 or P-384.
    pub signing_key: String,
    /// PEM of further keys, public or private, whose tokens are believed.
    pub keys: Vec<String>,
    /// The issuers whose tokens are believed; the first is the one that issues.
    pub issuers: Vec<String>,
    /// The audiences of this API server; empty: the first issuer.
    pub audiences: Vec<String>,
    /// The longest life of a token that is asked for; zero: as long as is asked.
    pub max_expiration: Duration,
    /// Whether tokens of pods live on for a year when they are used after their time, with a note in the audit log.
    pub extend: bool,
    /// Where the keys are published; `None`: at this server's address.
    pub jwks_uri: Option<String>,
}

/// Signatures that were found good, by the hash of the token.
type Checked = HashMap<[u8; 32], Arc<Claims>>;

/// Issues and verifies tokens.
pub struct Tokens {
    issuers: Vec<String>,
    key: SigningKey,
    /// All keys that are believed, the signing one first.
    keys: Vec<VerifyingKey>,
    store: Arc<dyn Store>,
    clock: SharedClock,
    audiences: Vec<String>,
    max_expiration: Duration,
    extend: bool,
    jwks_uri: Option<String>,
    checked: Mutex<Checked>,
}

impl Tokens {
    /// `key`: a private key, PEM. `issuer` is also the default audience, as upstream has it.
    pub fn new(
        key: &str,
        issuer: &str,
        store: Arc<dyn Store>,
        clock: SharedClock,
    ) -> Result<Self, TokenError> {
        let settings = TokenSettings {
            signing_key: key.to_owned(),
            issuers: vec![issuer.to_owned()],
            extend: true,
            ..TokenSettings::default()
        };
        Self::with(&settings, store, clock)
    }

    /// With all settings.
    pub fn with(
        settings: &TokenSettings,
        store: Arc<dyn Store>,
        clock: SharedClock,
    ) -> Result<Self, TokenError> {
        let key = SigningKey::parse(&settings.signing_key)?;
        let mut keys = VerifyingKey::parse_all(&settings.signing_key)?;
        for pem in &settings.keys {
            for key in VerifyingKey::parse_all(pem)? {
                if keys.iter().all(|known| known.id != key.id) {
                    keys.push(key);
                }
            }
        }
        let audiences = match settings.audiences.is_empty() {
            true => settings.issuers.iter().take(1).cloned().collect(),
            false => settings.audiences.clone(),
        };
        Ok(Self {
            issuers: settings.issuers.clone(),
            key,
            keys,
            store,
            clock,
            audiences,
            max_expiration: settings.max_expiration,
            extend: settings.extend,
            jwks_uri: settings.jwks_uri.clone(),
            checked: Mutex::default(),
        })
    }

    /// The audiences of this API server.
    #[must_use]
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The issuers whose tokens are believed, the one that issues first.
    #[must_use]
    pub fn issuers(&self) -> &[String] {
        &self.issuers
    }

    /// Whether a token says that it is from one of our issuers; its signature is not looked at.
    #[must_use]
    pub fn issued(&self, token: &str) -> bool {
        let issuer = unverified_issuer(token);
        issuer.is_some_and(|issuer| issuer == LEGACY_ISSUER || self.issuers.contains(&issuer))
    }

    /// `/openid/v1/jwks`.
    #[must_use]
    pub fn key_set(&self) -> Value {
        let keys: Vec<&Value> = self.keys.iter().map(|key| &key.jwk).collect();
        json!({"keys": keys})
    }

    /// `/.well-known/openid-configuration`.
    #[must_use]
    pub fn openid_configuration(&self, jwks_uri: &str) -> Value {
        let algorithms: BTreeSet<String> = self
            .keys
            .iter()
            .map(|key| format!("{:?}", key.algorithm))
            .collect();
        let jwks_uri = self.jwks_uri.as_deref().unwrap_or(jwks_uri);
        json!({
            "issuer": self.issuers.first(), "jwks_uri": jwks_uri, "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": algorithms,
        })
    }

    fn sign(&self, claims: &Claims) -> Result<String, TokenError> {
        let header = Header {
            alg: self.key.public.algorithm,
            kid: Some(self.key.public.id.clone()),
            typ: None,
            ..Header::default()
        };
        jsonwebtoken::encode(&header, claims, &self.key.encoding)
            .map_err(|error| TokenError::Key(error.to_string()))
    }

    /// A token for a service account that lives for `life`; no audience means this API server.
    pub fn sign_bound(
        &self,
        bound: Bound,
        audiences: &[String],
        life: Duration,
    ) -> Result<String, TokenError> {
        let now = seconds(self.clock.now());
        let audiences = if audiences.is_empty() {
            &self.audiences
        } else {
            audiences
        };
        self.sign(&Claims {
            aud: audiences.to_vec(),
            exp: Some(now + i64::try_from(life.as_secs()).unwrap_or(i64::MAX / 2)),
            iat: Some(now),
            iss: self.issuers.first().cloned().unwrap_or_default(),
            jti: Some(uuid::Uuid::new_v4().to_string()),
            sub: format!(
                "system:serviceaccount:{}:{}",
                bound.namespace, bound.serviceaccount.name
            ),
            bound: Some(bound),
            nbf: Some(now),
            legacy: Legacy::default(),
        })
    }

    /// The token of a `kubernetes.io/service-account-token` secret; it lives as long as the secret.
    pub fn issue_for_secret(
        &self,
        namespace: &str,
        secret: &str,
        account: &Reference,
    ) -> Result<String, TokenError> {
        self.sign(&Claims {
            aud: Vec::new(),
            exp: None,
            iat: None,
            iss: LEGACY_ISSUER.to_owned(),
            jti: None,
            sub: format!("system:serviceaccount:{namespace}:{}", account.name),
            bound: None,
            nbf: None,
            legacy: Legacy {
                namespace: Some(namespace.to_owned()),
                secret: Some(secret.to_owned()),
                account: Some(account.name.clone()),
                uid: Some(account.uid.clone()),
            },
        })
    }

    /// Checks signature, times, audience (any of `audiences`) and the objects that the token is bound to.
    pub async fn verify(&self, token: &str, audiences: &[String]) -> Result<Verified, TokenError> {
        let claims = self.decode(token)?;
        let legacy = claims.iss == LEGACY_ISSUER;
        let mut verified = Verified::default();
        // Tokens in secrets carry no audience and are good for the API server.
        let carried = if claims.aud.is_empty() {
            let note = "authentication.k8s.io/legacy-token";
            verified.annotations.push((note, claims.sub.clone()));
            &self.audiences
        } else {
            &claims.aud
        };
        let wanted = carried
            .iter()
            .filter(|audience| audiences.contains(audience));
        verified.audiences = wanted.cloned().collect();
        if verified.audiences.is_empty() {
            return Err(invalid(format!(
                "token audiences {carried:?} is invalid for the target audiences {audiences:?}"
            )));
        }
        self.check_times(&claims)?;
        match (&claims.bound, legacy) {
            (Some(bound), false) => {
                verified.user = self.check_bound(bound, claims.jti.as_deref()).await?;
                self.note_staleness(&claims, bound, &mut verified);
            }
            (None, true) => self.check_secret(&claims, token, &mut verified).await?,
            _ => {
                return Err(invalid(
                    "service account token claims could not be validated",
                ));
            }
        }
        Ok(verified)
    }

    /// The claims of a token that was signed by a key of ours. What was found good once is remembered: only the signature
    /// is, everything else about a token may change.
    fn decode(&self, token: &str) -> Result<Arc<Claims>, TokenError> {
        if !self.issued(token) {
            return Err(TokenError::Foreign);
        }
        let hash: [u8; 32] = Sha256::digest(token).into();
        if let Some(claims) = self.checked.lock().get(&hash) {
            return Ok(claims.clone());
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Foreign)?;
        let named = |key: &&VerifyingKey| header.kid.as_ref() == Some(&key.id);
        let mut keys: Vec<&VerifyingKey> = self.keys.iter().filter(named).collect();
        if keys.is_empty() {
            // Without a name, or with one that was made in another way.
            keys = self.keys.iter().collect();
        }
        let claims = keys.into_iter().find_map(|key| {
            // Never the algorithm that the token names: the key has one.
            let mut validation = Validation::new(key.algorithm);
            // Times and audiences are checked below, against our own clock and with upstream's words.
            validation.validate_exp = false;
            validation.validate_nbf = false;
            validation.validate_aud = false;
            validation.required_spec_claims.clear();
            let decoded = jsonwebtoken::decode::<Claims>(token, &key.decoding, &validation);
            decoded.ok().map(|data| Arc::new(data.claims))
        });
        let claims = claims.ok_or_else(|| invalid("invalid signature"))?;
        let mut checked = self.checked.lock();
        if checked.len() >= REMEMBERED {
            checked.clear();
        }
        checked.insert(hash, claims.clone());
        Ok(claims)
    }

    fn note_staleness(&self, claims: &Claims, bound: &Bound, verified: &mut Verified) {
        let now = seconds(self.clock.now());
        if let Some(after) = bound.warnafter.filter(|after| *after != 0 && now > *after) {
            let text = format!(
                "subject: {}, seconds after warning threshold: {}",
                claims.sub,
                now - after
            );
            let note = "authentication.k8s.io/stale-token";
            verified.annotations.push((note, text));
        }
    }

    fn check_times(&self, claims: &Claims) -> Result<(), TokenError> {
        let now = seconds(self.clock.now());
        let leeway = i64::try_from(LEEWAY.as_secs()).unwrap_or(0);
        if claims.exp.is_some_and(|at| now - leeway > at) {
            return Err(invalid("service account token has expired"));
        }
        if claims.nbf.is_some_and(|at| now + leeway < at) {
            return Err(invalid("service account token is not valid yet"));
        }
        if claims.iat.is_some_and(|at| now + leeway < at) {
            return Err(invalid("service account token is issued in the future"));
        }
        Ok(())
    }

    async fn metadata(&self, key: &str) -> Option<Stored> {
        let found = self.store.get(key, None).await.ok().flatten()?;
        serde_json::from_slice(&found.value).ok()
    }

    async fn check_object(
        &self,
        key: &str,
        what: &str,
        claim: &str,
        reference: &Reference,
    ) -> Result<(), TokenError> {
        let gone = || invalid("service account token has been invalidated");
        let metadata = self.metadata(key).await.ok_or_else(gone)?.metadata;
        if metadata.uid != reference.uid {
            return Err(invalid(format!(
                "{what} UID ({}) does not match service account {claim} ref claim ({})",
                metadata.uid, reference.uid
            )));
        }
        if self.is_gone(&metadata) {
            return Err(gone());
        }
        Ok(())
    }

    async fn check_account(&self, namespace: &str, account: &Reference) -> Result<(), TokenError> {
        let key = format!("/registry/serviceaccounts/{namespace}/{}", account.name);
        let Some(found) = self.metadata(&key).await else {
            return Err(invalid(format!(
                "serviceaccounts {:?} not found",
                account.name
            )));
        };
        if found.metadata.uid != account.uid {
            return Err(invalid(format!(
                "service account UID ({}) does not match claim ({})",
                found.metadata.uid, account.uid
            )));
        }
        if self.is_gone(&found.metadata) {
            return Err(invalid(format!(
                "service account {namespace}/{} has been deleted",
                account.name
            )));
        }
        Ok(())
    }

    /// Whether an object was deleted longer ago than clocks may differ.
    fn is_gone(&self, metadata: &StoredMetadata) -> bool {
        let deleted = metadata.deletion_timestamp.as_deref();
        let deleted = deleted.and_then(|at| at.parse::<jiff::Timestamp>().ok());
        deleted.is_some_and(|at| at.as_second() < seconds(self.clock.now() - LEEWAY))
    }

    async fn check_bound(&self, bound: &Bound, id: Option<&str>) -> Result<UserInfo, TokenError> {
        let namespace = &bound.namespace;
        self.check_account(namespace, &bound.serviceaccount).await?;
        let mut extra: Vec<(&str, String)> = Vec::new();
        if let Some(secret) = &bound.secret {
            self.check_object(
                &format!("/registry/secrets/{namespace}/{}", secret.name),
                "secret",
                "secret",
                secret,
            )
            .await?;
        }
        if let Some(pod) = &bound.pod {
            self.check_object(
                &format!("/registry/pods/{namespace}/{}", pod.name),
                "pod",
                "pod",
                pod,
            )
            .await?;
            extra.push(("authentication.kubernetes.io/pod-name", pod.name.clone()));
            extra.push(("authentication.kubernetes.io/pod-uid", pod.uid.clone()));
        }
        if let Some(node) = &bound.node {
            if bound.pod.is_none() {
                self.check_object(
                    &format!("/registry/minions/{}", node.name),
                    "node",
                    "node",
                    node,
                )
                .await?;
            }
            extra.push(("authentication.kubernetes.io/node-name", node.name.clone()));
            extra.push(("authentication.kubernetes.io/node-uid", node.uid.clone()));
        }
        if let Some(id) = id {
            extra.push((
                "authentication.kubernetes.io/credential-id",
                format!("JTI={id}"),
            ));
        }
        Ok(account_user(namespace, &bound.serviceaccount, extra))
    }

    async fn check_secret(
        &self,
        claims: &Claims,
        token: &str,
        verified: &mut Verified,
    ) -> Result<(), TokenError> {
        let claim = |value: &Option<String>, name: &str| {
            let value = value.clone().filter(|value| !value.is_empty());
            value.ok_or_else(|| invalid(format!("{name} claim is missing")))
        };
        let legacy = &claims.legacy;
        let namespace = claim(&legacy.namespace, "namespace")?;
        let secret = claim(&legacy.secret, "secretName")?;
        let account = Reference {
            name: claim(&legacy.account, "serviceAccountName")?,
            uid: claim(&legacy.uid, "serviceAccountUID")?,
        };
        if claims.sub != format!("system:serviceaccount:{namespace}:{}", account.name) {
            return Err(invalid("sub claim is invalid"));
        }
        let key = format!("/registry/secrets/{namespace}/{secret}");
        let found = self.metadata(&key).await;
        let found = found
            .filter(|found| found.metadata.deletion_timestamp.is_none())
            .ok_or_else(|| invalid("Token has been invalidated"))?;
        let stored = found.data.and_then(|data| {
            base64::engine::general_purpose::STANDARD
                .decode(data.token?)
                .ok()
        });
        if !bool::from(stored.unwrap_or_default().ct_eq(token.as_bytes())) {
            return Err(invalid("Token does not match server's copy"));
        }
        self.check_account(&namespace, &account).await?;
        let today = jiff::Timestamp::try_from(self.clock.now()).unwrap_or_default();
        let day = |at: jiff::Timestamp| at.strftime("%Y-%m-%d").to_string();
        let tomorrow = today + jiff::SignedDuration::from_hours(24);
        let labels = found.metadata.labels;
        let used = labels.get(LAST_USED);
        if used != Some(&day(today)) && used != Some(&day(tomorrow)) {
            verified.unmarked = Some((namespace.clone(), secret.clone()));
        }
        if labels
            .get(INVALID_SINCE)
            .is_some_and(|since| !since.is_empty())
        {
            return Err(invalid(format!(
                "the token in secret {namespace}/{secret} for service account {namespace}/{} has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label from the secret to temporarily allow use of this token",
                account.name
            )));
        }
        let key = format!("/registry/serviceaccounts/{namespace}/{}", account.name);
        let listed = self.metadata(&key).await.unwrap_or_default().secrets;
        let note = if listed.iter().any(|listed| listed.name == secret) {
            verified.warnings.push(AUTO_GENERATED.to_owned());
            "authentication.k8s.io/legacy-token-autogenerated-secret"
        } else {
            "authentication.k8s.io/legacy-token-manual-secret"
        };
        verified.annotations.push((note, secret));
        verified.user = account_user(&namespace, &account, Vec::new());
        Ok(())
    }
}

#[async_trait::async_trait]
impl TokenIssuer for Tokens {
    fn key_set(&self) -> Option<Value> {
        Some(Self::key_set(self))
    }

    fn openid_configuration(&self, jwks_uri: &str) -> Option<Value> {
        Some(Self::openid_configuration(self, jwks_uri))
    }

    async fn issue(&self, request: &TokenRequestParams) -> skiff_api::ApiResult<IssuedToken> {
        let mut bound = Bound {
            namespace: request.namespace.clone(),
            serviceaccount: Reference {
                name: request.service_account.clone(),
                uid: request.service_account_uid.clone(),
            },
            pod: None,
            secret: None,
            node: request.node.as_ref().map(|(name, uid)| Reference {
                name: name.clone(),
                uid: uid.clone(),
            }),
            warnafter: None,
        };
        if let Some((kind, name, uid)) = &request.bound_object {
            let reference = Some(Reference {
                name: name.clone(),
                uid: uid.clone(),
            });
            match kind.as_str() {
                "Pod" => bound.pod = reference,
                "Secret" => bound.secret = reference,
                _ => bound.node = reference,
            }
        }
        let audiences = if request.audiences.is_empty() {
            self.audiences.clone()
        } else {
            request.audiences.clone()
        };
        let now = self.clock.now();
        let mut life = request.expiration;
        let ours = audiences
            .iter()
            .all(|audience| self.audiences.contains(audience));
        if self.extend && bound.pod.is_some() && life == EXTENDED && ours {
            // Clients that do not read their token anew are told on, not locked out.
            bound.warnafter = Some(seconds(now + life));
            life = EXTENSION;
        }
        let token = self
            .sign_bound(bound, &audiences, life)
            .map_err(skiff_api::ApiError::internal)?;
        Ok(IssuedToken {
            token,
            expires: now + request.expiration,
            audiences,
        })
    }

    fn max_expiration(&self) -> Option<Duration> {
        Some(self.max_expiration).filter(|max| !max.is_zero())
    }
}

/// The issuer that an unverified token names.
pub(crate) fn unverified_issuer(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }
    let mut parts = token.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() {
        return None;
    }
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(payload)
        .ok()?;
    let claims: Issuer = serde_json::from_slice(&payload).ok()?;
    Some(claims.iss)
}

/// What is read of an object that a token is bound to.
#[derive(Default, Deserialize)]
struct Stored {
    metadata: StoredMetadata,
    #[serde(default)]
    data: Option<StoredData>,
    #[serde(default)]
    secrets: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct StoredData {
    token: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredMetadata {
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    uid: String,
    #[serde(default)]
    deletion_timestamp: Option<String>,
}

fn account_user(namespace: &str, account: &Reference, extra: Vec<(&str, String)>) -> UserInfo {
    UserInfo {
        name: format!("system:serviceaccount:{namespace}:{}", account.name),
        uid: account.uid.clone(),
        groups: vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{namespace}"),
            "system:authenticated".to_owned(),
        ],
        extra: extra
            .into_iter()
            .map(|(key, value)| (key.to_owned(), vec![value]))
            .collect(),
    }
}

/// Seconds since 1970.
pub(crate) fn seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        })
}

#[cfg(test)]
#[path = "tokens_tests.rs"]
mod tests;
