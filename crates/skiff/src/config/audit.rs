//! Settings of the audit log, under the names of upstream's flags.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use skiff_apiserver::audit::{
    AuditSettings, BackendSettings, LogSettings, Mode, TruncateSettings, WebhookSettings,
};
use skiff_apiserver::duration;

/// The audit log's settings as a user gives them: flags, and keys under `audit` in the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the names are those of upstream's flags")]
pub struct AuditOptions {
    /// Audit policy: what is recorded of which requests [default: none, nothing is recorded]
    #[arg(long, value_name = "FILE")]
    pub audit_policy_file: Option<PathBuf>,
    /// File that audit events are written to, - for standard output [default: none]
    #[arg(long, value_name = "FILE")]
    pub audit_log_path: Option<PathBuf>,
    /// Days that rotated audit logs are kept, 0 for ever [default: 366]
    #[arg(long, value_name = "DAYS")]
    pub audit_log_maxage: Option<u64>,
    /// Number of rotated audit logs that are kept, 0 for all [default: 100]
    #[arg(long, value_name = "N")]
    pub audit_log_maxbackup: Option<usize>,
    /// Megabytes that the audit log may have before it is rotated [default: 100]
    #[arg(long, value_name = "MEGABYTES")]
    pub audit_log_maxsize: Option<u64>,
    /// Whether rotated audit logs are compressed [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub audit_log_compress: Option<bool>,
    /// Format of the audit log: json or legacy [default: json]
    #[arg(long, value_name = "FORMAT")]
    pub audit_log_format: Option<String>,
    /// Version of audit events in the log [default: audit.k8s.io/v1]
    #[arg(long, value_name = "VERSION")]
    pub audit_log_version: Option<String>,
    /// How events get to the log: batch, blocking or blocking-strict [default: blocking]
    #[arg(long, value_name = "MODE")]
    pub audit_log_mode: Option<String>,
    /// Events that may wait for the log, in batch mode [default: 10000]
    #[arg(long, value_name = "N")]
    pub audit_log_batch_buffer_size: Option<usize>,
    /// Events of a batch for the log [default: 1]
    #[arg(long, value_name = "N")]
    pub audit_log_batch_max_size: Option<usize>,
    /// How long a batch for the log waits for more [default: 0s]
    #[arg(long, value_name = "DURATION")]
    pub audit_log_batch_max_wait: Option<String>,
    /// Whether batches for the log are held back [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub audit_log_batch_throttle_enable: Option<bool>,
    /// Batches a second for the log [default: 0]
    #[arg(long, value_name = "N")]
    pub audit_log_batch_throttle_qps: Option<String>,
    /// Batches at once for the log after a pause [default: 0]
    #[arg(long, value_name = "N")]
    pub audit_log_batch_throttle_burst: Option<u32>,
    /// Whether large events for the log are cut down [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub audit_log_truncate_enabled: Option<bool>,
    /// Bytes of a batch for the log [default: 10485760]
    #[arg(long, value_name = "BYTES")]
    pub audit_log_truncate_max_batch_size: Option<usize>,
    /// Bytes of an event for the log [default: 102400]
    #[arg(long, value_name = "BYTES")]
    pub audit_log_truncate_max_event_size: Option<usize>,
    /// Kubeconfig of a webhook that audit events are sent to [default: none]
    #[arg(long, value_name = "FILE")]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// Pause before a failed call of the webhook is tried again [default: 10s]
    #[arg(long, value_name = "DURATION")]
    pub audit_webhook_initial_backoff: Option<String>,
    /// Version of audit events for the webhook [default: audit.k8s.io/v1]
    #[arg(long, value_name = "VERSION")]
    pub audit_webhook_version: Option<String>,
    /// How events get to the webhook: batch, blocking or blocking-strict [default: batch]
    #[arg(long, value_name = "MODE")]
    pub audit_webhook_mode: Option<String>,
    /// Events that may wait for the webhook, in batch mode [default: 10000]
    #[arg(long, value_name = "N")]
    pub audit_webhook_batch_buffer_size: Option<usize>,
    /// Events of a batch for the webhook [default: 400]
    #[arg(long, value_name = "N")]
    pub audit_webhook_batch_max_size: Option<usize>,
    /// How long a batch for the webhook waits for more [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub audit_webhook_batch_max_wait: Option<String>,
    /// Whether batches for the webhook are held back [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub audit_webhook_batch_throttle_enable: Option<bool>,
    /// Batches a second for the webhook [default: 10]
    #[arg(long, value_name = "N")]
    pub audit_webhook_batch_throttle_qps: Option<String>,
    /// Batches at once for the webhook after a pause [default: 15]
    #[arg(long, value_name = "N")]
    pub audit_webhook_batch_throttle_burst: Option<u32>,
    /// Whether large events for the webhook are cut down [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub audit_webhook_truncate_enabled: Option<bool>,
    /// Bytes of a batch for the webhook [default: 10485760]
    #[arg(long, value_name = "BYTES")]
    pub audit_webhook_truncate_max_batch_size: Option<usize>,
    /// Bytes of an event for the webhook [default: 102400]
    #[arg(long, value_name = "BYTES")]
    pub audit_webhook_truncate_max_event_size: Option<usize>,
}

