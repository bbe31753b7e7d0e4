//! Settings of the API server under the names of upstream's flags.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use skiff_apiserver::duration;
use skiff_apiserver::limits::Limits;

/// The API server's settings as a user gives them: flags, and keys under `apiServer` in the configuration file.
#[derive(Clone, Debug, Default, clap::Args, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ApiServerOptions {
    /// EncryptionConfiguration: which resources are encrypted in the database, and with which keys
    /// [default: <data-dir>/encryption.yaml, made at the first start: Secrets under a key of their own]
    #[arg(long, value_name = "FILE")]
    pub encryption_provider_config: Option<PathBuf>,
    /// Whether changes of the EncryptionConfiguration are followed while the server runs [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub encryption_provider_config_automatic_reload: Option<bool>,
    /// How long a request may take that is no watch or stream [default: 60s]
    #[arg(long, value_name = "DURATION")]
    pub request_timeout: Option<String>,
    /// Reading requests that are answered at once; priority levels share the sum of this and the next [default: 400]
    #[arg(long, value_name = "N")]
    pub max_requests_inflight: Option<u32>,
    /// Writing requests that are answered at once [default: 200]
    #[arg(long, value_name = "N")]
    pub max_mutating_requests_inflight: Option<u32>,
    /// Whether requests are queued fairly by priority levels and flow schemas [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub enable_priority_and_fairness: Option<bool>,
    /// Chance, 0 to 0.02, that a request over HTTP/2 makes its client connect anew [default: 0]
    #[arg(long, value_name = "CHANCE")]
    pub goaway_chance: Option<String>,
    /// How long the server goes on after it has said that it is not ready any more, when it stops [default: 0s]
    #[arg(long, value_name = "DURATION")]
    pub shutdown_delay_duration: Option<String>,
    /// Whether requests that come while the server stops are sent away with 429 and Retry-After [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub shutdown_send_retry_after: Option<bool>,
}

/// The API server's settings, complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the option of that name")]
#[serde(default)]
pub struct ApiServerSettings {
    /// `None`: the one in the data directory.
    pub encryption_provider_config: Option<PathBuf>,
    pub encryption_reload: bool,
    pub request_timeout: Duration,
    pub max_requests_inflight: u32,
    pub max_mutating_requests_inflight: u32,
    pub priority_and_fairness: bool,
    /// In millionths.
    pub goaway_chance: u32,
    pub shutdown_delay: Duration,
    pub send_retry_after: bool,
}

impl Default for ApiServerSettings {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            encryption_provider_config: None,
            encryption_reload: true,
            request_timeout: limits.request_timeout,
            max_requests_inflight: limits.max_requests_inflight,
            max_mutating_requests_inflight: limits.max_mutating_requests_inflight,
            priority_and_fairness: limits.fairness,
            goaway_chance: 0,
            shutdown_delay: limits.shutdown_delay,
            send_retry_after: limits.send_retry_after,
        }
    }
}

fn seconds(text: Option<&String>, flag: &str, otherwise: Duration) -> Result<Duration> {
    match text {
        None => Ok(otherwise),
        Some(text) => duration::parse(text)
            .with_context(|| format!("{flag} {text:?} is no duration such as 60s")),
    }
}

impl ApiServerOptions {
    /// Fills in the defaults and checks everything.
    pub fn resolve(self) -> Result<ApiServerSettings> {
        let usual = ApiServerSettings::default();
        let chance = match &self.goaway_chance {
            None => 0.0,
            Some(text) => text
                .parse::<f64>()
                .with_context(|| format!("--goaway-chance {text:?} is no number"))?,
        };
        if !(0.0..=0.02).contains(&chance) {
            bail!("--goaway-chance can not be less than 0 or greater than 0.02");
        }
        let settings = ApiServerSettings {
            encryption_provider_config: self.encryption_provider_config,
            encryption_reload: self
                .encryption_provider_config_automatic_reload
                .unwrap_or(usual.encryption_reload),
            request_timeout: seconds(
                self.request_timeout.as_ref(),
                "--request-timeout",
                usual.request_timeout,
            )?,
            max_requests_inflight: self
                .max_requests_inflight
                .unwrap_or(usual.max_requests_inflight),
            max_mutating_requests_inflight: self
                .max_mutating_requests_inflight
                .unwrap_or(usual.max_mutating_requests_inflight),
            priority_and_fairness: self
                .enable_priority_and_fairness
                .unwrap_or(usual.priority_and_fairness),
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "between 0 and 20,000"
            )]
            goaway_chance: (chance * 1e6) as u32,
            shutdown_delay: seconds(
                self.shutdown_delay_duration.as_ref(),
                "--shutdown-delay-duration",
                usual.shutdown_delay,
            )?,
            send_retry_after: self
                .shutdown_send_retry_after
                .unwrap_or(usual.send_retry_after),
        };
        if settings.request_timeout.is_zero() {
            bail!("--request-timeout can not be zero");
        }
        if settings.priority_and_fairness
            && settings.max_requests_inflight == 0
            && settings.max_mutating_requests_inflight == 0
        {
            bail!(
                "--max-requests-inflight and --max-mutating-requests-inflight cannot both be 0 with priority and fairness"
            );
        }
        Ok(settings)
    }
}

impl ApiServerSettings {
    /// What the server allows its clients.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            request_timeout: self.request_timeout,
            max_requests_inflight: self.max_requests_inflight,
            max_mutating_requests_inflight: self.max_mutating_requests_inflight,
            goaway_chance: f64::from(self.goaway_chance) / 1e6,
            shutdown_delay: self.shutdown_delay,
            send_retry_after: self.send_retry_after,
            fairness: self.priority_and_fairness,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_is_upstreams() {
        let settings = ApiServerOptions::default().resolve().unwrap();
        assert_eq!(settings, ApiServerSettings::default());
        assert_eq!(settings.limits(), Limits::default());
        for bad in [
            ApiServerOptions {
                goaway_chance: Some("0.5".into()),
                ..ApiServerOptions::default()
            },
            ApiServerOptions {
                request_timeout: Some("0".into()),
                ..ApiServerOptions::default()
            },
            ApiServerOptions {
                shutdown_delay_duration: Some("later".into()),
                ..ApiServerOptions::default()
            },
        ] {
            assert!(bad.resolve().is_err());
        }
    }
}
