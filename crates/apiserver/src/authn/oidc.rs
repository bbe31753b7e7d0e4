//! Tokens of other issuers (OpenID Connect): verified with the issuer's keys, and mapped to a user by configuration.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use jsonwebtoken::{Algorithm, Validation};
use serde_json::{Map, Value, json};
use skiff_base::SharedClock;

use super::configuration::{JwtIssuer, Mapping};
use super::expression::{About, Expression};
use super::issuer_keys::{Fetch, Https, IssuerKeys};
use super::tokens::{seconds, unverified_issuer};
use super::x509::CREDENTIAL_ID;
use super::{Recognized, TokenAuthenticator};
use crate::request::UserInfo;
use crate::seam::AuthnError;

/// The algorithms that tokens may be signed with; none with a shared secret.
const ALGORITHMS: [(&str, Algorithm); 8] = [
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
];
/// How far in the future a token may begin.
const NOT_BEFORE_LEEWAY: i64 = 5 * 60;

type Claims = Map<String, Value>;

/// Expressions of a configuration, compiled.
#[derive(Default)]
struct Expressions {
    username: Option<Expression>,
    groups: Option<Expression>,
    uid: Option<Expression>,
    extra: Vec<(String, Expression)>,
    claim_rules: Vec<(Expression, String)>,
    user_rules: Vec<(Expression, String)>,
}

/// Knows the tokens of one issuer.
pub struct OidcAuthenticator {
    config: JwtIssuer,
    expressions: Expressions,
    algorithms: Vec<Algorithm>,
    keys: Arc<IssuerKeys>,
    clock: SharedClock,
    /// The audiences of this API server.
    audiences: Vec<String>,
}

fn refused(why: impl std::fmt::Display) -> AuthnError {
    AuthnError(format!("oidc: {why}"))
}

impl OidcAuthenticator {
    /// For a configuration that was validated. The issuer is looked for at once, in the background.
    pub fn new(
        config: JwtIssuer,
        audiences: Vec<String>,
        clock: SharedClock,
    ) -> Result<Self, String> {
        let fetch = Https {
            authority: config.issuer.certificate_authority.clone().into_bytes(),
            clock: clock.clone(),
        };
        let made = Self::with(config, audiences, clock, Arc::new(fetch))?;
        let keys = made.keys.clone();
        tokio::spawn(async move {
            // A failure is told by the log, and tried again by the first token.
            let _ = keys.refresh(0).await;
        });
        Ok(made)
    }

    fn with(
        config: JwtIssuer,
        audiences: Vec<String>,
        clock: SharedClock,
        fetch: Arc<dyn Fetch>,
    ) -> Result<Self, String> {
        let issuer = &config.issuer;
        let keys = IssuerKeys::new(&issuer.url, &issuer.discovery_url, fetch, clock.clone());
        let algorithms = ALGORITHMS.iter().filter(|(name, _)| {
            config.algorithms.is_empty() || config.algorithms.iter().any(|wanted| wanted == name)
        });
        Ok(Self {
            expressions: Expressions::compile(&config)?,
            algorithms: algorithms.map(|(_, algorithm)| *algorithm).collect(),
            keys: Arc::new(keys),
            config,
            clock,
            audiences,
        })
    }

    async fn verify(&self, token: &str) -> Result<Claims, AuthnError> {
        let header = jsonwebtoken::decode_header(token)
            .map_err(|error| refused(format!("verify token: malformed jwt: {error}")))?;
        if !self.algorithms.contains(&header.alg) {
            return Err(refused(format!(
                "verify token: id token signed with unsupported algorithm, got {:?}",
                header.alg
            )));
        }
        let mut validation = Validation::new(header.alg);
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let check = |key: &jsonwebtoken::DecodingKey| {
            let decoded = jsonwebtoken::decode::<Claims>(token, key, &validation);
            decoded.ok().map(|decoded| decoded.claims)
        };
        let claims = self
            .keys
            .with_key(header.kid.as_deref(), header.alg, check)
            .await
            .map_err(|why| refused(format!("verify token: {why}")))?;
        self.check(&claims)
            .map_err(|why| refused(format!("verify token: {why}")))?;
        Ok(claims)
    }