/// The flags that both ways have.
struct Way<'a> {
    name: &'static str,
    mode: Option<&'a String>,
    version: Option<&'a String>,
    buffer_size: Option<usize>,
    max_size: Option<usize>,
    max_wait: Option<&'a String>,
    throttle: Option<bool>,
    qps: Option<&'a String>,
    burst: Option<u32>,
    truncate: Option<bool>,
    max_batch_bytes: Option<usize>,
    max_event_bytes: Option<usize>,
}

impl Way<'_> {
    fn settings(&self, mut settings: BackendSettings) -> Result<BackendSettings> {
        let name = self.name;
        if let Some(mode) = self.mode {
            settings.mode = Mode::parse(mode).with_context(|| {
                format!("invalid audit {name} mode {mode}, allowed modes are \"batch,blocking,blocking-strict\"")
            })?;
        }
        if let Some(version) = self.version
            && version != "audit.k8s.io/v1"
        {
            bail!("invalid group version, allowed versions are [\"audit.k8s.io/v1\"]");
        }
        let batch = &mut settings.batch;
        batch.buffer_size = self.buffer_size.unwrap_or(batch.buffer_size);
        batch.max_size = self.max_size.unwrap_or(batch.max_size);
        if let Some(text) = self.max_wait {
            batch.max_wait = duration::parse(text).with_context(|| {
                format!("--audit-{name}-batch-max-wait {text:?} is no duration such as 30s")
            })?;
        }
        let (rate, burst) = batch.throttle.unwrap_or((0.0, 0));
        let rate = match self.qps {
            None => rate,
            Some(text) => text.parse().with_context(|| {
                format!("--audit-{name}-batch-throttle-qps {text:?} is no number")
            })?,
        };
        let burst = self.burst.unwrap_or(burst);
        batch.throttle = self
            .throttle
            .unwrap_or(batch.throttle.is_some())
            .then_some((rate, burst));
        if settings.mode == Mode::Batch {
            let batch = &settings.batch;
            if batch.buffer_size == 0 || batch.max_size == 0 {
                bail!("invalid audit batch {name} size, must be a positive number");
            }
            if let Some((rate, burst)) = batch.throttle
                && (rate <= 0.0 || burst == 0)
            {
                bail!("invalid audit batch {name} throttle, must be positive numbers");
            }
        }
        if self.truncate == Some(true) {
            let truncate = TruncateSettings {
                max_batch_size: self.max_batch_bytes.unwrap_or(10 << 20),
                max_event_size: self.max_event_bytes.unwrap_or(100 << 10),
            };
            if truncate.max_event_size == 0 || truncate.max_batch_size < truncate.max_event_size {
                bail!(
                    "invalid audit truncate {name} max batch size, must be greater than max event size, and both positive"
                );
            }
            settings.truncate = Some(truncate);
        }
        Ok(settings)
    }
}

