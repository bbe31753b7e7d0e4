//! Who users are and what they may do, put together from the settings.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use skiff_apiserver::authn::configuration::{
    AuthenticationConfiguration, ClaimMappings, ClaimRule, Issuer, JwtIssuer, Mapping,
};
use skiff_apiserver::authn::reload::Configured;
use skiff_apiserver::authn::webhook::WebhookTokens;
use skiff_apiserver::authn::{
    Authentication, RequestHeader, TokenAuthenticator, TokenFile, TokenSettings, Tokens,
};
use skiff_apiserver::authz::Authorization;
use skiff_apiserver::authz::configuration::{
    AuthorizationConfiguration, ConnectionInfo, WebhookConfig,
};
use skiff_apiserver::follow::follow;
use skiff_store::Store;

use crate::config::identity::{IdentitySettings, OidcSettings};
use crate::pki::Pki;

use super::{Context, Running};

pub(super) fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

/// What issues and reads the tokens of service accounts.
pub(super) fn tokens(context: &Context, store: &Arc<dyn Store>) -> Result<Arc<Tokens>> {
    let (config, settings) = (&context.config, &context.config.identity);
    let own = format!("https://kubernetes.default.svc.{}", config.cluster_domain);
    let issuers = match settings.issuers.is_empty() {
        true => vec![own],
        false => settings.issuers.clone(),
    };
    let signing_key = match &settings.signing_key {
        Some(path) => read(path)?,
        None => context.pki.token_key()?,
    };
    let keys = settings.keys.iter().map(|path| read(path));
    let settings = TokenSettings {
        signing_key,
        keys: keys.collect::<Result<_>>()?,
        issuers,
        audiences: settings.audiences.clone(),
        max_expiration: settings.max_token_expiration,
        extend: settings.extend_tokens,
        jwks_uri: settings.jwks_uri.clone(),
    };
    let tokens = Tokens::with(&settings, store.clone(), context.clock.clone());
    Ok(Arc::new(
        tokens.context("the keys of service accounts' tokens")?,
    ))
}

/// The keys of this cluster's own front proxy, which aggregated servers know. Their authority signs nothing else: whoever has a
/// certificate of it may speak for any user.
pub(super) fn front_proxy_pki(context: &Context) -> Result<Pki> {
    let directory = context.config.data_dir.join("pki").join("front-proxy");
    Pki::open(&directory, context.clock.now())
}

/// The authorities of the front proxies that are believed, PEM: those of the settings, else our own.
pub(super) fn front_proxy_authorities(context: &Context) -> Result<String> {
    match &context.config.identity.front_proxy_authorities {
        Some(path) => read(path),
        None => Ok(front_proxy_pki(context)?.authority_pem),
    }
}

/// The authorities that other API servers are told to believe, PEM: the same, and ours where we show a certificate of it.
pub(super) fn told_front_proxy_authorities(context: &Context) -> Result<String> {
    let mut told = front_proxy_authorities(context)?;
    let identity = &context.config.identity;
    if identity.front_proxy_authorities.is_some() && identity.proxy_client.is_none() {
        told.push('\n');
        told.push_str(&front_proxy_pki(context)?.authority_pem);
    }
    Ok(told)
}

/// Who finds out users.
pub(super) fn authentication(
    context: &Context,
    tokens: &Arc<Tokens>,
    store: &Arc<dyn Store>,
    running: &mut Running,
) -> Result<Arc<Authentication>> {
    let settings = &context.config.identity;
    let (clock, audiences) = (context.clock.clone(), tokens.audiences().to_vec());
    let mut authentication = Authentication::new(
        tokens.clone(),
        store.clone(),
        clock.clone(),
        settings.anonymous,
    );
    if let Some(path) = &settings.token_file {
        authentication = authentication.with_token_file(TokenFile::read(path)?);
    }
    let (proxies, users) = (
        front_proxy_authorities(context)?,
        &context.pki.authority_pem,
    );
    let proxies = RequestHeader::new(&settings.request_header(), &proxies, users);
    let proxies = proxies.map_err(|why| anyhow!("the flags --requestheader-*: {why}"))?;
    authentication = authentication.with_front_proxies(proxies);
    let mut further: Vec<Arc<dyn TokenAuthenticator>> = Vec::new();
    if let Some(path) = &settings.token_webhook {
        let (version, ttl) = (&settings.token_webhook_version, settings.token_webhook_ttl);
        let webhook = WebhookTokens::new(path, version, ttl, audiences.clone(), clock.clone());
        let webhook = webhook.map_err(|why| anyhow!("the webhook for tokens: {why}"))?;
        further.push(Arc::new(webhook));
    }
    let authentication = Arc::new(authentication);
    let configured = Configured {
        authentication: authentication.clone(),
        further,
        anonymous: settings.anonymous,
        own_issuers: tokens.issuers().to_vec(),
        audiences,
        clock,
    };
    if let Some(path) = &settings.authentication_config {
        let followed = configured.file(path.clone())?;
        running.add(followed.follow(context.shutdown.child()));
    } else {
        let issuers = settings.oidc.as_ref().map(issuer).transpose()?;
        let config = AuthenticationConfiguration::of(issuers.into_iter().collect());
        let applied = configured.apply(&config);
        applied.map_err(|why| anyhow!("the flags --oidc-*: {why}"))?;
    }
    Ok(authentication)
}

