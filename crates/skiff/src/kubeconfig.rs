//! Kubeconfig files: the administrator's, and the user's own that `skiff up` adds a context to.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use kube::config::Kubeconfig;
use serde_json::{Value, json};

use crate::pki::{Leaf, write_private};

/// A kubeconfig with one cluster, user and context, all of the name `name`.
#[must_use]
pub fn document(name: &str, server: &str, authority_pem: &str, leaf: &Leaf) -> Value {
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    json!({
        "apiVersion": "v1", "kind": "Config", "preferences": {}, "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": encode(authority_pem)}}],
        "users": [{"name": name, "user": {"client-certificate-data": encode(&leaf.certificate), "client-key-data": encode(&leaf.key)}}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    })
}

/// Writes a document as YAML, for its owner's eyes only.
pub fn write(path: &Path, document: &Value) -> Result<()> {
    write_private(
        path,
        &serde_saphyr::to_string(document).context("writing YAML")?,
    )
}

/// The user's kubeconfig: the first of `$KUBECONFIG`, else `~/.kube/config`.
#[must_use]
pub fn users_file() -> Option<PathBuf> {
    let listed = std::env::var_os("KUBECONFIG")
        .and_then(|list| std::env::split_paths(&list).find(|path| !path.as_os_str().is_empty()));
    listed.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".kube/config")))
}

/// Puts the entries of `ours` into `theirs` under their names and makes our context the current one. Everything else stays.
#[must_use]
pub fn merged(theirs: Value, ours: &Value) -> Value {
    let mut merged = if theirs.is_object() {
        theirs
    } else {
        json!({"apiVersion": "v1", "kind": "Config", "preferences": {}})
    };
    for list in ["clusters", "users", "contexts"] {
        let entry = &ours[list][0];
        let mut entries = merged[list].as_array().cloned().unwrap_or_default();
        entries.retain(|existing| existing["name"] != entry["name"]);
        entries.push(entry.clone());
        merged[list] = entries.into();
    }
    merged["current-context"] = ours["current-context"].clone();
    merged
}

/// Takes the entries named `name` out again; the current context too, if it is that one.
#[must_use]
pub fn without(mut theirs: Value, name: &str) -> Value {
    for list in ["clusters", "users", "contexts"] {
        if let Some(entries) = theirs.get_mut(list).and_then(Value::as_array_mut) {
            entries.retain(|entry| entry["name"] != name);
        }
    }
    if theirs["current-context"] == name {
        theirs["current-context"] = "".into();
    }
    theirs
}

/// Reads a kubeconfig; `Null` when there is none.
pub fn read(path: &Path) -> Result<Value> {
    match std::fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => Ok(Value::Null),
        Ok(text) => serde_saphyr::from_str(&text)
            .with_context(|| format!("{} is no kubeconfig", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Value::Null),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

/// The API server that a kubeconfig leads to, and who one is there.
pub async fn target(path: &Path) -> Result<kube::Config> {
    let document = read(path)?;
    if document.is_null() {
        bail!("there is no kubeconfig {}", path.display());
    }
    // By way of JSON: a YAML decoder for each of kube's types is half a megabyte of code.
    let mut document: Kubeconfig = serde_json::from_value(document)
        .with_context(|| format!("{} is no kubeconfig", path.display()))?;
    let clusters = document
        .clusters
        .iter_mut()
        .filter_map(|named| named.cluster.as_mut());
    let users = document
        .auth_infos
        .iter_mut()
        .filter_map(|named| named.auth_info.as_mut());
    let files = clusters
        .map(|cluster| &mut cluster.certificate_authority)
        .chain(users.flat_map(|user| {
            [
                &mut user.client_certificate,
                &mut user.client_key,
                &mut user.token_file,
            ]
        }));
    let folder = std::path::absolute(path)?;
    let folder = folder.parent().unwrap_or(Path::new("/"));
    // What it names by relative paths is beside it.
    for file in files.flatten().filter(|file| !file.is_empty()) {
        *file = folder.join(&*file).to_string_lossy().into_owned();
    }
    let choice = kube::config::KubeConfigOptions::default();
    let target = kube::Config::from_custom_kubeconfig(document, &choice).await;
    target.with_context(|| format!("the kubeconfig {} leads nowhere", path.display()))
}

/// Adds our context to the user's file.
pub fn merge_into(path: &Path, ours: &Value) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    write(path, &merged(read(path)?, ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Value {
        document(
            "skiff",
            "https://127.0.0.1:6443",
            "CA",
            &Leaf {
                certificate: "C".into(),
                key: "K".into(),
            },
        )
    }

    #[test]
    fn merging_keeps_what_others_wrote_and_is_idempotent() {
        let theirs = json!({"apiVersion": "v1", "kind": "Config", "current-context": "work",
            "clusters": [{"name": "work", "cluster": {"server": "https://w"}}, {"name": "skiff", "cluster": {"server": "https://old"}}],
            "contexts": [{"name": "work", "context": {"cluster": "work"}}], "extensions": [1]});
        let once = merged(theirs.clone(), &ours());
        assert_eq!(once["current-context"], "skiff");
        assert_eq!(once["clusters"].as_array().unwrap().len(), 2);
        assert_eq!(once["extensions"], json!([1]));
        assert_eq!(merged(once.clone(), &ours()), once);
        let clean = without(once, "skiff");
        assert_eq!(
            (&clean["clusters"], &clean["current-context"]),
            (&json!([theirs["clusters"][0]]), &json!(""))
        );
    }

    #[test]
    fn a_file_is_made_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kube/config");
        merge_into(&path, &ours()).unwrap();
        assert_eq!(read(&path).unwrap()["users"][0]["name"], "skiff");
    }

    #[tokio::test]
    async fn a_kubeconfig_leads_to_a_server_and_names_files_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        let error = target(&path).await.unwrap_err().to_string();
        assert!(error.contains("there is no kubeconfig"), "{error}");
        let mut document = json!({"current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": "https://there:6443", "certificate-authority": "ca.crt"}}],
            "users": [{"name": "u", "user": {"client-certificate": "/etc/u.crt", "client-key": "keys/u.key", "tokenFile": "token"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u", "namespace": "n"}}]});
        write(&path, &document).unwrap();
        // Read as it leads somewhere.
        let error = format!("{:#}", target(&path).await.unwrap_err());
        assert!(
            error.contains(&*folder.path().join("ca.crt").to_string_lossy()),
            "{error}"
        );
        crate::pki::Pki::open(folder.path(), std::time::UNIX_EPOCH).unwrap();
        let found = target(&path).await.unwrap();
        assert_eq!(
            (found.cluster_url.to_string(), &*found.default_namespace),
            ("https://there:6443/".to_owned(), "n")
        );
        let user = found.auth_info;
        let inside = |name: &str| Some(folder.path().join(name).to_string_lossy().into_owned());
        assert_eq!(
            (user.client_certificate, user.client_key, user.token_file),
            (
                Some("/etc/u.crt".to_owned()),
                inside("keys/u.key"),
                inside("token")
            )
        );
        document["clusters"] = json!(1);
        write(&path, &document).unwrap();
        let error = target(&path).await.unwrap_err().to_string();
        assert!(error.contains("is no kubeconfig"), "{error}");
    }
}