impl AuditOptions {
    /// Fills in the defaults and checks everything.
    pub fn settings(&self) -> Result<AuditSettings> {
        let log = Way {
            name: "log",
            mode: self.audit_log_mode.as_ref(),
            version: self.audit_log_version.as_ref(),
            buffer_size: self.audit_log_batch_buffer_size,
            max_size: self.audit_log_batch_max_size,
            max_wait: self.audit_log_batch_max_wait.as_ref(),
            throttle: self.audit_log_batch_throttle_enable,
            qps: self.audit_log_batch_throttle_qps.as_ref(),
            burst: self.audit_log_batch_throttle_burst,
            truncate: self.audit_log_truncate_enabled,
            max_batch_bytes: self.audit_log_truncate_max_batch_size,
            max_event_bytes: self.audit_log_truncate_max_event_size,
        };
        let webhook = Way {
            name: "webhook",
            mode: self.audit_webhook_mode.as_ref(),
            version: self.audit_webhook_version.as_ref(),
            buffer_size: self.audit_webhook_batch_buffer_size,
            max_size: self.audit_webhook_batch_max_size,
            max_wait: self.audit_webhook_batch_max_wait.as_ref(),
            throttle: self.audit_webhook_batch_throttle_enable,
            qps: self.audit_webhook_batch_throttle_qps.as_ref(),
            burst: self.audit_webhook_batch_throttle_burst,
            truncate: self.audit_webhook_truncate_enabled,
            max_batch_bytes: self.audit_webhook_truncate_max_batch_size,
            max_event_bytes: self.audit_webhook_truncate_max_event_size,
        };
        let legacy = match self.audit_log_format.as_deref().unwrap_or("json") {
            "json" => false,
            "legacy" => true,
            other => bail!("invalid audit log format {other}, allowed formats are \"legacy,json\""),
        };
        let log = log.settings(BackendSettings::log())?;
        let webhook = webhook.settings(BackendSettings::webhook())?;
        let backoff = self
            .audit_webhook_initial_backoff
            .as_deref()
            .unwrap_or("10s");
        let initial_backoff = duration::parse(backoff).with_context(|| {
            format!("--audit-webhook-initial-backoff {backoff:?} is no duration such as 10s")
        })?;
        Ok(AuditSettings {
            policy_file: self.audit_policy_file.clone(),
            log: self.audit_log_path.clone().map(|path| {
                let file = LogSettings {
                    path,
                    legacy,
                    max_age_days: self.audit_log_maxage.unwrap_or(366),
                    max_backups: self.audit_log_maxbackup.unwrap_or(100),
                    max_megabytes: self.audit_log_maxsize.unwrap_or(100),
                    compress: self.audit_log_compress.unwrap_or(false),
                };
                (file, log)
            }),
            webhook: self
                .audit_webhook_config_file
                .clone()
                .map(|config_file| WebhookSettings {
                    config_file,
                    initial_backoff,
                    backend: webhook,
                }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_defaults_are_upstreams_and_nonsense_is_refused() {
        let settings = AuditOptions::default().settings().unwrap();
        assert_eq!(settings, AuditSettings::default());
        let options = AuditOptions {
            audit_log_path: Some("/a".into()),
            audit_webhook_config_file: Some("/b".into()),
            audit_webhook_batch_max_wait: Some("5s".into()),
            ..AuditOptions::default()
        };
        let settings = options.settings().unwrap();
        let (log, backend) = settings.log.unwrap();
        assert_eq!((log.max_age_days, backend.mode), (366, Mode::Blocking));
        let webhook = settings.webhook.unwrap();
        assert_eq!(webhook.backend.mode, Mode::Batch);
        assert_eq!(webhook.backend.batch.max_wait, Duration::from_secs(5));
        assert_eq!(webhook.backend.batch.throttle, Some((10.0, 15)));
        for bad in [
            AuditOptions {
                audit_log_mode: Some("sometimes".into()),
                ..AuditOptions::default()
            },
            AuditOptions {
                audit_log_format: Some("xml".into()),
                ..AuditOptions::default()
            },
            AuditOptions {
                audit_webhook_initial_backoff: Some("soon".into()),
                ..AuditOptions::default()
            },
        ] {
            assert!(bad.settings().is_err());
        }
    }
}
