//! Settings of who users are and what they may do, under the names of upstream's flags.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use skiff_apiserver::authn::RequestHeaderSettings;
use skiff_apiserver::{FRONT_PROXY_NAME, duration};

/// Authentication and authorization as a user sets them: flags, and keys under `identity` in the configuration file.
#[derive(Clone, Debug, Default, clap::Args, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct IdentityOptions {
    /// Authorities of front proxies that say in headers who the user is [default: our own]
    #[arg(long, value_name = "FILE")]
    pub requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of such proxies' certificates; "" for any [default: front-proxy-client]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub requestheader_allowed_names: Option<Vec<String>>,
    /// Certificate that we show other API servers when we speak for users [default: one of our own]
    #[arg(long, value_name = "FILE", requires = "proxy_client_key_file")]
    pub proxy_client_cert_file: Option<PathBuf>,
    /// Its key [default: none]
    #[arg(long, value_name = "FILE", requires = "proxy_client_cert_file")]
    pub proxy_client_key_file: Option<PathBuf>,
    /// Headers in which they name the user [default: X-Remote-User]
    #[arg(long, value_name = "HEADERS", value_delimiter = ',')]
    pub requestheader_username_headers: Option<Vec<String>>,
    /// Headers in which they give the user's uid [default: X-Remote-Uid]
    #[arg(long, value_name = "HEADERS", value_delimiter = ',')]
    pub requestheader_uid_headers: Option<Vec<String>>,
    /// Headers in which they name groups [default: X-Remote-Group]
    #[arg(long, value_name = "HEADERS", value_delimiter = ',')]
    pub requestheader_group_headers: Option<Vec<String>>,
    /// What headers with extras of the user begin with [default: X-Remote-Extra-]
    #[arg(long, value_name = "PREFIXES", value_delimiter = ',')]
    pub requestheader_extra_headers_prefix: Option<Vec<String>>,
    /// Whether requests without credentials are those of system:anonymous [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub anonymous_auth: Option<bool>,
    /// AuthenticationConfiguration: issuers of tokens, and where nobody needs any; changes are followed [default: none]
    #[arg(long, value_name = "FILE")]
    pub authentication_config: Option<PathBuf>,
    /// Tokens of users, one a line: token,user,uid,"group1,group2" [default: none]
    #[arg(long, value_name = "FILE")]
    pub token_auth_file: Option<PathBuf>,
    /// Kubeconfig of a webhook that knows tokens [default: none]
    #[arg(long, value_name = "FILE")]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// Version of the reviews sent to it, v1 or v1beta1 [default: v1beta1]
    #[arg(long, value_name = "VERSION")]
    pub authentication_token_webhook_version: Option<String>,
    /// How long its answers are kept [default: 2m]
    #[arg(long, value_name = "DURATION")]
    pub authentication_token_webhook_cache_ttl: Option<String>,
    /// Issuer of OpenID Connect tokens, an https URL [default: none]
    #[arg(long, value_name = "URL")]
    pub oidc_issuer_url: Option<String>,
    /// Audience that its tokens must be for [default: none]
    #[arg(long, value_name = "ID")]
    pub oidc_client_id: Option<String>,
    /// Authorities that its certificate is verified with [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub oidc_ca_file: Option<PathBuf>,
    /// Claim that names the user [default: sub]
    #[arg(long, value_name = "CLAIM")]
    pub oidc_username_claim: Option<String>,
    /// Put in front of user names; - for nothing [default: the issuer and #, nothing for the claim email]
    #[arg(long, value_name = "PREFIX")]
    pub oidc_username_prefix: Option<String>,
    /// Claim that names the groups [default: none]
    #[arg(long, value_name = "CLAIM")]
    pub oidc_groups_claim: Option<String>,
    /// Put in front of groups [default: nothing]
    #[arg(long, value_name = "PREFIX")]
    pub oidc_groups_prefix: Option<String>,
    /// Claims that tokens must have, claim=value [default: none]
    #[arg(long, value_name = "CLAIM")]
    pub oidc_required_claim: Option<Vec<String>>,
    /// Algorithms that tokens may be signed with [default: RS256]
    #[arg(long, value_name = "ALGORITHMS", value_delimiter = ',')]
    pub oidc_signing_algs: Option<Vec<String>>,
    /// Issuers of service accounts' tokens; the first one issues, the others are believed
    /// [default: https://kubernetes.default.svc.<cluster-domain>]
    #[arg(long, value_name = "URL")]
    pub service_account_issuer: Option<Vec<String>>,
    /// Private key that signs service accounts' tokens, PEM: RSA, or on P-256 or P-384
    /// [default: <data-dir>/pki/sa.key, a key on P-256 made at the first start]
    #[arg(long, value_name = "FILE")]
    pub service_account_signing_key_file: Option<PathBuf>,
    /// Further keys whose tokens are believed, PEM: for changing the key [default: none]
    #[arg(long, value_name = "FILE")]
    pub service_account_key_file: Option<Vec<PathBuf>>,
    /// Where others find the keys of service accounts' tokens [default: this server]
    #[arg(long, value_name = "URL")]
    pub service_account_jwks_uri: Option<String>,
    /// Longest life of a service account's token [default: as long as is asked]
    #[arg(long, value_name = "DURATION")]
    pub service_account_max_token_expiration: Option<String>,
    /// Whether tokens of pods are good for a year when they are not read anew in time [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub service_account_extend_token_expiration: Option<bool>,
    /// Names that tokens mean this API server by [default: the first issuer]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub api_audiences: Option<Vec<String>>,
    /// AuthorizationConfiguration: who is asked what users may do; changes are followed [default: none]
    #[arg(long, value_name = "FILE")]
    pub authorization_config: Option<PathBuf>,
    /// Who is asked: Node, RBAC, Webhook, AlwaysAllow, AlwaysDeny, in this order [default: Node,RBAC]
    #[arg(long, value_name = "MODES", value_delimiter = ',')]
    pub authorization_mode: Option<Vec<String>>,
    /// Kubeconfig of the webhook of the mode Webhook [default: none]
    #[arg(long, value_name = "FILE")]
    pub authorization_webhook_config_file: Option<PathBuf>,
    /// Version of the reviews sent to it, v1 or v1beta1 [default: v1beta1]
    #[arg(long, value_name = "VERSION")]
    pub authorization_webhook_version: Option<String>,
    /// How long what it allows is kept [default: 5m]
    #[arg(long, value_name = "DURATION")]
    pub authorization_webhook_cache_authorized_ttl: Option<String>,
    /// How long what it does not allow is kept [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub authorization_webhook_cache_unauthorized_ttl: Option<String>,
}

