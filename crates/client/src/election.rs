//! Makes sure that of several instances of a component one works, by a Lease that the leader renews.
//!
//! A follower takes over when it has not seen the lease change for the time that the lease names, by its
//! own monotonic clock: clocks of different machines are never compared. A leader may write only as long as its own
//! clock says that nobody can have taken over yet ([`Fence`]), however late it notices that it has lost the lease.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use kube::{Client, Error};
use skiff_base::lifecycle::ComponentError;
use skiff_base::{Component, Random, SharedClock, Shutdown};

use crate::events::{EventRecorder, EventStyle, EventType};
use crate::failure::{is_not_found, message};
use crate::fence::Fence;

/// Which lease, and how fast. The defaults of the times are upstream's.
#[derive(Clone, Debug)]
pub struct ElectionConfig {
    /// The namespace of the lease.
    pub namespace: String,
    /// The name of the lease.
    pub name: String,
    /// Who we are; no two instances share it.
    pub identity: String,
    /// How long a lease is respected that does not change.
    pub lease_duration: Duration,
    /// How long a leader tries to renew before it gives up.
    pub renew_deadline: Duration,
    /// The time between tries.
    pub retry_period: Duration,
}

/// A candidate never waits longer than this before it tries to get the lease.
const CANDIDATE_RETRY: Duration = Duration::from_secs(2);

impl ElectionConfig {
    /// 15 s, 10 s and 2 s.
    #[must_use]
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// The lease as we last saw it change.
#[derive(Clone, Debug, Default)]
struct Observation {
    spec: Option<LeaseSpec>,
    at: Duration,
}

/// What to write, if anything.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// Someone else leads.
    Follow,
    /// Write this.
    Write(LeaseSpec),
}