    /// Issuer, audience and times.
    fn check(&self, claims: &Claims) -> Result<(), String> {
        let text = |name: &str| claims.get(name).and_then(Value::as_str).unwrap_or_default();
        let issuer = &self.config.issuer;
        if !same_issuer(text("iss"), &issuer.url) {
            return Err(format!(
                "id token issued by a different provider, expected {:?} got {:?}",
                issuer.url,
                text("iss")
            ));
        }
        let audiences: Vec<&str> = match claims.get("aud") {
            Some(Value::String(one)) => vec![one.as_str()],
            Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
            _ => Vec::new(),
        };
        let known = |audience: &&str| issuer.audiences.iter().any(|own| own == audience);
        if !audiences.iter().any(known) {
            return Err(format!(
                "expected audience in {:?} got {audiences:?}",
                issuer.audiences
            ));
        }
        let time = |name: &str| claims.get(name).and_then(Value::as_f64).map(|at| at as i64);
        let now = seconds(self.clock.now());
        // A token without an end has ended.
        if time("exp").is_none_or(|ends| now > ends) {
            return Err("token is expired".to_owned());
        }
        if time("nbf").is_some_and(|begins| now + NOT_BEFORE_LEEWAY < begins) {
            return Err("current time is before the nbf (not before) time".to_owned());
        }
        Ok(())
    }

    fn user(&self, claims: &Claims) -> Result<UserInfo, AuthnError> {
        let value = Value::Object(claims.clone());
        let user = UserInfo {
            name: self.name(claims, &value)?,
            groups: self.groups(claims, &value)?,
            uid: self.uid(claims, &value)?,
            extra: self.extra(claims, &value)?,
        };
        self.check_claims(claims, &value)?;
        let shown = json!({"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra});
        for (rule, message) in &self.expressions.user_rules {
            holds(rule, message, &shown).map_err(|why| {
                refused(format!("error evaluating user info validation rule: {why}"))
            })?;
        }
        Ok(user)
    }

    fn name(&self, claims: &Claims, value: &Value) -> Result<String, AuthnError> {
        if let Some(expression) = &self.expressions.username {
            let wrong =
                |why: String| refused(format!("error evaluating username claim expression: {why}"));
            return match expression.evaluate(value).map_err(wrong)? {
                Value::String(name) if name.is_empty() => {
                    Err(refused("empty username via CEL expression is not allowed"))
                }
                Value::String(name) => Ok(name),
                _ => Err(wrong(
                    "username claim expression must return a string".to_owned(),
                )),
            };
        }
        let mapping = &self.config.claim_mappings.username;
        let name = claim(claims, &mapping.claim)
            .map_err(|why| refused(format!("parse username claims {:?}: {why}", mapping.claim)))?;
        if mapping.claim == "email" {
            match claims.get("email_verified") {
                None | Some(Value::Bool(true)) => {}
                Some(Value::Bool(false)) => return Err(refused("email not verified")),
                Some(_) => {
                    return Err(refused("parse 'email_verified' claim: not a boolean"));
                }
            }
        }
        Ok(format!(
            "{}{name}",
            mapping.prefix.as_deref().unwrap_or_default()
        ))
    }

    fn groups(&self, claims: &Claims, value: &Value) -> Result<Vec<String>, AuthnError> {
        if let Some(expression) = &self.expressions.groups {
            let wrong =
                |why: String| refused(format!("error evaluating group claim expression: {why}"));
            return expression.evaluate(value).and_then(strings).map_err(wrong);
        }
        let Mapping { claim, prefix, .. } = &self.config.claim_mappings.groups;
        let Some(found) = claims.get(claim).filter(|_| !claim.is_empty()) else {
            return Ok(Vec::new());
        };
        let groups: Result<Vec<String>, _> = match found {
            Value::String(one) => Ok(vec![one.clone()]),
            several => serde_json::from_value(several.clone()),
        };
        let groups =
            groups.map_err(|error| refused(format!("parse groups claim {claim:?}: {error}")))?;
        let prefix = prefix.as_deref().unwrap_or_default();
        Ok(groups
            .iter()
            .map(|group| format!("{prefix}{group}"))
            .collect())
    }

    fn uid(&self, claims: &Claims, value: &Value) -> Result<String, AuthnError> {
        if let Some(expression) = &self.expressions.uid {
            let wrong =
                |why: String| refused(format!("error evaluating uid claim expression: {why}"));
            return match expression.evaluate(value).map_err(wrong)? {
                Value::String(uid) => Ok(uid),
                _ => Err(wrong(
                    "uid claim expression must return a string".to_owned(),
                )),
            };
        }
        let name = &self.config.claim_mappings.uid.claim;
        if name.is_empty() {
            return Ok(String::new());
        }
        claim(claims, name).map_err(|why| refused(format!("parse uid claim {name:?}: {why}")))
    }

    fn extra(
        &self,
        claims: &Claims,
        value: &Value,
    ) -> Result<BTreeMap<String, Vec<String>>, AuthnError> {
        let mut extra = BTreeMap::new();
        if let Some(id) = claims.get("jti").and_then(Value::as_str) {
            extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("JTI={id}")]);
        }
        for (key, expression) in &self.expressions.extra {
            let values = expression
                .evaluate(value)
                .and_then(strings)
                .map_err(|why| {
                    refused(format!(
                        "error evaluating extra claim expression: {}: {why}",
                        expression.text
                    ))
                })?;
            if !values.is_empty() {
                extra.insert(key.clone(), values);
            }
        }
        Ok(extra)
    }

