//! Settings of the election of a leader among several servers, under the names of upstream's flags.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use skiff_apiserver::duration;

/// How scheduler and controllers agree with those of other servers who works, as a user says it: flags, and keys under
/// `leading` in the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the names are those of upstream's flags")]
pub struct LeadingOptions {
    /// Whether scheduler and controllers work only while they hold their Lease in kube-system [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub leader_elect: Option<bool>,
    /// How long others wait after the last sign of a leader [default: 15s; 60s when the state is this server's alone]
    #[arg(long, value_name = "DURATION")]
    pub leader_elect_lease_duration: Option<String>,
    /// How long a leader tries to renew before it gives up [default: 10s; 40s when the state is this server's alone]
    #[arg(long, value_name = "DURATION")]
    pub leader_elect_renew_deadline: Option<String>,
    /// How long a leader waits between renewals [default: 2s; 20s when the state is this server's alone]
    #[arg(long, value_name = "DURATION")]
    pub leader_elect_retry_period: Option<String>,
}

/// The times of a Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is the option of that name")]
pub struct LeaseTimes {
    pub duration: Duration,
    pub renew_deadline: Duration,
    pub retry_period: Duration,
}

impl LeadingOptions {
    /// Checks the settings.
    pub fn resolve(self) -> Result<Self> {
        self.times(true)?;
        self.times(false)?;
        Ok(self)
    }

    /// The times; `None`: nobody is elected. Where the state is not `shared` with other servers nobody waits for this one:
    /// the Lease is there for tools, and is renewed seldom, unless a time is given.
    pub fn times(&self, shared: bool) -> Result<Option<LeaseTimes>> {
        let given = [
            &self.leader_elect_lease_duration,
            &self.leader_elect_renew_deadline,
            &self.leader_elect_retry_period,
        ];
        let plain = shared || given.into_iter().any(Option::is_some);
        let (slow, retry) = if plain { (1, 2) } else { (4, 20) };
        let read = |flag: &str, given: &Option<String>, default: u64| -> Result<Duration> {
            let Some(text) = given else {
                return Ok(Duration::from_secs(default));
            };
            duration::parse(text).with_context(|| {
                format!("--leader-elect-{flag} {text:?} is no duration such as 15s")
            })
        };
        let times = LeaseTimes {
            duration: read(
                "lease-duration",
                &self.leader_elect_lease_duration,
                15 * slow,
            )?,
            renew_deadline: read(
                "renew-deadline",
                &self.leader_elect_renew_deadline,
                10 * slow,
            )?,
            retry_period: read("retry-period", &self.leader_elect_retry_period, retry)?,
        };
        if times.duration.as_secs() < 1 || times.retry_period.is_zero() {
            bail!(
                "--leader-elect-lease-duration is a second or more, --leader-elect-retry-period is more than 0"
            );
        }
        if times.duration <= times.renew_deadline {
            bail!(
                "--leader-elect-lease-duration must be longer than --leader-elect-renew-deadline"
            );
        }
        // Upstream's rule: a leader that waits up to 1.2 times as long must be able to try twice.
        if times.renew_deadline.as_secs_f64() <= 1.2 * times.retry_period.as_secs_f64() {
            bail!(
                "--leader-elect-renew-deadline must be longer than 1.2 times --leader-elect-retry-period"
            );
        }
        Ok(self.leader_elect.unwrap_or(true).then_some(times))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_that_do_not_fit_are_refused() {
        let seconds = |times: LeaseTimes| {
            let all = [times.duration, times.renew_deadline, times.retry_period];
            all.map(|time| time.as_secs())
        };
        let default = |shared| LeadingOptions::default().times(shared).unwrap().unwrap();
        assert_eq!(seconds(default(true)), [15, 10, 2]);
        assert_eq!(seconds(default(false)), [60, 40, 20]);
        let longer = LeadingOptions {
            leader_elect_lease_duration: Some("30s".into()),
            ..LeadingOptions::default()
        };
        let longer = longer.resolve().unwrap().times(false).unwrap().unwrap();
        assert_eq!(seconds(longer), [30, 10, 2]);
        let off = LeadingOptions {
            leader_elect: Some(false),
            ..LeadingOptions::default()
        };
        assert_eq!(off.times(true).unwrap(), None);
        for (duration, deadline, retry) in [
            ("10s", "10s", "2s"),
            ("15s", "2s", "2s"),
            ("500ms", "300ms", "100ms"),
            ("soon", "10s", "2s"),
        ] {
            let options = LeadingOptions {
                leader_elect: None,
                leader_elect_lease_duration: Some(duration.into()),
                leader_elect_renew_deadline: Some(deadline.into()),
                leader_elect_retry_period: Some(retry.into()),
            };
            assert!(options.resolve().is_err(), "{duration} {deadline} {retry}");
        }
    }
}