fn decide(
    config: &ElectionConfig,
    observed: &Observation,
    monotonic: Duration,
    now: MicroTime,
) -> Step {
    let seconds = i32::try_from(config.lease_duration.as_secs()).unwrap_or(i32::MAX);
    let mut spec = LeaseSpec {
        holder_identity: Some(config.identity.clone()),
        lease_duration_seconds: Some(seconds),
        acquire_time: Some(now.clone()),
        renew_time: Some(now),
        lease_transitions: Some(0),
        ..LeaseSpec::default()
    };
    let Some(old) = &observed.spec else {
        return Step::Write(spec);
    };
    let holder = old.holder_identity.as_deref().unwrap_or_default();
    let transitions = old.lease_transitions.unwrap_or(0);
    if holder == config.identity {
        spec.acquire_time.clone_from(&old.acquire_time);
        spec.lease_transitions = Some(transitions);
        return Step::Write(spec);
    }
    let respected = u64::try_from(old.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
    if !holder.is_empty() && observed.at + Duration::from_secs(respected) > monotonic {
        return Step::Follow;
    }
    spec.lease_transitions = Some(transitions.saturating_add(1));
    Step::Write(spec)
}

/// One candidate.
pub struct LeaderElector {
    api: Api<Lease>,
    config: ElectionConfig,
    clock: SharedClock,
    random: Random,
    observed: Observation,
    lease: Option<Lease>,
    fence: Fence,
    recorder: Option<EventRecorder>,
}

impl LeaderElector {
    /// A candidate that has not started.
    #[must_use]
    pub fn new(client: Client, config: ElectionConfig, clock: SharedClock, random: Random) -> Self {
        Self {
            api: Api::namespaced(client, &config.namespace),
            config,
            clock,
            random,
            observed: Observation::default(),
            lease: None,
            fence: Fence::closed(),
            recorder: None,
        }
    }

    /// Opens and closes this fence with the lease.
    #[must_use]
    pub fn with_fence(mut self, fence: Fence) -> Self {
        self.fence = fence;
        self
    }

    /// Tells of changes of the leader by events of the lease.
    #[must_use]
    pub fn with_events(mut self, recorder: EventRecorder) -> Self {
        self.recorder = Some(recorder);
        self
    }

    /// Waits until this instance leads, then runs `lead` until it ends, leadership is lost or `shutdown`
    /// comes; the signal that `lead` gets is given in the latter two cases. The lease is given back at
    /// the end, so that another instance need not wait. Answers whether leadership was lost.
    pub async fn run<F, L>(mut self, shutdown: Shutdown, lead: L) -> bool
    where
        L: FnOnce(Shutdown) -> F,
        F: Future<Output = ()>,
    {
        while !self.try_once().await {
            let period = self.config.retry_period.min(CANDIDATE_RETRY);
            let delay = period.mul_f64(1.0 + 1.2 * self.random.fraction());
            tokio::select! {
                () = self.clock.sleep(delay) => {}
                () = shutdown.triggered() => return false,
            }
        }
        self.tell("became leader");
        let leading = shutdown.child();
        let work = lead(leading.clone());
        tokio::pin!(work);
        let lost = tokio::select! {
            () = &mut work => false,
            () = shutdown.triggered() => {
                work.await;
                false
            }
            () = self.renew() => {
                leading.trigger();
                work.await;
                true
            }
        };
        self.tell("stopped leading");
        if !lost {
            self.release().await;
        }
        self.fence.close();
        lost
    }

    fn tell(&self, what: &str) {
        if let (Some(recorder), Some(lease)) = (&self.recorder, &self.lease) {
            let text = format!("{} {what}", self.config.identity);
            recorder.about(lease, EventType::Normal, "LeaderElection", text);
        }
    }

    /// Renews until that has failed for the renew deadline.
    async fn renew(&mut self) {
        let mut renewed = self.clock.monotonic();
        loop {
            self.clock.sleep(self.config.retry_period).await;
            // From when the request was sent: others may have seen it that early.
            let tried = self.clock.monotonic();
            let left = self
                .config
                .renew_deadline
                .saturating_sub(tried.saturating_sub(renewed));
            let clock = self.clock.clone();
            let success = tokio::select! {
                success = self.try_once() => success,
                () = clock.sleep(left) => false,
            };
            let now = self.clock.monotonic();
            if success {
                renewed = tried;
            } else if self.is_taken() || now.saturating_sub(renewed) >= self.config.renew_deadline {
                self.fence.close();
                tracing::error!(lease = self.config.name, "leadership lost");
                return;
            }
        }
    }

    /// Whether somebody else was seen to hold the lease.
    fn is_taken(&self) -> bool {
        let spec = self.observed.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref());
        holder.is_some_and(|holder| !holder.is_empty() && holder != self.config.identity)
    }

    /// Tries to get or keep the lease; answers whether we hold it.
    async fn try_once(&mut self) -> bool {
        let sent = self.clock.monotonic();
        match self.attempt().await {
            Ok(leading) => {
                if leading {
                    self.fence.open_until(sent + self.config.renew_deadline);
                }
                leading
            }
            Err(error) => {
                // What we believe of the lease may be wrong: read it next time.
                self.lease = None;
                tracing::debug!(
                    lease = self.config.name,
                    error = message(&error),
                    "lease attempt failed"
                );
                false
            }
        }
    }

    async fn attempt(&mut self) -> Result<bool, Error> {
        let held = |observation: &Observation, identity: &str| {
            let holder = observation
                .spec
                .as_ref()
                .and_then(|spec| spec.holder_identity.as_deref());
            holder == Some(identity)
        };
        // The holder writes on what it wrote last; everybody else has to look.
        if self.lease.is_none() || !held(&self.observed, &self.config.identity) {
            let lease = match self.api.get(&self.config.name).await {
                Ok(lease) => Some(lease),
                Err(error) if is_not_found(&error) => None,
                Err(error) => return Err(error),
            };
            self.observe(lease);
        }
        let now = crate::micro_timestamp(&*self.clock);
        let Step::Write(spec) = decide(&self.config, &self.observed, self.clock.monotonic(), now)
        else {
            return Ok(false);
        };
        self.write(spec).await?;
        Ok(true)
    }

    fn observe(&mut self, lease: Option<Lease>) {
        let spec = lease
            .as_ref()
            .map(|lease| lease.spec.clone().unwrap_or_default());
        if spec != self.observed.spec {
            self.observed = Observation {
                spec,
                at: self.clock.monotonic(),
            };
        }
        self.lease = lease;
    }

    async fn write(&mut self, spec: LeaseSpec) -> Result<(), Error> {
        let parameters = PostParams::default();
        let lease = if let Some(mut lease) = self.lease.clone() {
            lease.spec = Some(spec);
            self.api
                .replace(&self.config.name, &parameters, &lease)
                .await?
        } else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.config.name.clone()),
                    namespace: Some(self.config.namespace.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(spec),
            };
            self.api.create(&parameters, &lease).await?
        };
        self.observe(Some(lease));
        Ok(())
    }

    async fn release(&mut self) {
        let Some(old) = self.observed.spec.clone() else {
            return;
        };
        let now = crate::micro_timestamp(&*self.clock);
        let spec = LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: old.lease_transitions,
            ..LeaseSpec::default()
        };
        if let Err(error) = self.write(spec).await {
            tracing::debug!(
                lease = self.config.name,
                error = message(&error),
                "lease was not given back"
            );
        }
    }
}

