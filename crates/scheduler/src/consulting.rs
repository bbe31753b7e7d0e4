//! How answers of others become decisions: which nodes do, and which pods may go.

use std::sync::Arc;

use crate::decision::{Decision, Failure, Offer, Tried};
use crate::diagnosis::Diagnosis;
use crate::framework::{Cycle, View};
use crate::plugins::default_preemption::{Candidate, Outcome};
use crate::plugins::dynamic_resources::{self, Bookings};
use crate::rows::PodRow;
use crate::schedule::best;
use crate::state::{Known, State};

impl State {
    /// What others said of a pod: the nodes that do with all scores, or why none does.
    pub fn conclude(
        &self,
        pod: &Arc<PodRow>,
        profile: usize,
        mut diagnosis: Diagnosis,
        answer: Result<Vec<(Arc<str>, i64)>, String>,
    ) -> Option<Decision> {
        let now = self.clock.monotonic();
        let mut guard = self.known.lock();
        let known = &mut *guard;
        if known
            .pending
            .get(&pod.key)
            .is_none_or(|now| now.uid != pod.uid)
        {
            return None;
        }
        let nodes = match answer {
            Ok(nodes) => nodes,
            Err(message) => {
                known.queue.retry(&pod.key, now);
                return Some(Decision::Report(Failure::error(
                    pod.clone(),
                    profile,
                    message,
                )));
            }
        };
        let indexed = nodes
            .iter()
            .filter_map(|(name, total)| Some((known.world.cluster.find(name)?, *total)));
        let (feasible, totals): (Vec<usize>, Vec<i64>) = indexed.unzip();
        let Some(index) = best(&feasible, &totals, |count| self.pick(count)) else {
            diagnosis.refused_by |= crate::framework::ELSEWHERE;
            let text = match pod.devices {
                None => dynamic_resources::NOTHING_TO_GIVE_UP,
                Some(_) => dynamic_resources::STILL_NOT,
            };
            let tried = Tried {
                diagnosis,
                preemption: None,
                devices: (text, None),
            };
            let failure = self.fail(known, pod, profile, tried, now);
            return Some(Decision::Report(failure));
        };
        // The world went on meanwhile.
        let Some(devices) = self.still_fits(known, pod, profile, index) else {
            known.queue.retry(&pod.key, now);
            return None;
        };
        known
            .assume(pod.clone(), profile, index, devices)
            .map(Decision::Bind)
    }

    /// Whether a node still does; if so, the devices that the pod's claims get there.
    fn still_fits(
        &self,
        known: &mut Known,
        pod: &PodRow,
        profile: usize,
        index: usize,
    ) -> Option<Bookings> {
        let profiles = known.profiles.clone();
        let profile = profiles.get(profile)?;
        let asked = known.world.ask(pod, profile);
        let cycle = Cycle::new(pod, &known.world, profile, &asked);
        let view = View::of(&known.world, index)?;
        cycle.check_with_nominated(&view).ok()?;
        Some(self.reserve(cycle, index))
    }

    /// What others said about pods that would have to go.
    pub fn settle(
        &self,
        pod: &Arc<PodRow>,
        profile: usize,
        mut tried: Tried,
        answer: Result<Vec<Offer>, String>,
    ) -> Option<Decision> {
        let now = self.clock.monotonic();
        let mut guard = self.known.lock();
        let known = &mut *guard;
        let waits = known.pending.get(&pod.key);
        if waits.is_none_or(|waits| waits.uid != pod.uid) {
            return None;
        }
        tried.preemption = Some(match answer {
            Err(why) => Outcome::None(why),
            Ok(offers) => {
                let candidates = offers.into_iter().filter_map(|offer| {
                    Some(Candidate {
                        node: known.world.cluster.find(&offer.node)?,
                        victims: offer.victims,
                        violations: usize::try_from(offer.violations).unwrap_or(0),
                    })
                });
                let candidates: Vec<Candidate> = candidates.collect();
                if candidates.is_empty() {
                    Outcome::None("no candidate node for preemption".to_owned())
                } else {
                    Outcome::Candidates(candidates)
                }
            }
        });
        let failure = self.fail(known, pod, profile, tried, now);
        Some(Decision::Report(failure))
    }

    /// A pod on a node, by its uid.
    pub(crate) fn pod_on(&self, node: &str, uid: &str) -> Option<Arc<PodRow>> {
        self.read(|known| {
            let cluster = &known.world.cluster;
            let row = cluster.nodes.get(cluster.find(node)?)?;
            row.pods.values().find(|pod| *pod.uid == *uid).cloned()
        })
    }
}

impl Known {
    /// The pods that would have to go, node by node.
    pub(crate) fn offers(&self, tried: &Tried) -> Vec<Offer> {
        let Some(Outcome::Candidates(candidates)) = &tried.preemption else {
            return Vec::new();
        };
        let offers = candidates.iter().filter_map(|candidate| {
            Some(Offer {
                node: self.world.cluster.nodes.get(candidate.node)?.name.clone(),
                victims: candidate.victims.clone(),
                violations: i64::try_from(candidate.violations).unwrap_or(i64::MAX),
            })
        });
        offers.collect()
    }
}
