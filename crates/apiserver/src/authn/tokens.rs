//! Service-account tokens: JSON web tokens that the server signs, and checks against the objects they are bound to.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use skiff_base::SharedClock;
use skiff_store::Store;

use crate::request::UserInfo;
use crate::seam::{IssuedToken, TokenIssuer, TokenRequestParams};

/// How much a client's idea of the time may differ; upstream's leeway.
const LEEWAY: Duration = Duration::from_secs(60);

/// A named object that a token names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// The object's name.
    pub name: String,
    /// The object's uid.
    pub uid: String,
}

/// The claims of Kubernetes in a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// The namespace of the service account.
    pub namespace: String,
    /// The service account.
    pub serviceaccount: Reference,
    /// The pod that the token dies with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// The secret that the token dies with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    /// The node of the pod, or the node that the token dies with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// When a client that still uses the token should have fetched a new one, seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "one_or_many"
    )]
    aud: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exp: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    iat: Option<i64>,
    iss: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jti: Option<String>,
    #[serde(
        rename = "kubernetes.io",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    bound: Option<Bound>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nbf: Option<i64>,
    sub: String,
    #[serde(flatten)]
    legacy: Legacy,
}

/// The claims of tokens in secrets, which do not expire.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Legacy {
    #[serde(
        rename = "kubernetes.io/serviceaccount/namespace",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    namespace: Option<String>,
    #[serde(
        rename = "kubernetes.io/serviceaccount/secret.name",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    secret: Option<String>,
    #[serde(
        rename = "kubernetes.io/serviceaccount/service-account.name",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    account: Option<String>,
    #[serde(
        rename = "kubernetes.io/serviceaccount/service-account.uid",
        default,
        skip_serializing_if = "Option::is_none"
    )]
    uid: Option<String>,
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(deserializer)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

/// Why a token is refused; the text goes to the log and into token reviews, never the token.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    /// Not one of our tokens: another authenticator may know it.
    #[error("not a token of this issuer")]
    Foreign,
    /// Ours, but no good.
    #[error("{0}")]
    Invalid(String),
    /// The key is no P-256 key, or signing failed.
    #[error("signing key: {0}")]
    Key(String),
}

fn invalid(message: impl Into<String>) -> TokenError {
    TokenError::Invalid(message.into())
}

/// What a good token says.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// The service account as a user.
    pub user: UserInfo,
    /// The token's audiences.
    pub audiences: Vec<String>,
}

/// Issues and verifies tokens.
pub struct Tokens {
    issuer: String,
    key_id: String,
    jwk: Value,
    encoding: EncodingKey,
    decoding: DecodingKey,
    store: Arc<dyn Store>,
    clock: SharedClock,
    /// The audiences of this API server; the first is the default.
    audiences: Vec<String>,
}

impl Tokens {
    /// `key`: a P-256 private key, PEM. `issuer` is also the default audience, as upstream has it.
    pub fn new(
        key: &str,
        issuer: &str,
        store: Arc<dyn Store>,
        clock: SharedClock,
    ) -> Result<Self, TokenError> {
        let wrong = |error: jsonwebtoken::errors::Error| TokenError::Key(error.to_string());
        let encoding = EncodingKey::from_ec_pem(key.as_bytes()).map_err(wrong)?;
        let mut jwk = Jwk::from_encoding_key(&encoding, Algorithm::ES256).map_err(wrong)?;
        let decoding = DecodingKey::from_jwk(&jwk).map_err(wrong)?;
        let AlgorithmParameters::EllipticCurve(point) = &jwk.algorithm else {
            return Err(TokenError::Key("not a P-256 key".into()));
        };
        let digest = Sha256::digest(format!("{}.{}", point.x, point.y));
        let key_id = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(digest);
        jwk.common.key_id = Some(key_id.clone());
        let mut jwk =
            serde_json::to_value(&jwk).map_err(|error| TokenError::Key(error.to_string()))?;
        jwk["use"] = "sig".into();
        Ok(Self {
            issuer: issuer.to_owned(),
            key_id,
            jwk,
            encoding,
            decoding,
            store,
            clock,
            audiences: vec![issuer.to_owned()],
        })
    }