/// Authentication and authorization, complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the option of that name")]
#[serde(default)]
pub struct IdentitySettings {
    pub front_proxy_authorities: Option<PathBuf>,
    /// Empty: any.
    pub front_proxy_names: Vec<String>,
    /// The certificate and the key that other API servers are shown; `None`: our own.
    pub proxy_client: Option<(PathBuf, PathBuf)>,
    pub username_headers: Vec<String>,
    pub uid_headers: Vec<String>,
    pub group_headers: Vec<String>,
    pub extra_headers_prefix: Vec<String>,
    pub anonymous: bool,
    pub authentication_config: Option<PathBuf>,
    pub token_file: Option<PathBuf>,
    pub token_webhook: Option<PathBuf>,
    pub token_webhook_version: String,
    pub token_webhook_ttl: Duration,
    pub oidc: Option<OidcSettings>,
    /// Empty: the cluster's own.
    pub issuers: Vec<String>,
    pub signing_key: Option<PathBuf>,
    pub keys: Vec<PathBuf>,
    pub jwks_uri: Option<String>,
    pub max_token_expiration: Duration,
    pub extend_tokens: bool,
    pub audiences: Vec<String>,
    pub authorization_config: Option<PathBuf>,
    pub modes: Vec<String>,
    pub webhook: Option<PathBuf>,
    pub webhook_version: String,
    pub authorized_ttl: String,
    pub unauthorized_ttl: String,
}

/// One issuer of OpenID Connect tokens, set by flags.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the option of that name")]
pub struct OidcSettings {
    pub issuer: String,
    pub client_id: String,
    pub ca_file: Option<PathBuf>,
    pub username_claim: String,
    pub username_prefix: String,
    pub groups_claim: String,
    pub groups_prefix: String,
    pub required_claims: BTreeMap<String, String>,
    pub algorithms: Vec<String>,
}

impl Default for IdentitySettings {
    fn default() -> Self {
        let headers = RequestHeaderSettings::default();
        Self {
            front_proxy_authorities: None,
            front_proxy_names: headers.allowed_names,
            proxy_client: None,
            username_headers: headers.username_headers,
            uid_headers: headers.uid_headers,
            group_headers: headers.group_headers,
            extra_headers_prefix: headers.extra_headers_prefix,
            anonymous: true,
            authentication_config: None,
            token_file: None,
            token_webhook: None,
            token_webhook_version: "v1beta1".into(),
            token_webhook_ttl: Duration::from_secs(120),
            oidc: None,
            issuers: Vec::new(),
            signing_key: None,
            keys: Vec::new(),
            jwks_uri: None,
            max_token_expiration: Duration::ZERO,
            extend_tokens: true,
            audiences: Vec::new(),
            authorization_config: None,
            modes: vec!["Node".into(), "RBAC".into()],
            webhook: None,
            webhook_version: "v1beta1".into(),
            authorized_ttl: String::new(),
            unauthorized_ttl: String::new(),
        }
    }
}