    fn check_claims(&self, claims: &Claims, value: &Value) -> Result<(), AuthnError> {
        let rules = self.config.claim_validation_rules.iter();
        for rule in rules.filter(|rule| !rule.claim.is_empty()) {
            let (name, wanted) = (&rule.claim, &rule.required_value);
            if !claims.contains_key(name) {
                return Err(refused(format!(
                    "required claim {name} not present in ID token"
                )));
            }
            let found =
                claim(claims, name).map_err(|why| refused(format!("parse claim {name}: {why}")))?;
            if found != *wanted {
                return Err(refused(format!(
                    "required claim {name} value does not match. Got = {found}, want = {wanted}"
                )));
            }
        }
        for (rule, message) in &self.expressions.claim_rules {
            holds(rule, message, value).map_err(|why| {
                refused(format!(
                    "error evaluating claim validation expression: {why}"
                ))
            })?;
        }
        Ok(())
    }
}

impl Expressions {
    fn compile(config: &JwtIssuer) -> Result<Self, String> {
        let claims = |text: &str| Expression::compile(text, About::Claims);
        let optional = |text: &str| match text {
            "" => Ok(None),
            text => claims(text).map(Some),
        };
        let mappings = &config.claim_mappings;
        let mut made = Self {
            username: optional(&mappings.username.expression)?,
            groups: optional(&mappings.groups.expression)?,
            uid: optional(&mappings.uid.expression)?,
            ..Self::default()
        };
        for extra in &mappings.extra {
            let expression = claims(&extra.value_expression)?;
            made.extra.push((extra.key.clone(), expression));
        }
        let rules = config.claim_validation_rules.iter();
        for rule in rules.filter(|rule| !rule.expression.is_empty()) {
            let expression = Expression::compile(&rule.expression, About::ClaimsRule)?;
            made.claim_rules.push((expression, rule.message.clone()));
        }
        for rule in &config.user_validation_rules {
            let expression = Expression::compile(&rule.expression, About::UserRule)?;
            made.user_rules.push((expression, rule.message.clone()));
        }
        Ok(made)
    }
}

/// Google's tokens name it in two ways.
fn same_issuer(found: &str, wanted: &str) -> bool {
    found == wanted || found == "accounts.google.com" && wanted == "https://accounts.google.com"
}

