//! The authentication configuration of a file in force, and followed while the server runs.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use skiff_base::{SharedClock, Shutdown};

use super::configuration::AuthenticationConfiguration;
use super::oidc::OidcAuthenticator;
use super::{Anonymous, Authentication, TokenAuthenticator};

/// Why a configuration is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("authentication configuration{}: {why}", path.as_ref().map(|path| format!(" {}", path.display())).unwrap_or_default())]
pub struct ConfigurationError {
    path: Option<PathBuf>,
    why: String,
}

/// Puts configurations in force.
pub struct Configured {
    /// What they are put into.
    pub authentication: Arc<Authentication>,
    /// Asked after the issuers: webhooks.
    pub further: Vec<Arc<dyn TokenAuthenticator>>,
    /// Who may come without credentials where a configuration does not say.
    pub anonymous: bool,
    /// The issuers of our own tokens.
    pub own_issuers: Vec<String>,
    /// The audiences of this API server.
    pub audiences: Vec<String>,
    /// The time.
    pub clock: SharedClock,
}

impl Configured {
    /// Puts a configuration in force; one with mistakes changes nothing.
    pub fn apply(&self, config: &AuthenticationConfiguration) -> Result<(), String> {
        let errors = config.validate(&self.own_issuers);
        if !errors.is_empty() {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            return Err(errors.join(", "));
        }
        let anonymous = config.anonymous.as_ref().map(Anonymous::from);
        let anonymous = anonymous.unwrap_or(Anonymous {
            enabled: self.anonymous,
            paths: Vec::new(),
        });
        let mut all: Vec<Arc<dyn TokenAuthenticator>> = Vec::new();
        for jwt in &config.jwt {
            let (audiences, clock) = (self.audiences.clone(), self.clock.clone());
            all.push(Arc::new(OidcAuthenticator::new(
                jwt.clone(),
                audiences,
                clock,
            )?));
        }
        all.extend(self.further.iter().cloned());
        self.authentication.set_dynamic(anonymous, all);
        Ok(())
    }

    /// Puts a file's configuration in force; hands back what follows it.
    pub fn file(self, path: PathBuf) -> Result<Followed, ConfigurationError> {
        let followed = Followed {
            configured: self,
            path,
            text: Mutex::default(),
        };
        followed.reload()?;
        Ok(followed)
    }
}

/// A configuration file in force.
pub struct Followed {
    configured: Configured,
    path: PathBuf,
    text: Mutex<Option<String>>,
}

impl Followed {
    /// Reads the file again; answers whether it had changed. What has mistakes is not used.
    pub fn reload(&self) -> Result<bool, ConfigurationError> {
        let failed = |why: String| ConfigurationError {
            path: Some(self.path.clone()),
            why,
        };
        let text =
            std::fs::read_to_string(&self.path).map_err(|error| failed(error.to_string()))?;
        let mut known = self.text.lock();
        if known.as_ref() == Some(&text) {
            return Ok(false);
        }
        let config = AuthenticationConfiguration::parse(&text).map_err(failed)?;
        self.configured.apply(&config).map_err(failed)?;
        *known = Some(text);
        Ok(true)
    }

    /// Follows the file until `shutdown`.
    pub async fn follow(self, shutdown: Shutdown) {
        let changed = || match self.reload() {
            Ok(false) => {}
            Ok(true) => {
                tracing::info!(path = %self.path.display(), "the authentication configuration was reloaded");
            }
            Err(error) => {
                tracing::error!(%error, "the new authentication configuration is not used");
            }
        };
        crate::follow::follow(&self.path, &self.configured.clock, shutdown, changed).await;
    }
}
