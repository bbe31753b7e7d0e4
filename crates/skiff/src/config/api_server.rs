//! Settings of the API server under the names of upstream's flags.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The API server's settings as a user gives them: flags, and keys under `apiServer` in the configuration file.
#[derive(Clone, Debug, Default, clap::Args, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ApiServerOptions {
    /// EncryptionConfiguration: which resources are encrypted in the database, and with which keys; changes are followed
    /// [default: <data-dir>/encryption.yaml, made at the first start: Secrets under a key of their own]
    #[arg(long, value_name = "FILE")]
    pub encryption_provider_config: Option<PathBuf>,
    /// Whether changes of the EncryptionConfiguration are followed while the server runs [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub encryption_provider_config_automatic_reload: Option<bool>,
}

/// The API server's settings, complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the option of that name")]
#[serde(default)]
pub struct ApiServerSettings {
    /// `None`: the one in the data directory.
    pub encryption_provider_config: Option<PathBuf>,
    pub encryption_reload: bool,
}

impl Default for ApiServerSettings {
    fn default() -> Self {
        ApiServerOptions::default().resolve()
    }
}

impl ApiServerOptions {
    /// Fills in the defaults.
    #[must_use]
    pub fn resolve(self) -> ApiServerSettings {
        ApiServerSettings {
            encryption_provider_config: self.encryption_provider_config,
            encryption_reload: self
                .encryption_provider_config_automatic_reload
                .unwrap_or(true),
        }
    }
}