/// Names of front proxies; empty for any.
fn allowed_names(mut names: Vec<String>) -> Vec<String> {
    names.retain(|name| !name.is_empty());
    names
}

impl IdentitySettings {
    /// Which front proxies are believed, and in which headers.
    #[must_use]
    pub fn request_header(&self) -> RequestHeaderSettings {
        RequestHeaderSettings {
            allowed_names: self.front_proxy_names.clone(),
            username_headers: self.username_headers.clone(),
            uid_headers: self.uid_headers.clone(),
            group_headers: self.group_headers.clone(),
            extra_headers_prefix: self.extra_headers_prefix.clone(),
        }
    }

    /// What other API servers are told to believe: the same, and ourselves, where we show a certificate of our own.
    #[must_use]
    pub fn told_request_header(&self) -> RequestHeaderSettings {
        let mut told = self.request_header();
        let names = &mut told.allowed_names;
        let known = names.is_empty() || names.iter().any(|name| name == FRONT_PROXY_NAME);
        if self.proxy_client.is_none() && !known {
            names.insert(0, FRONT_PROXY_NAME.to_owned());
        }
        told
    }
}

fn time(flag: &str, text: Option<&String>, default: Duration) -> Result<Duration> {
    let Some(text) = text else { return Ok(default) };
    match duration::parse(text) {
        Some(time) => Ok(time),
        None => bail!("--{flag} {text:?} is no duration such as 1m30s"),
    }
}