/// A component that works only while it holds a lease; otherwise it stands by.
pub struct Elected {
    inner: Arc<dyn Component>,
    client: Client,
    config: ElectionConfig,
    fence: Fence,
    clock: SharedClock,
    random: Random,
}

impl Elected {
    /// `inner`, whose clients write through `fence` ([`crate::fence::Fenced`]). `client` may write the lease and events.
    #[must_use]
    pub fn component(
        inner: Arc<dyn Component>,
        client: Client,
        config: ElectionConfig,
        fence: Fence,
        clock: SharedClock,
        random: Random,
    ) -> Arc<dyn Component> {
        Arc::new(Self {
            inner,
            client,
            config,
            fence,
            clock,
            random,
        })
    }
}

#[async_trait]
impl Component for Elected {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    async fn run(&self, shutdown: Shutdown) -> Result<(), ComponentError> {
        let recorder = EventRecorder::new(
            self.client.clone(),
            &self.config.name,
            "",
            EventStyle::Core,
            self.clock.clone(),
            self.random.clone(),
        );
        loop {
            let mut outcome = Ok(());
            let ended = &mut outcome;
            let (clock, random) = (self.clock.clone(), self.random.clone());
            let lost = LeaderElector::new(self.client.clone(), self.config.clone(), clock, random)
                .with_fence(self.fence.clone())
                .with_events(recorder.clone())
                .run(shutdown.clone(), |leading| async move {
                    *ended = self.inner.run(leading).await;
                })
                .await;
            // Who lost the lease, because the store was full or the server away, is a candidate again at once.
            if !lost {
                return outcome;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> MicroTime {
        MicroTime(jiff::Timestamp::from_second(1000).unwrap())
    }

    fn observation(holder: &str, transitions: i32) -> Observation {
        Observation {
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.into()),
                lease_duration_seconds: Some(15),
                acquire_time: Some(MicroTime(jiff::Timestamp::from_second(5).unwrap())),
                lease_transitions: Some(transitions),
                ..LeaseSpec::default()
            }),
            at: Duration::from_secs(100),
        }
    }

    #[test]
    fn takes_what_is_free_expired_or_its_own() {
        let config = ElectionConfig::new("kube-system", "scheduler", "me");
        for (observed, at, expected) in [
            (Observation::default(), 0, Some((0, 1000))),
            (observation("me", 3), 200, Some((3, 5))),
            (observation("you", 3), 114, None),
            (observation("you", 3), 115, Some((4, 1000))),
            (observation("", 3), 101, Some((4, 1000))),
        ] {
            let step = decide(&config, &observed, Duration::from_secs(at), now());
            let got = match step {
                Step::Follow => None,
                Step::Write(spec) => {
                    assert_eq!(spec.holder_identity.as_deref(), Some("me"));
                    let acquired = spec.acquire_time.unwrap().0.as_second();
                    Some((spec.lease_transitions.unwrap(), acquired))
                }
            };
            assert_eq!(got, expected, "{observed:?}");
        }
    }
}
