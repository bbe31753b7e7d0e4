//! What is to be done about a pod.

use std::sync::Arc;

use crate::diagnosis::Diagnosis;
use crate::plugins::default_preemption::Outcome;
use crate::plugins::dynamic_resources::{Bookings, GiveUp};
use crate::plugins::volume_binding::Plan;
use crate::rows::PodRow;

/// A decision.
#[derive(Debug)]
pub enum Decision {
    /// Bind it.
    Bind(Assignment),
    /// Tell why it has no node, and make room if there is a way.
    Report(Failure),
    /// Send it away: its node is no longer what it requires.
    Evict(Assignment),
    /// Ask others which of these nodes do, and which is best.
    Consult {
        /// The pod.
        pod: Arc<PodRow>,
        /// The number of the profile.
        profile: usize,
        /// The nodes that do, with their scores so far.
        nodes: Vec<(Arc<str>, i64)>,
        /// Why the others do not.
        diagnosis: Diagnosis,
    },
    /// Ask others which pods may go to make room.
    Negotiate {
        /// The pod.
        pod: Arc<PodRow>,
        /// The number of the profile.
        profile: usize,
        /// What came of the attempt.
        tried: Box<Tried>,
        /// Which pods would have to go.
        offers: Vec<Offer>,
    },
}

impl Decision {
    /// The number of the profile of the pod that was tried; none when none was.
    #[must_use]
    pub fn profile(&self) -> Option<usize> {
        match self {
            Self::Bind(assignment) => Some(assignment.profile),
            Self::Report(failure) => Some(failure.profile),
            Self::Consult { profile, .. } | Self::Negotiate { profile, .. } => Some(*profile),
            Self::Evict(_) => None,
        }
    }
}

/// What came of an attempt for which no node does.
#[derive(Debug)]
pub struct Tried {
    /// Why none does.
    pub diagnosis: Diagnosis,
    /// Whether room can be made.
    pub preemption: Option<Outcome>,
    /// What is said about device claims, and which of them is given up.
    pub devices: (&'static str, Option<GiveUp>),
}

/// Pods that would have to go from a node.
#[derive(Clone, Debug)]
pub struct Offer {
    /// The node.
    pub node: Arc<str>,
    /// The pods.
    pub victims: Vec<Arc<PodRow>>,
    /// How many of them a budget protects.
    pub violations: i64,
}

/// A pod with its node.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// The pod.
    pub pod: Arc<PodRow>,
    /// The node.
    pub node: Arc<str>,
    /// The number of the profile.
    pub profile: usize,
    /// What is to be done about its volumes first.
    pub volumes: Plan,
    /// What is to be done about its device claims first.
    pub devices: Bookings,
}

/// The node that room is being made on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nomination {
    /// As it was.
    Keep,
    /// None.
    Clear,
    /// That one.
    Set(Arc<str>),
}

/// Room that is to be made.
#[derive(Clone, Debug)]
pub struct Preemption {
    /// The node.
    pub node: Arc<str>,
    /// Pods that have to go.
    pub victims: Vec<Arc<PodRow>>,
    /// Less important pods that room was being made for there.
    pub denominated: Vec<Arc<PodRow>>,
}

/// A pod for which there is no node.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The pod.
    pub pod: Arc<PodRow>,
    /// The number of the profile.
    pub profile: usize,
    /// `Unschedulable` or `SchedulerError`.
    pub reason: &'static str,
    /// Why.
    pub message: String,
    /// The node that room is being made on.
    pub nomination: Nomination,
    /// Room that is to be made.
    pub preemption: Option<Preemption>,
    /// A device claim, or its devices, that are to be given up.
    pub give_up: Option<GiveUp>,
}

impl Failure {
    /// Something went wrong.
    #[must_use]
    pub fn error(pod: Arc<PodRow>, profile: usize, message: String) -> Self {
        Self {
            pod,
            profile,
            reason: "SchedulerError",
            message,
            nomination: Nomination::Clear,
            preemption: None,
            give_up: None,
        }
    }
}
