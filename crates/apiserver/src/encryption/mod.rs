//! Encryption at rest: what is secret is encrypted on its way to the store and decrypted on its way back.
//!
//! A layer between the generic pipeline and the store; neither knows of it. The watch cache above holds plain text, the
//! store below holds ciphertext. Formats and configuration are upstream's.

mod ciphers;
mod configuration;
mod kms;
mod rules;
mod store;

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use skiff_base::{SharedClock, Shutdown};
use skiff_store::Store;

use configuration::EncryptionConfiguration;
use rules::Rules;

/// The file is looked at this often: a change of a mounted volume may come without a sign.
const RELOAD_INTERVAL: Duration = Duration::from_secs(60);

/// Why something could not be encrypted or decrypted. Never says anything of keys or plain text.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct EncryptionError(String);

impl EncryptionError {
    fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// Encryption as one file configures it, changed while it runs when the file changes.
pub struct Encryption {
    path: PathBuf,
    clock: SharedClock,
    rules: Arc<ArcSwap<Rules>>,
    text: parking_lot::Mutex<String>,
}

impl Encryption {
    /// Reads a configuration. Key management services are asked for their first key here, so it needs a Tokio runtime.
    pub async fn open(path: &Path, clock: SharedClock) -> Result<Arc<Self>, EncryptionError> {
        let (text, rules) = load(path, &clock).await?;
        Ok(Arc::new(Self {
            path: path.to_owned(),
            clock,
            rules: Arc::new(ArcSwap::from_pointee(rules)),
            text: parking_lot::Mutex::new(text),
        }))
    }

    /// The store behind this encryption.
    #[must_use]
    pub fn over(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        Arc::new(store::EncryptedStore::new(store, self.rules.clone()))
    }

    /// What is wrong with the key management services; `None`: nothing.
    #[must_use]
    pub fn ailment(&self) -> Option<String> {
        self.rules.load().ailment()
    }

    /// Whether a key management service is asked.
    #[must_use]
    pub fn has_services(&self) -> bool {
        self.rules.load().has_services()
    }

    /// Reads the file again; answers whether it had changed. What it says is in force when this returns. An error leaves
    /// the old configuration in force.
    pub async fn reload(&self) -> Result<bool, EncryptionError> {
        let text = read(&self.path)?;
        if *self.text.lock() == text {
            return Ok(false);
        }
        let (text, rules) = load(&self.path, &self.clock).await?;
        if let Some(ailment) = rules.ailment() {
            return Err(EncryptionError::new(ailment));
        }
        self.rules.store(Arc::new(rules));
        *self.text.lock() = text;
        Ok(true)
    }

    /// Follows changes of the file until `shutdown`.
    pub async fn follow(self: Arc<Self>, shutdown: Shutdown) {
        let (changed, mut changes) = tokio::sync::mpsc::channel::<()>(1);
        let watcher = watch_directory(&self.path, changed);
        loop {
            tokio::select! {
                Some(()) = changes.recv() => {}
                () = self.clock.sleep(RELOAD_INTERVAL) => {}
                () = shutdown.triggered() => break,
            }
            match self.reload().await {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!(path = %self.path.display(), "the encryption configuration was reloaded")
                }
                Err(error) => {
                    tracing::error!(path = %self.path.display(), %error, "the new encryption configuration is not used");
                }
            }
        }
        drop(watcher);
    }
}

pub(crate) fn watch_directory(
    path: &Path,
    changed: tokio::sync::mpsc::Sender<()>,
) -> Option<notify::RecommendedWatcher> {
    use notify::Watcher as _;
    let directory = path.parent()?;
    let name = path.file_name()?.to_owned();
    let seen = move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        // Kubernetes swaps the folder behind mounted files by a link of this name.
        let ours = |path: &PathBuf| {
            path.file_name()
                .is_some_and(|changed| changed == name || changed == "..data")
        };
        if !event.kind.is_access() && event.paths.iter().any(ours) {
            // Full: a reload is due already.
            let _ = changed.try_send(());
        }
    };
    let watching = notify::recommended_watcher(seen).and_then(|mut watcher| {
        watcher.watch(directory, notify::RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    watching
        .inspect_err(|error| tracing::warn!(%error, path = %path.display(), "changes of the file are noticed within a minute only"))
        .ok()
}

fn read(path: &Path) -> Result<String, EncryptionError> {
    std::fs::read_to_string(path)
        .map_err(|error| EncryptionError::new(format!("reading {}: {error}", path.display())))
}

async fn load(path: &Path, clock: &SharedClock) -> Result<(String, Rules), EncryptionError> {
    let text = read(path)?;
    let named = |error: EncryptionError| {
        EncryptionError::new(format!(
            "encryption provider configuration file {:?}: {error}",
            path.display().to_string()
        ))
    };
    let configuration = EncryptionConfiguration::parse(&text).map_err(named)?;
    let rules = Rules::new(&configuration, clock).await.map_err(named)?;
    Ok((text, rules))
}

/// Makes the configuration that a cluster has by default, where there is none: Secrets under a new key, and what was
/// stored before goes on being read. It can be edited (another key put first) while the server runs.
pub fn generate(path: &Path) -> Result<(), EncryptionError> {
    if path.exists() {
        return Ok(());
    }
    let key = STANDARD.encode(ciphers::random::<32>()?);
    let text = format!(
        "# Secrets are encrypted with this key. Without it they are lost: keep a copy.\n\
         apiVersion: apiserver.config.k8s.io/v1\n\
         kind: EncryptionConfiguration\n\
         resources:\n\
         - resources: [secrets]\n  \
           providers:\n  \
           - aesgcm:\n      \
               keys:\n      \
               - name: key1\n        \
                 secret: {key}\n  \
           - identity: {{}}\n"
    );
    let failed = |error: std::io::Error| {
        EncryptionError::new(format!("writing {}: {error}", path.display()))
    };
    let fresh = path.with_extension("new");
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .map_err(failed)?;
    // On disk before anything is encrypted with it.
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| std::fs::rename(&fresh, path))
        .map_err(failed)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(failed)
}

#[cfg(test)]
mod tests;