impl IdentityOptions {
    /// Fills in the defaults and checks what can be checked without reading files.
    pub fn resolve(self) -> Result<IdentitySettings> {
        let defaults = IdentitySettings::default();
        let oidc = self.oidc()?;
        if oidc.is_some() && self.authentication_config.is_some() {
            bail!("--authentication-config and --oidc-* are mutually exclusive");
        }
        if self.authorization_config.is_some()
            && (self.authorization_mode.is_some()
                || self.authorization_webhook_config_file.is_some())
        {
            bail!(
                "--authorization-config can not be specified when --authorization-mode or --authorization-webhook-* flags are defined"
            );
        }
        let modes = self.authorization_mode.unwrap_or(defaults.modes);
        if modes.iter().any(|mode| mode == "Webhook")
            != self.authorization_webhook_config_file.is_some()
        {
            bail!(
                "--authorization-mode Webhook and --authorization-webhook-config-file go together"
            );
        }
        let front_proxy_names = self.requestheader_allowed_names.map(allowed_names);
        let proxy_client = match (self.proxy_client_cert_file, self.proxy_client_key_file) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => bail!("--proxy-client-cert-file and --proxy-client-key-file go together"),
        };
        Ok(IdentitySettings {
            front_proxy_authorities: self.requestheader_client_ca_file,
            front_proxy_names: front_proxy_names.unwrap_or(defaults.front_proxy_names),
            proxy_client,
            username_headers: self
                .requestheader_username_headers
                .unwrap_or(defaults.username_headers),
            uid_headers: self
                .requestheader_uid_headers
                .unwrap_or(defaults.uid_headers),
            group_headers: self
                .requestheader_group_headers
                .unwrap_or(defaults.group_headers),
            extra_headers_prefix: self
                .requestheader_extra_headers_prefix
                .unwrap_or(defaults.extra_headers_prefix),
            anonymous: self.anonymous_auth.unwrap_or(defaults.anonymous),
            authentication_config: self.authentication_config,
            token_file: self.token_auth_file,
            token_webhook: self.authentication_token_webhook_config_file,
            token_webhook_version: self
                .authentication_token_webhook_version
                .unwrap_or(defaults.token_webhook_version),
            token_webhook_ttl: time(
                "authentication-token-webhook-cache-ttl",
                self.authentication_token_webhook_cache_ttl.as_ref(),
                defaults.token_webhook_ttl,
            )?,
            oidc,
            issuers: self.service_account_issuer.unwrap_or_default(),
            signing_key: self.service_account_signing_key_file,
            keys: self.service_account_key_file.unwrap_or_default(),
            jwks_uri: self.service_account_jwks_uri,
            max_token_expiration: time(
                "service-account-max-token-expiration",
                self.service_account_max_token_expiration.as_ref(),
                defaults.max_token_expiration,
            )?,
            extend_tokens: self
                .service_account_extend_token_expiration
                .unwrap_or(defaults.extend_tokens),
            audiences: self.api_audiences.unwrap_or_default(),
            authorization_config: self.authorization_config,
            modes,
            webhook: self.authorization_webhook_config_file,
            webhook_version: self
                .authorization_webhook_version
                .unwrap_or(defaults.webhook_version),
            authorized_ttl: self
                .authorization_webhook_cache_authorized_ttl
                .unwrap_or_default(),
            unauthorized_ttl: self
                .authorization_webhook_cache_unauthorized_ttl
                .unwrap_or_default(),
        })
    }

    fn oidc(&self) -> Result<Option<OidcSettings>> {
        let (issuer, client_id) = match (&self.oidc_issuer_url, &self.oidc_client_id) {
            (None, None) => return Ok(None),
            (Some(issuer), Some(client_id)) => (issuer.clone(), client_id.clone()),
            _ => bail!("--oidc-issuer-url and --oidc-client-id must be specified together"),
        };
        let claim = self.oidc_username_claim.clone().unwrap_or("sub".into());
        let prefix = match self.oidc_username_prefix.as_deref() {
            Some("-") => String::new(),
            Some(prefix) if !prefix.is_empty() => prefix.to_owned(),
            // Names of other issuers must not look like our own; addresses do not.
            _ if claim == "email" => String::new(),
            _ => format!("{issuer}#"),
        };
        let mut required_claims = BTreeMap::new();
        for text in self.oidc_required_claim.iter().flatten() {
            let Some((claim, value)) = text.split_once('=') else {
                bail!("--oidc-required-claim {text:?} is not claim=value")
            };
            required_claims.insert(claim.to_owned(), value.to_owned());
        }
        Ok(Some(OidcSettings {
            issuer,
            client_id,
            ca_file: self.oidc_ca_file.clone(),
            username_claim: claim,
            username_prefix: prefix,
            groups_claim: self.oidc_groups_claim.clone().unwrap_or_default(),
            groups_prefix: self.oidc_groups_prefix.clone().unwrap_or_default(),
            required_claims,
            algorithms: self
                .oidc_signing_algs
                .clone()
                .unwrap_or(vec!["RS256".into()]),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_completed_and_checked() {
        let options = IdentityOptions::default().resolve().unwrap();
        assert_eq!(options, IdentitySettings::default());
        let oidc = |claim: &str, prefix: Option<&str>| {
            let options = IdentityOptions {
                oidc_issuer_url: Some("https://i".into()),
                oidc_client_id: Some("c".into()),
                oidc_username_claim: Some(claim.into()),
                oidc_username_prefix: prefix.map(Into::into),
                ..IdentityOptions::default()
            };
            options.resolve().unwrap().oidc.unwrap().username_prefix
        };
        assert_eq!(oidc("sub", None), "https://i#");
        assert_eq!(oidc("email", None), "");
        assert_eq!(oidc("sub", Some("-")), "");
        assert_eq!(oidc("sub", Some("x:")), "x:");
        let wrong = |options: IdentityOptions| options.resolve().unwrap_err().to_string();
        let alone = IdentityOptions {
            oidc_client_id: Some("c".into()),
            ..IdentityOptions::default()
        };
        assert!(wrong(alone).contains("together"));
        let key_alone = IdentityOptions {
            proxy_client_key_file: Some("k".into()),
            ..IdentityOptions::default()
        };
        assert!(wrong(key_alone).contains("go together"));
        let modes = IdentityOptions {
            authorization_mode: Some(vec!["Webhook".into()]),
            ..IdentityOptions::default()
        };
        assert!(wrong(modes).contains("go together"));
    }

    #[test]
    fn given_front_proxies_stand_in_the_place_of_our_own() {
        let named = |list: &[&str], shown: bool| {
            let file = |name: &str| shown.then(|| PathBuf::from(name));
            let options = IdentityOptions {
                requestheader_allowed_names: Some(list.iter().map(ToString::to_string).collect()),
                proxy_client_cert_file: file("c"),
                proxy_client_key_file: file("k"),
                ..IdentityOptions::default()
            };
            let settings = options.resolve().unwrap();
            let told = settings.told_request_header().allowed_names;
            (settings.request_header().allowed_names, told)
        };
        let texts = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            named(&["a"], false),
            (texts(&["a"]), texts(&["front-proxy-client", "a"]))
        );
        assert_eq!(named(&["a"], true), (texts(&["a"]), texts(&["a"])));
        assert_eq!(named(&[""], false), (texts(&[]), texts(&[])));
    }
}
