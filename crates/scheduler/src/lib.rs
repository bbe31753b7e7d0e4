//! The scheduler: finds a node for each pod that has none.
//!
//! Watches ([`feeds`]) put deltas into one [`state`]; one loop ([`executor`]) takes the next pod from the [`queue`], asks the
//! plugins ([`framework`], [`plugins`]) in one pure step ([`schedule`]) over the [`world`], notes the pod on its node at
//! once and binds it in the background. What plugins count over the whole cluster is kept up by deltas ([`counters`],
//! [`wishes`]), so that the work for a pod does not grow with the number of pods. Devices are found for claims by a search
//! of its own ([`devices::allocator`]).

pub mod budgets;
pub mod configuration;
mod consulting;
pub mod counters;
pub mod decision;
mod device_binding;
mod device_state;
#[cfg(test)]
mod device_tests;
pub mod device_wants;
pub mod devices;
pub mod diagnosis;
pub mod executor;
pub mod explain;
pub mod explain_api;
mod explain_openapi;
pub mod extender;
mod extender_preemption;
mod feeds;
pub mod framework;
pub mod kin;
pub mod metrics;
pub mod nodes;
pub mod plugins;
pub mod profile;
pub mod queue;
pub mod resources;
pub mod rows;
pub mod schedule;
pub mod state;
pub mod terms;
pub mod topology;
pub mod volumes;
pub mod wishes;
pub mod world;

#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod scheduling_tests;
#[cfg(test)]
mod volume_tests;

use std::sync::Arc;

use async_trait::async_trait;
use kube::Client;
use skiff_base::lifecycle::ComponentError;
use skiff_base::{Component, Random, SharedClock, Shutdown};
use skiff_client::{EventRecorder, EventStyle};
use tokio::task::JoinSet;

use crate::configuration::LeaderElection;
use crate::executor::Executor;
use crate::explain::Explainer;
use crate::extender::{ExtenderConfig, Extenders};
use crate::feeds::Watches;
use crate::metrics::Measured;
use crate::profile::Profile;
use crate::queue::Rests;
use crate::state::State;

/// Settings of the scheduler.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// The schedulers that run here, by the names that pods choose them by.
    pub profiles: Vec<Profile>,
    /// How long pods rest after a failure.
    pub rests: Rests,
    /// Programs elsewhere that have a say.
    pub extenders: Vec<ExtenderConfig>,
    /// The name of the host, which events carry.
    pub host: String,
    /// What the file says of the election of a leader.
    pub leader_election: LeaderElection,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            profiles: vec![Profile::default()],
            rests: Rests::default(),
            extenders: Vec::new(),
            host: String::new(),
            leader_election: LeaderElection::default(),
        }
    }
}

struct Scheduler {
    client: Client,
    config: SchedulerConfig,
    clock: SharedClock,
    random: Random,
    explainer: Explainer,
}

/// The scheduler as a component.
#[must_use]
pub fn component(
    client: Client,
    config: SchedulerConfig,
    clock: SharedClock,
    random: Random,
) -> Arc<dyn Component> {
    explained(client, config, clock, random).0
}

/// The same, with somebody who says why pods are pending.
#[must_use]
pub fn explained(
    client: Client,
    mut config: SchedulerConfig,
    clock: SharedClock,
    random: Random,
) -> (Arc<dyn Component>, Explainer) {
    for profile in &mut config.profiles {
        profile.measured = Measured::by(clock.clone());
    }
    let explainer = Explainer::new(&config.profiles);
    let scheduler = Scheduler {
        client,
        config,
        clock,
        random,
        explainer: explainer.clone(),
    };
    (Arc::new(scheduler), explainer)
}

#[async_trait]
impl Component for Scheduler {
    fn name(&self) -> &'static str {
        "scheduler"
    }

    async fn run(&self, shutdown: Shutdown) -> Result<(), ComponentError> {
        let (clock, random) = (self.clock.clone(), self.random.clone());
        let config = &self.config;
        let extenders = Extenders::new(config.extenders.clone(), clock.clone())?;
        let extenders = Arc::new(extenders);
        let (asked, negotiating) = (extenders.clone(), extenders.clone());
        let state = State::new(
            config.profiles.clone(),
            config.rests,
            clock.clone(),
            random.clone(),
        );
        let state = state.consulting(move |pod| asked.are_interested(pod));
        let state = Arc::new(state.negotiating(move |pod| negotiating.negotiate_for(pod)));
        let recorder = |profile: &Profile| {
            EventRecorder::new(
                self.client.clone(),
                &profile.name,
                &config.host,
                EventStyle::Series,
                clock.clone(),
                random.clone(),
            )
        };
        let executor = Arc::new(Executor {
            client: self.client.clone(),
            state: state.clone(),
            recorders: config.profiles.iter().map(recorder).collect(),
            profiles: config.profiles.clone(),
            extenders,
            clock: clock.clone(),
            running: Executor::permits(),
        });
        self.explainer.set(Some(state.clone()));
        let mut profiles = config.profiles.iter();
        let spreads_kin = profiles.any(|profile| !profile.args.spread_defaults.is_empty());
        let watches = Watches::new(self.client.clone(), state, clock.clone(), random.clone());
        // A task each: what comes in one wakes none of the others.
        let watches = watches.run(spreads_kin, &shutdown).into_iter();
        let mut watches: JoinSet<()> = watches.collect();
        let ended = tokio::select! {
            ended = watches.join_next() => ended.transpose(),
            () = executor.work() => Ok(None),
            () = shutdown.triggered() => Ok(None),
        };
        self.explainer.set(None);
        ended?;
        Ok(())
    }
}