fn issuer(settings: &OidcSettings) -> Result<JwtIssuer> {
    let required = settings.required_claims.iter();
    let authority = settings.ca_file.as_deref().map(read).transpose()?;
    Ok(JwtIssuer {
        issuer: Issuer {
            url: settings.issuer.clone(),
            audiences: vec![settings.client_id.clone()],
            certificate_authority: authority.unwrap_or_default(),
            ..Issuer::default()
        },
        claim_validation_rules: required
            .map(|(claim, value)| ClaimRule {
                claim: claim.clone(),
                required_value: value.clone(),
                ..ClaimRule::default()
            })
            .collect(),
        claim_mappings: ClaimMappings {
            username: Mapping {
                claim: settings.username_claim.clone(),
                prefix: Some(settings.username_prefix.clone()),
                ..Mapping::default()
            },
            groups: Mapping {
                claim: settings.groups_claim.clone(),
                prefix: Some(settings.groups_prefix.clone()),
                ..Mapping::default()
            },
            ..ClaimMappings::default()
        },
        algorithms: settings.algorithms.clone(),
        ..JwtIssuer::default()
    })
}

/// Says who is asked what users may do; a file is followed.
pub(super) fn authorization(
    context: &Context,
    authorization: &Arc<Authorization>,
    running: &mut Running,
) -> Result<()> {
    let settings = &context.config.identity;
    let Some(path) = settings.authorization_config.clone() else {
        let webhook = webhook(settings);
        let config = AuthorizationConfiguration::of(&settings.modes, webhook.as_ref());
        return configure(authorization, &config).context("the flags --authorization-*");
    };
    let text = read(&path)?;
    let apply = |authorization: &Authorization, text: &str| {
        let config = AuthorizationConfiguration::parse(text).map_err(anyhow::Error::msg)?;
        configure(authorization, &config)
    };
    apply(authorization, &text)
        .with_context(|| format!("the authorization configuration {}", path.display()))?;
    let (authorization, clock) = (authorization.clone(), context.clock.clone());
    let shutdown = context.shutdown.child();
    running.add(async move {
        let mut known = text;
        let changed = || {
            let applied = read(&path).and_then(|text| {
                if text == known {
                    return Ok(false);
                }
                apply(&authorization, &text)?;
                known = text;
                Ok(true)
            });
            match applied {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!(path = %path.display(), "the authorization configuration was reloaded");
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::error!(path = %path.display(), error, "the new authorization configuration is not used");
                }
            }
        };
        follow(&path, &clock, shutdown, changed).await;
    });
    Ok(())
}

fn configure(authorization: &Authorization, config: &AuthorizationConfiguration) -> Result<()> {
    let errors = config.validate();
    if !errors.is_empty() {
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        return Err(anyhow!(errors.join(", ")));
    }
    authorization.configure(config).map_err(anyhow::Error::msg)
}

fn webhook(settings: &IdentitySettings) -> Option<WebhookConfig> {
    let file = settings.webhook.as_ref()?;
    Some(WebhookConfig {
        authorized_ttl: settings.authorized_ttl.clone(),
        unauthorized_ttl: settings.unauthorized_ttl.clone(),
        timeout: "30s".to_owned(),
        subject_access_review_version: settings.webhook_version.clone(),
        failure_policy: "NoOpinion".to_owned(),
        connection_info: ConnectionInfo {
            kind: "KubeConfigFile".to_owned(),
            kube_config_file: Some(file.clone()),
        },
        ..WebhookConfig::default()
    })
}