    /// The audiences of this API server.
    #[must_use]
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// `/openid/v1/jwks`.
    #[must_use]
    pub fn key_set(&self) -> Value {
        json!({"keys": [self.jwk]})
    }

    /// `/.well-known/openid-configuration`.
    #[must_use]
    pub fn openid_configuration(&self, jwks_uri: &str) -> Value {
        json!({
            "issuer": self.issuer, "jwks_uri": jwks_uri, "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["ES256"],
        })
    }

    fn sign(&self, claims: &Claims) -> Result<String, TokenError> {
        let header = Header {
            alg: Algorithm::ES256,
            kid: Some(self.key_id.clone()),
            typ: None,
            ..Header::default()
        };
        jsonwebtoken::encode(&header, claims, &self.encoding)
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
            iss: self.issuer.clone(),
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
            // Upstream's issuer of tokens in secrets is this constant, whatever the issuer of the others.
            iss: "kubernetes/serviceaccount".to_owned(),
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
        let legacy = claims.iss == "kubernetes/serviceaccount";
        if !legacy && claims.iss != self.issuer {
            return Err(TokenError::Foreign);
        }
        // Tokens in secrets carry no audience and are good for the API server.
        let carried = if legacy && claims.aud.is_empty() {
            &self.audiences
        } else {
            &claims.aud
        };
        let matching: Vec<String> = carried
            .iter()
            .filter(|audience| audiences.contains(audience))
            .cloned()
            .collect();
        if matching.is_empty() {
            return Err(invalid(format!(
                "token audiences {carried:?} is invalid for the target audiences {audiences:?}"
            )));
        }
        self.check_times(&claims)?;
        let user = match (&claims.bound, &claims.legacy) {
            (Some(bound), _) => self.check_bound(bound, claims.jti.as_deref()).await?,
            (
                None,
                Legacy {
                    namespace: Some(namespace),
                    secret: Some(secret),
                    account: Some(account),
                    uid: Some(uid),
                },
            ) => {
                let account = Reference {
                    name: account.clone(),
                    uid: uid.clone(),
                };
                self.check_secret(namespace, secret, &account, token)
                    .await?
            }
            _ => {
                return Err(invalid(
                    "service account token claims could not be validated",
                ));
            }
        };
        Ok(Verified {
            user,
            audiences: matching,
        })
    }

    fn decode(&self, token: &str) -> Result<Claims, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Foreign)?;
        if header.alg != Algorithm::ES256 {
            return Err(TokenError::Foreign);
        }
        let mut validation = Validation::new(Algorithm::ES256);
        // Times and audiences are checked below, against our own clock and with upstream's words.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        jsonwebtoken::decode::<Claims>(token, &self.decoding, &validation)
            .map(|data| data.claims)
            .map_err(|_| TokenError::Foreign)
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
        let deleted = metadata
            .deletion_timestamp
            .and_then(|at| at.parse::<jiff::Timestamp>().ok());
        if deleted.is_some_and(|at| at.as_second() < seconds(self.clock.now() - LEEWAY)) {
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
        Ok(())
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
        namespace: &str,
        secret: &str,
        account: &Reference,
        token: &str,
    ) -> Result<UserInfo, TokenError> {
        self.check_account(namespace, account).await?;
        let found = self
            .metadata(&format!("/registry/secrets/{namespace}/{secret}"))
            .await;
        let stored = found
            .and_then(|secret| secret.data?.token)
            .and_then(|data| base64::engine::general_purpose::STANDARD.decode(data).ok());
        if stored.as_deref() != Some(token.as_bytes()) {
            return Err(invalid("service account token has been invalidated"));
        }
        Ok(account_user(namespace, account, Vec::new()))
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
        let expires = self.clock.now() + request.expiration;
        let token = self
            .sign_bound(bound, &audiences, request.expiration)
            .map_err(skiff_api::ApiError::internal)?;
        Ok(IssuedToken {
            token,
            expires,
            audiences,
        })
    }
}

/// What is read of an object that a token is bound to.
#[derive(Deserialize)]
struct Stored {
    metadata: StoredMetadata,
    #[serde(default)]
    data: Option<StoredData>,
}

