//! Finds the credentials for a registry in a pod's `imagePullSecrets`.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;
use skiff_runtime::cri::AuthConfig;

#[derive(Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Clone, Default, Deserialize)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default)]
    identitytoken: String,
}

/// The credentials that fit `image`, the most specific first.
#[must_use]
pub fn lookup(secrets: &[Arc<Secret>], image: &str) -> Vec<AuthConfig> {
    let target = normalized(image);
    let mut found: Vec<(usize, AuthConfig)> = Vec::new();
    for secret in secrets {
        for (registry, entry) in entries(secret) {
            let pattern = registry
                .trim_start_matches("https://")
                .trim_start_matches("http://")
                .trim_end_matches('/');
            let pattern = pattern
                .strip_suffix("/v1")
                .or_else(|| pattern.strip_suffix("/v2"))
                .unwrap_or(pattern);
            if fits(pattern, &target) {
                found.push((pattern.len(), auth(&registry, &entry)));
            }
        }
    }
    found.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    found.into_iter().map(|(_, auth)| auth).collect()
}

fn entries(secret: &Secret) -> Vec<(String, Entry)> {
    let Some(data) = &secret.data else {
        return Vec::new();
    };
    let json = data.get(".dockerconfigjson");
    let old = data.get(".dockercfg");
    let parsed = match (json, old) {
        (Some(bytes), _) => serde_json::from_slice::<DockerConfig>(&bytes.0).map(|c| c.auths),
        (None, Some(bytes)) => serde_json::from_slice::<BTreeMap<String, Entry>>(&bytes.0),
        (None, None) => return Vec::new(),
    };
    match parsed {
        Ok(auths) => auths.into_iter().collect(),
        Err(error) => {
            let name = secret.metadata.name.as_deref().unwrap_or_default();
            tracing::debug!(secret = name, %error, "image pull secret cannot be read");
            Vec::new()
        }
    }
}

fn auth(registry: &str, entry: &Entry) -> AuthConfig {
    let mut username = entry.username.clone();
    let mut password = entry.password.clone();
    if username.is_empty()
        && let Ok(decoded) = STANDARD.decode(entry.auth.trim())
        && let Ok(text) = String::from_utf8(decoded)
        && let Some((user, word)) = text.split_once(':')
    {
        user.clone_into(&mut username);
        word.trim_end_matches('\0').clone_into(&mut password);
    }
    AuthConfig {
        username,
        password,
        server_address: registry.to_owned(),
        identity_token: entry.identitytoken.clone(),
        ..Default::default()
    }
}

/// `host/path` of an image, with the default registry spelled out.
fn normalized(image: &str) -> String {
    let image = image.split('@').next().unwrap_or(image);
    let first = image.split('/').next().unwrap_or_default();
    let has_host =
        image.contains('/') && (first.contains('.') || first.contains(':') || first == "localhost");
    match (has_host, image.contains('/')) {
        (true, _) if first == "docker.io" => image.replacen("docker.io", "index.docker.io", 1),
        (true, _) => image.to_owned(),
        (false, true) => format!("index.docker.io/{image}"),
        (false, false) => format!("index.docker.io/library/{image}"),
    }
}

/// Whether a registry with an optional path covers the image; `*` stands for one label of the host.
fn fits(pattern: &str, target: &str) -> bool {
    let (host, path) = pattern.split_once('/').unwrap_or((pattern, ""));
    let (target_host, target_path) = target.split_once('/').unwrap_or((target, ""));
    let host = if host == "docker.io" {
        "index.docker.io"
    } else {
        host
    };
    let labels: Vec<&str> = host.split('.').collect();
    let target_labels: Vec<&str> = target_host.split('.').collect();
    let host_fits = labels.len() == target_labels.len()
        && labels
            .iter()
            .zip(&target_labels)
            .all(|(label, wanted)| *label == "*" || label == wanted);
    host_fits && target_path.starts_with(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn the_most_specific_first() {
        let config = r#"{"auths": {
            "https://index.docker.io/v1/": {"username": "hub", "password": "p"},
            "r.io": {"auth": "YW5uOnNlY3JldA=="},
            "r.io/team": {"username": "team", "password": "t"},
            "*.wild.io": {"username": "wild", "password": "w"}}}"#;
        let secret = Arc::new(Secret {
            data: Some([(".dockerconfigjson".into(), ByteString(config.into()))].into()),
            ..Default::default()
        });
        let users = |image: &str| -> Vec<String> {
            let list = lookup(std::slice::from_ref(&secret), image);
            list.into_iter().map(|auth| auth.username).collect()
        };
        assert_eq!(users("nginx"), ["hub"]);
        assert_eq!(users("docker.io/library/nginx:1"), ["hub"]);
        assert_eq!(users("r.io/team/app:1"), ["team", "ann"]);
        assert_eq!(users("r.io/other"), ["ann"]);
        assert_eq!(users("a.wild.io/x"), ["wild"]);
        assert!(users("nowhere.io/x").is_empty());
    }
}
