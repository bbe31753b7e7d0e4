//! Webhooks that a kubeconfig file describes: authentication, authorization, audit and image policy.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use http::header::HeaderValue;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use skiff_base::SharedClock;

use super::connector::Connector;
use super::tls::{self, Identity, Trust};
use super::{Client, Credentials, plain};

/// Why a kubeconfig file describes no webhook.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{path}: {why}")]
pub struct KubeconfigError {
    path: String,
    why: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Kubeconfig {
    current_context: String,
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
    contexts: Vec<NamedContext>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    tls_server_name: Option<String>,
    insecure_skip_tls_verify: bool,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NamedUser {
    name: String,
    user: User,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    username: Option<String>,
    password: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
}

impl Client {
    /// A client for the server of a kubeconfig file's context (`None`: the current one), with its user's credentials. Paths
    /// in the file are relative to it.
    pub fn from_kubeconfig(
        path: &Path,
        context: Option<&str>,
        clock: SharedClock,
    ) -> Result<Self, KubeconfigError> {
        let read = || {
            let text = std::fs::read(path).map_err(|error| error.to_string())?;
            let config: Kubeconfig = skiff_api::schema::body::parse_configuration(&text)?;
            let base = path.parent().unwrap_or(Path::new("."));
            client(&config, context, base, clock)
        };
        read().map_err(|why| KubeconfigError {
            path: path.display().to_string(),
            why,
        })
    }
}

fn client(
    config: &Kubeconfig,
    context: Option<&str>,
    base: &Path,
    clock: SharedClock,
) -> Result<Client, String> {
    let wanted = context.unwrap_or(&config.current_context);
    let (cluster, user) = match config
        .contexts
        .iter()
        .find(|context| context.name == wanted)
    {
        Some(context) => (
            context.context.cluster.as_str(),
            context.context.user.as_str(),
        ),
        None if wanted.is_empty() => {
            let first = config.clusters.first().map(|cluster| cluster.name.as_str());
            (
                first.unwrap_or_default(),
                config.users.first().map_or("", |user| &user.name),
            )
        }
        None => return Err(format!("context {wanted:?} does not exist")),
    };
    let cluster = config.clusters.iter().find(|entry| entry.name == cluster);
    let cluster = &cluster.ok_or("invalid configuration: no cluster")?.cluster;
    let none = User::default();
    let user = config
        .users
        .iter()
        .find(|entry| entry.name == user)
        .map_or(&none, |entry| &entry.user);
    let url = url::Url::parse(&cluster.server)
        .map_err(|error| format!("server {:?}: {error}", cluster.server))?;
    let tls = match url.scheme() {
        "https" => Some(tls::client(&trust(cluster, base)?, identity(user, base)?)?),
        "http" => None,
        other => {
            return Err(format!(
                "server {:?}: scheme {other:?} is not known",
                cluster.server
            ));
        }
    };
    let connector = Connector::to_url(
        &url,
        tls,
        cluster
            .tls_server_name
            .as_deref()
            .filter(|name| !name.is_empty()),
    )?;
    Ok(Client::with(
        connector,
        plain(&url),
        credentials(user, base)?,
        clock,
    ))
}

fn trust(cluster: &Cluster, base: &Path) -> Result<Trust, String> {
    if cluster.insecure_skip_tls_verify {
        return Ok(Trust::Anybody);
    }
    let pem = data(
        cluster.certificate_authority_data.as_deref(),
        cluster.certificate_authority.as_deref(),
        base,
    )?;
    Ok(Trust::of(&pem.unwrap_or_default()))
}

fn identity(user: &User, base: &Path) -> Result<Option<Identity>, String> {
    let chain = data(
        user.client_certificate_data.as_deref(),
        user.client_certificate.as_deref(),
        base,
    )?;
    let key = data(
        user.client_key_data.as_deref(),
        user.client_key.as_deref(),
        base,
    )?;
    let (Some(chain), Some(key)) = (chain, key) else {
        return Ok(None);
    };
    let chain = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| format!("client certificate: {error}"))?;
    let key =
        PrivateKeyDer::from_pem_slice(&key).map_err(|error| format!("client key: {error}"))?;
    Ok(Some((chain, key)))
}

fn credentials(user: &User, base: &Path) -> Result<Credentials, String> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let authorization = match (given(&user.token), given(&user.username)) {
        (Some(token), _) => Some(bearer(&token)?),
        (None, Some(name)) => {
            let pair = format!("{name}:{}", user.password.as_deref().unwrap_or_default());
            let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
            Some(secret(&format!("Basic {encoded}"))?)
        }
        (None, None) => None,
    };
    let token_file = user.token_file.as_ref().filter(|_| authorization.is_none());
    Ok(Credentials {
        authorization,
        token_file: token_file.map(|path| base.join(path)),
    })
}

fn data(inline: Option<&str>, path: Option<&Path>, base: &Path) -> Result<Option<Vec<u8>>, String> {
    match (
        inline.filter(|text| !text.is_empty()),
        path.filter(|path| !path.as_os_str().is_empty()),
    ) {
        (Some(text), _) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text.trim());
            bytes.map(Some).map_err(|error| error.to_string())
        }
        (None, Some(path)) => {
            let path = base.join(path);
            std::fs::read(&path)
                .map(Some)
                .map_err(|error| format!("{}: {error}", path.display()))
        }
        (None, None) => Ok(None),
    }
}

fn secret(text: &str) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| "credentials that no header can carry".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

fn bearer(token: &str) -> Result<HeaderValue, String> {
    secret(&format!("Bearer {}", token.trim()))
}

/// The header of a token in a file.
pub(super) async fn bearer_from(path: &Path) -> Result<HeaderValue, String> {
    let token = tokio::fs::read_to_string(path).await;
    bearer(&token.map_err(|error| format!("{}: {error}", path.display()))?)
}