fn claim(claims: &Claims, name: &str) -> Result<String, String> {
    match claims.get(name) {
        None => Err("claim not present".to_owned()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err("claim is not a string".to_owned()),
    }
}

/// A string, or a list of them; empty ones are none.
fn strings(value: Value) -> Result<Vec<String>, String> {
    let wrong = || "expression must return a string or a list of strings".to_owned();
    let list = match value {
        Value::Null => Vec::new(),
        Value::String(one) => vec![one],
        Value::Array(several) => several
            .into_iter()
            .map(|value| match value {
                Value::String(text) => Ok(text),
                _ => Err(wrong()),
            })
            .collect::<Result<_, _>>()?,
        _ => return Err(wrong()),
    };
    Ok(list.into_iter().filter(|text| !text.is_empty()).collect())
}

fn holds(rule: &Expression, message: &str, value: &Value) -> Result<(), String> {
    match rule.evaluate(value)? {
        Value::Bool(true) => Ok(()),
        Value::Bool(false) => Err(format!(
            "validation expression '{}' failed: {message}",
            rule.text
        )),
        _ => Err("validation expression must return a boolean".to_owned()),
    }
}

#[async_trait]
impl TokenAuthenticator for OidcAuthenticator {
    async fn recognize(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<Recognized>, AuthnError> {
        let issuer = unverified_issuer(token);
        if !issuer.is_some_and(|issuer| same_issuer(&issuer, &self.config.issuer.url)) {
            return Ok(None);
        }
        // These tokens know nothing of the API server's audiences: they are for it alone.
        let own = audiences
            .iter()
            .filter(|asked| self.audiences.contains(asked));
        let own: Vec<String> = own.cloned().collect();
        if own.is_empty() {
            return Ok(None);
        }
        let claims = self.verify(token).await?;
        Ok(Some(Recognized {
            user: self.user(&claims)?,
            audiences: own,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::configuration::AuthenticationConfiguration;
    use crate::authn::keys::SigningKey;
    use bytes::Bytes;
    use parking_lot::Mutex;
    use skiff_base::SimulatedClock;
    use std::collections::HashMap;
    use std::time::{Duration, SystemTime};

    const NOW: u64 = 1_800_000_000;

    /// An issuer whose documents are given.
    #[derive(Default)]
    struct Documents(Mutex<HashMap<String, String>>, Mutex<Vec<String>>);

    #[async_trait]
    impl Fetch for Documents {
        async fn get(&self, url: &str) -> Result<Bytes, String> {
            self.1.lock().push(url.to_owned());
            let found = self.0.lock().get(url).cloned();
            found.map(Bytes::from).ok_or_else(|| "404".to_owned())
        }
    }

    struct Provider {
        documents: Arc<Documents>,
        clock: Arc<SimulatedClock>,
    }

    fn key() -> SigningKey {
        SigningKey::parse(&rcgen::KeyPair::generate().unwrap().serialize_pem()).unwrap()
    }

    impl Provider {
        fn new() -> Self {
            let clock = SimulatedClock::new(SystemTime::UNIX_EPOCH + Duration::from_secs(NOW));
            let documents = Arc::new(Documents::default());
            let description =
                json!({"issuer": "https://issuer", "jwks_uri": "https://issuer/keys"});
            documents.0.lock().insert(
                "https://issuer/.well-known/openid-configuration".to_owned(),
                description.to_string(),
            );
            Self { documents, clock }
        }

        fn publish(&self, key: &SigningKey) {
            let set = json!({"keys": [key.public.jwk]}).to_string();
            self.documents
                .0
                .lock()
                .insert("https://issuer/keys".to_owned(), set);
        }

        fn authenticator(&self, yaml: &str) -> OidcAuthenticator {
            let head = "apiVersion: apiserver.config.k8s.io/v1beta1\nkind: AuthenticationConfiguration\njwt:\n- issuer: {url: https://issuer, audiences: [app]}\n";
            let config = AuthenticationConfiguration::parse(&format!("{head}{yaml}")).unwrap();
            let errors: Vec<String> = config
                .validate(&[])
                .iter()
                .map(ToString::to_string)
                .collect();
            assert!(errors.is_empty(), "{errors:?}");
            let jwt = config.jwt.into_iter().next().unwrap();
            let ours = vec!["api".to_owned()];
            OidcAuthenticator::with(jwt, ours, self.clock.clone(), self.documents.clone()).unwrap()
        }
    }

    fn token(key: &SigningKey, claims: &Value) -> String {
        let mut all =
            json!({"iss": "https://issuer", "aud": "app", "exp": NOW + 60, "sub": "jane"});
        for (name, value) in claims.as_object().unwrap() {
            all[name] = value.clone();
        }
        let header = jsonwebtoken::Header {
            kid: Some(key.public.id.clone()),
            ..jsonwebtoken::Header::new(key.public.algorithm)
        };
        jsonwebtoken::encode(&header, &all, &key.encoding).unwrap()
    }

    async fn ask(of: &OidcAuthenticator, token: &str) -> Result<Option<Recognized>, String> {
        of.recognize(token, &["api".to_owned()])
            .await
            .map_err(|error| error.0)
    }

    const PLAIN: &str = "  claimMappings: {username: {claim: sub, prefix: 'oidc:'}, groups: {claim: groups, prefix: 'g:'}, uid: {claim: sub}}";

    #[tokio::test]
    async fn claims_become_a_user() {
        let (provider, key) = (Provider::new(), key());
        provider.publish(&key);
        let oidc = provider.authenticator(PLAIN);
        let grouped = token(&key, &json!({"groups": ["a", "b"], "jti": "7"}));
        let found = ask(&oidc, &grouped).await.unwrap().unwrap();
        assert_eq!(
            (found.user.name.as_str(), found.user.uid.as_str()),
            ("oidc:jane", "jane")
        );
        assert_eq!(found.user.groups, ["g:a", "g:b"]);
        assert_eq!(found.user.extra[CREDENTIAL_ID], ["JTI=7"]);
        assert_eq!(found.audiences, ["api"]);
        let one = ask(&oidc, &token(&key, &json!({"groups": "a"})))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(one.user.groups, ["g:a"]);
        // Tokens of other issuers, and for other audiences of ours, are for others to know.
        let other = token(&key, &json!({"iss": "https://other"}));
        assert_eq!(ask(&oidc, &other).await, Ok(None));
        let plain = token(&key, &json!({}));
        let elsewhere = oidc.recognize(&plain, &["vault".to_owned()]).await;
        assert_eq!(elsewhere.unwrap(), None);
    }

    #[tokio::test]
    async fn what_is_wrong_with_a_token_is_told() {
        let (provider, key, stranger) = (Provider::new(), key(), key());
        provider.publish(&key);
        let oidc = provider.authenticator("  claimMappings: {username: {claim: email, prefix: ''}}\n  claimValidationRules: [{claim: hd, requiredValue: example.com}]");
        let mail = json!({"email": "j@example.com", "hd": "example.com", "email_verified": true});
        let with = |name: &str, value: Value| {
            let mut claims = mail.clone();
            claims[name] = value;
            claims
        };
        assert!(ask(&oidc, &token(&key, &mail)).await.unwrap().is_some());
        for (claims, why) in [
            (
                with("exp", json!(NOW - 1)),
                "oidc: verify token: token is expired",
            ),
            (
                with("aud", json!(["x"])),
                "oidc: verify token: expected audience in [\"app\"] got [\"x\"]",
            ),
            (
                with("nbf", json!(NOW + 301)),
                "oidc: verify token: current time is before the nbf (not before) time",
            ),
            (
                with("email_verified", json!(false)),
                "oidc: email not verified",
            ),
            (
                with("hd", json!("other")),
                "oidc: required claim hd value does not match. Got = other, want = example.com",
            ),
            (
                with("email", json!(1)),
                "oidc: parse username claims \"email\": claim is not a string",
            ),
        ] {
            assert_eq!(ask(&oidc, &token(&key, &claims)).await, Err(why.to_owned()));
        }
        let forged = ask(&oidc, &token(&stranger, &mail)).await.unwrap_err();
        assert!(forged.contains("failed to verify"), "{forged}");
        // An algorithm with a shared secret, its secret the public key.
        let secret = jsonwebtoken::EncodingKey::from_secret(b"x");
        let header = jsonwebtoken::Header::new(Algorithm::HS256);
        let claims = json!({"iss": "https://issuer", "aud": "app", "exp": NOW + 60, "email": "j"});
        let shared = jsonwebtoken::encode(&header, &claims, &secret).unwrap();
        let why = ask(&oidc, &shared).await.unwrap_err();
        assert!(why.contains("unsupported algorithm"), "{why}");
    }

    #[tokio::test]
    async fn keys_are_found_kept_and_followed_when_they_change() {
        let (provider, first, second) = (Provider::new(), key(), key());
        let oidc = provider.authenticator(PLAIN);
        let why = ask(&oidc, &token(&first, &json!({}))).await.unwrap_err();
        assert!(why.contains("fetching keys"), "{why}");
        provider.publish(&first);
        provider.clock.advance(Duration::from_secs(2));
        assert!(
            ask(&oidc, &token(&first, &json!({})))
                .await
                .unwrap()
                .is_some()
        );
        let read = provider.documents.1.lock().len();
        assert!(
            ask(&oidc, &token(&first, &json!({"a": 1})))
                .await
                .unwrap()
                .is_some()
        );
        assert_eq!(
            provider.documents.1.lock().len(),
            read,
            "the keys were read again"
        );
        provider.publish(&second);
        assert!(ask(&oidc, &token(&second, &json!({}))).await.is_err());
        provider.clock.advance(Duration::from_secs(2));
        assert!(
            ask(&oidc, &token(&second, &json!({})))
                .await
                .unwrap()
                .is_some()
        );
        assert!(ask(&oidc, &token(&first, &json!({}))).await.is_err());
    }

    #[tokio::test]
    async fn another_issuers_description_is_not_believed() {
        let (provider, key) = (Provider::new(), key());
        provider.publish(&key);
        let place = "https://issuer/.well-known/openid-configuration".to_owned();
        let lies = json!({"issuer": "https://evil", "jwks_uri": "https://issuer/keys"});
        provider
            .documents
            .0
            .lock()
            .insert(place.clone(), lies.to_string());
        let oidc = provider.authenticator(PLAIN);
        let why = ask(&oidc, &token(&key, &json!({}))).await.unwrap_err();
        assert!(
            why.contains("expected \"https://issuer\" got \"https://evil\""),
            "{why}"
        );
        let plain = json!({"issuer": "https://issuer", "jwks_uri": "http://issuer/keys"});
        provider.documents.0.lock().insert(place, plain.to_string());
        provider.clock.advance(Duration::from_secs(11));
        let why = ask(&oidc, &token(&key, &json!({}))).await.unwrap_err();
        assert!(why.contains("HTTPS"), "{why}");
    }

    #[tokio::test]
    async fn expressions_map_and_check() {
        let (provider, key) = (Provider::new(), key());
        provider.publish(&key);
        let oidc = provider.authenticator(
            "  claimMappings:\n    username: {expression: \"'x:' + claims.sub\"}\n    groups: {expression: claims.roles}\n    uid: {expression: \"string(claims.n)\"}\n    extra: [{key: example.com/team, valueExpression: claims.team}]\n  claimValidationRules: [{expression: 'claims.n > 1', message: too small}]\n  userValidationRules: [{expression: \"!user.username.startsWith('x:system')\", message: reserved}]",
        );
        let claims =
            |n: i64, sub: &str| json!({"sub": sub, "n": n, "roles": ["a", ""], "team": "t"});
        let good = token(&key, &claims(2, "jane"));
        let user = ask(&oidc, &good).await.unwrap().unwrap().user;
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("x:jane", "2"));
        assert_eq!(user.groups, ["a"]);
        assert_eq!(user.extra["example.com/team"], ["t"]);
        let why = ask(&oidc, &token(&key, &claims(1, "jane")))
            .await
            .unwrap_err();
        assert!(
            why.ends_with("validation expression 'claims.n > 1' failed: too small"),
            "{why}"
        );
        let why = ask(&oidc, &token(&key, &claims(2, "system:x")))
            .await
            .unwrap_err();
        assert!(why.ends_with("failed: reserved"), "{why}");
    }
}