#[derive(Deserialize)]
struct StoredData {
    token: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredMetadata {
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

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_base::SimulatedClock;
    use skiff_store::MemoryStore;

    async fn tokens() -> (Tokens, Arc<dyn Store>, Arc<SimulatedClock>) {
        let clock =
            SimulatedClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(clock.clone()));
        let object = |uid: &str| json!({"metadata": {"uid": uid}}).to_string();
        store
            .create(
                "/registry/serviceaccounts/dev/robot",
                object("u1").into(),
                0,
            )
            .await
            .unwrap();
        store
            .create("/registry/pods/dev/web", object("p1").into(), 0)
            .await
            .unwrap();
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        (
            Tokens::new(&key, "https://issuer", store.clone(), clock.clone()).unwrap(),
            store,
            clock,
        )
    }

    fn bound(pod_uid: &str) -> Bound {
        let reference = |name: &str, uid: &str| Reference {
            name: name.into(),
            uid: uid.into(),
        };
        Bound {
            namespace: "dev".into(),
            serviceaccount: reference("robot", "u1"),
            pod: Some(reference("web", pod_uid)),
            secret: None,
            node: None,
            warnafter: None,
        }
    }

    #[tokio::test]
    async fn a_token_is_good_until_it_expires_or_its_pod_goes() {
        let (tokens, store, clock) = tokens().await;
        let token = tokens
            .sign_bound(bound("p1"), &[], Duration::from_secs(600))
            .unwrap();
        let here = tokens.audiences().to_vec();
        let verified = tokens.verify(&token, &here).await.unwrap();
        assert_eq!(verified.user.name, "system:serviceaccount:dev:robot");
        assert_eq!(
            verified.user.extra["authentication.kubernetes.io/pod-name"],
            ["web"]
        );
        assert!(matches!(
            tokens.verify(&token, &["elsewhere".into()]).await,
            Err(TokenError::Invalid(_))
        ));
        clock.advance(Duration::from_secs(700));
        assert_eq!(
            tokens.verify(&token, &here).await,
            Err(invalid("service account token has expired"))
        );
        let token = tokens
            .sign_bound(bound("p1"), &[], Duration::from_secs(600))
            .unwrap();
        store.delete("/registry/pods/dev/web", None).await.unwrap();
        assert_eq!(
            tokens.verify(&token, &here).await,
            Err(invalid("service account token has been invalidated"))
        );
    }

    #[tokio::test]
    async fn tokens_of_other_keys_and_for_other_uids_are_refused() {
        let (tokens, ..) = tokens().await;
        let (others, ..) = self::tokens().await;
        let here = tokens.audiences().to_vec();
        let foreign = others
            .sign_bound(bound("p1"), &[], Duration::from_secs(600))
            .unwrap();
        assert_eq!(
            tokens.verify(&foreign, &here).await,
            Err(TokenError::Foreign)
        );
        let stale = tokens
            .sign_bound(bound("p0"), &[], Duration::from_secs(600))
            .unwrap();
        assert_eq!(
            tokens.verify(&stale, &here).await,
            Err(invalid(
                "pod UID (p1) does not match service account pod ref claim (p0)"
            ))
        );
        assert_eq!(
            tokens.verify("a.b.c", &here).await,
            Err(TokenError::Foreign)
        );
    }

    #[tokio::test]
    async fn a_token_in_a_secret_lives_as_long_as_the_secret_holds_it() {
        let (tokens, store, _) = tokens().await;
        let account = Reference {
            name: "robot".into(),
            uid: "u1".into(),
        };
        let token = tokens
            .issue_for_secret("dev", "robot-token", &account)
            .unwrap();
        let here = tokens.audiences().to_vec();
        assert!(tokens.verify(&token, &here).await.is_err());
        let data = base64::engine::general_purpose::STANDARD.encode(&token);
        let secret = json!({"metadata": {"uid": "s1"}, "data": {"token": data}}).to_string();
        store
            .create("/registry/secrets/dev/robot-token", secret.into(), 0)
            .await
            .unwrap();
        assert_eq!(
            tokens.verify(&token, &here).await.unwrap().user.name,
            "system:serviceaccount:dev:robot"
        );
    }
}
