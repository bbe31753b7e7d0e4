//! The queues of one priority level: who waits, and who is next. A pure state machine; time and seats are told to it.
//!
//! Flows are spread over queues by shuffle sharding: each flow is dealt a hand of queues and joins the emptiest of them, so
//! that a flow that floods fills few queues. Queues take turns by virtual time: each has the point up to which it has been
//! served, in seat-seconds; the one that was served least is next.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Until a request has ended, it is taken to last so long.
const ESTIMATE: f64 = 0.003;

/// A request that waits.
pub(super) type Ticket = u64;

/// How a level queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queuing {
    /// 0: requests are refused when there is no room.
    pub queues: u32,
    pub hand_size: u32,
    pub queue_length: u32,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    ticket: Ticket,
    width: u32,
    since: Duration,
}

#[derive(Clone, Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Where its next request starts in virtual time.
    next_start: f64,
    executing: u32,
    seats_waiting: u32,
}

/// The queues.
#[derive(Debug)]
pub(super) struct Queues {
    queuing: Queuing,
    queues: Vec<Queue>,
    /// The virtual time: the start of the request that was served last.
    now: f64,
    places: BTreeMap<Ticket, usize>,
    next_ticket: Ticket,
    /// Where the last one was taken: ties go round.
    last: usize,
}

/// A queue as the debug endpoint shows it.
#[derive(Clone, Debug)]
pub(super) struct QueueState {
    pub pending: usize,
    pub executing: u32,
    pub seats_waiting: u32,
    pub next_start: f64,
}

/// Deals a hand: `hand_size` different numbers below `deck`, by a hash.
fn deal(hash: u64, deck: u32, hand_size: u32) -> Vec<usize> {
    let mut rest = hash;
    let mut hand: Vec<u32> = Vec::with_capacity(hand_size as usize);
    for dealt in 0..hand_size.min(deck) {
        let left = u64::from(deck - dealt);
        let mut card = u32::try_from(rest % left).unwrap_or(0);
        rest /= left;
        // The card counts among those that are left.
        let mut sorted = hand.clone();
        sorted.sort_unstable();
        for taken in sorted {
            if card >= taken {
                card += 1;
            }
        }
        hand.push(card);
    }
    hand.into_iter().map(|card| card as usize).collect()
}

impl Queues {
    pub fn new(queuing: Queuing) -> Self {
        Self {
            queues: vec![Queue::default(); queuing.queues as usize],
            queuing,
            now: 0.0,
            places: BTreeMap::new(),
            next_ticket: 1,
            last: 0,
        }
    }

    /// Takes over another configuration. Who waits in a queue that there is no longer moves to one that there is.
    pub fn reconfigure(&mut self, queuing: Queuing) {
        let wanted = (queuing.queues as usize).max(usize::from(!self.places.is_empty()));
        if wanted < self.queues.len() {
            for queue in self.queues.split_off(wanted) {
                for waiting in queue.waiting {
                    self.places.insert(waiting.ticket, 0);
                    if let Some(first) = self.queues.first_mut() {
                        first.seats_waiting += waiting.width;
                        first.waiting.push_back(waiting);
                    }
                }
            }
        } else {
            self.queues.resize(wanted, Queue::default());
        }
        self.queuing = queuing;
    }

    /// How many wait.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// How many seats they want.
    pub fn seats_waiting(&self) -> u32 {
        self.queues.iter().map(|queue| queue.seats_waiting).sum()
    }

    /// The queue of a flow's next request: the one of its hand with the least waiting and being done.
    pub fn choose(&self, hash: u64) -> Option<usize> {
        let hand = deal(hash, self.queuing.queues, self.queuing.hand_size);
        hand.into_iter().min_by_key(|at| {
            let queue = &self.queues[*at];
            (queue.seats_waiting + queue.executing, queue.waiting.len())
        })
    }

    /// Lines a request up; `None`: the queue is full.
    pub fn enqueue(&mut self, at: usize, width: u32, now: Duration) -> Option<Ticket> {
        let virtual_now = self.now;
        let limit = self.queuing.queue_length as usize;
        let queue = self.queues.get_mut(at)?;
        if queue.waiting.len() >= limit {
            return None;
        }
        if queue.waiting.is_empty() && queue.executing == 0 {
            // Nobody saves up turns by staying away.
            queue.next_start = queue.next_start.max(virtual_now);
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        queue.seats_waiting += width;
        queue.waiting.push_back(Waiting {
            ticket,
            width,
            since: now,
        });
        self.places.insert(ticket, at);
        Some(ticket)
    }

    /// The next request in turn, its queue, its width and since when it has waited, if it fits into `free` of `limit` seats. One
    /// wider than all seats goes when it is alone.
    pub fn dispatch(&mut self, free: u32, limit: u32) -> Option<(Ticket, usize, u32, Duration)> {
        let count = self.queues.len();
        let start = self.last + 1;
        let order = (0..count).map(|step| (start + step) % count.max(1));
        let next = order
            .filter(|at| !self.queues[*at].waiting.is_empty())
            .min_by(|a, b| {
                self.queues[*a]
                    .next_start
                    .total_cmp(&self.queues[*b].next_start)
            })?;
        let queue = &mut self.queues[next];
        let head = *queue.waiting.front()?;
        if head.width > free && !(head.width > limit && free == limit) {
            return None;
        }
        queue.waiting.pop_front();
        queue.seats_waiting -= head.width;
        queue.executing += head.width;
        self.now = self.now.max(queue.next_start);
        queue.next_start += ESTIMATE * f64::from(head.width);
        self.places.remove(&head.ticket);
        self.last = next;
        Some((head.ticket, next, head.width, head.since))
    }

    /// A request that had waited is done; what it took beyond the estimate is put on its queue's account.
    pub fn finish(&mut self, at: usize, width: u32, took: Duration) {
        if let Some(queue) = self.queues.get_mut(at) {
            queue.executing = queue.executing.saturating_sub(width);
            queue.next_start += (took.as_secs_f64() - ESTIMATE) * f64::from(width);
        }
    }

    /// Whoever waits no longer; `false`: it was served meanwhile.
    pub fn cancel(&mut self, ticket: Ticket) -> bool {
        let Some(at) = self.places.remove(&ticket) else {
            return false;
        };
        if let Some(queue) = self.queues.get_mut(at) {
            if let Some(waiting) = queue
                .waiting
                .iter()
                .find(|waiting| waiting.ticket == ticket)
            {
                queue.seats_waiting -= waiting.width;
            }
            queue.waiting.retain(|waiting| waiting.ticket != ticket);
        }
        true
    }

    /// The queues, for the debug endpoint.
    pub fn states(&self) -> Vec<QueueState> {
        let state = |queue: &Queue| QueueState {
            pending: queue.waiting.len(),
            executing: queue.executing,
            seats_waiting: queue.seats_waiting,
            next_start: queue.next_start,
        };
        self.queues.iter().map(state).collect()
    }

    /// Who waits: queue, place, and since when.
    pub fn waiting(&self) -> Vec<(usize, usize, Duration)> {
        let of = |(at, queue): (usize, &Queue)| {
            let places = queue.waiting.iter().enumerate();
            places
                .map(move |(place, waiting)| (at, place, waiting.since))
                .collect::<Vec<_>>()
        };
        self.queues.iter().enumerate().flat_map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const QUEUING: Queuing = Queuing {
        queues: 8,
        hand_size: 3,
        queue_length: 1000,
    };

    #[test]
    fn hands_are_of_different_cards_and_spread() {
        let mut seen = [0; 16];
        for hash in 0..2000u64 {
            let hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let hand = deal(hash, 16, 4);
            let mut sorted = hand.clone();
            sorted.sort_unstable();
            sorted.dedup();
            assert_eq!(sorted.len(), 4);
            hand.iter().for_each(|card| seen[*card] += 1);
        }
        assert!(
            seen.iter().all(|count| (350..650).contains(count)),
            "{seen:?}"
        );
        assert_eq!(deal(7, 3, 8).len(), 3);
    }

    #[test]
    fn a_quiet_flow_is_served_between_those_of_a_flood() {
        let mut queues = Queues::new(QUEUING);
        for _ in 0..100 {
            queues.enqueue(1, 1, Duration::ZERO).unwrap();
        }
        let quiet = queues.enqueue(2, 1, Duration::ZERO).unwrap();
        let served: Vec<Ticket> = (0..3).map(|_| queues.dispatch(1, 1).unwrap().0).collect();
        assert!(served.contains(&quiet), "{served:?}");
    }

    #[test]
    fn a_flow_of_long_requests_comes_less_often() {
        let mut queues = Queues::new(QUEUING);
        for _ in 0..100 {
            queues.enqueue(1, 1, Duration::ZERO).unwrap();
            queues.enqueue(2, 1, Duration::ZERO).unwrap();
        }
        let mut served = [0; 3];
        for _ in 0..60 {
            let (_, queue, width, _) = queues.dispatch(1, 1).unwrap();
            served[queue] += 1;
            let took = if queue == 1 { 90 } else { 30 };
            queues.finish(queue, width, Duration::from_millis(took));
        }
        assert!((14..=16).contains(&served[1]), "{served:?}");
    }

    #[test]
    fn a_wide_request_waits_for_room_and_goes_alone_when_it_must() {
        let mut queues = Queues::new(QUEUING);
        queues.enqueue(0, 5, Duration::ZERO).unwrap();
        queues.enqueue(1, 1, Duration::ZERO).unwrap();
        // Whose turn it is waits; nobody slips past for ever.
        let first = queues.dispatch(4, 10);
        assert_eq!(first.map(|(_, queue, ..)| queue), Some(1));
        assert!(queues.dispatch(4, 10).is_none());
        assert!(queues.dispatch(5, 10).is_some());
        queues.enqueue(0, 50, Duration::ZERO).unwrap();
        assert!(queues.dispatch(9, 10).is_none());
        assert!(queues.dispatch(10, 10).is_some());
    }

    #[test]
    fn who_waits_in_a_queue_that_goes_is_not_lost() {
        let mut queues = Queues::new(QUEUING);
        for at in 0..8 {
            queues.enqueue(at, 1, Duration::ZERO).unwrap();
        }
        queues.reconfigure(Queuing {
            queues: 2,
            ..QUEUING
        });
        queues.reconfigure(Queuing {
            queues: 0,
            ..QUEUING
        });
        let mut served = 0;
        while queues.dispatch(1, 1).is_some() {
            served += 1;
        }
        assert_eq!((served, queues.len(), queues.seats_waiting()), (8, 0, 0));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Enqueue(u64, u32),
        Finish,
        Cancel(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (any::<u64>(), 1..5u32).prop_map(|(hash, width)| Step::Enqueue(hash, width)),
            2 => Just(Step::Finish),
            1 => (0..10usize).prop_map(Step::Cancel),
        ]
    }

    proptest! {
        /// Against a plain model: seats are never overdrawn, nobody is lost, nobody waits while there is room.
        #[test]
        fn seats_are_kept_and_nobody_is_lost(steps in proptest::collection::vec(step(), 1..300)) {
            const LIMIT: u32 = 10;
            let mut queues = Queues::new(Queuing { queue_length: 20, ..QUEUING });
            let (mut running, mut waiting) = (Vec::<(usize, u32)>::new(), Vec::<Ticket>::new());
            for step in steps {
                match step {
                    Step::Enqueue(hash, width) => {
                        let at = queues.choose(hash).unwrap();
                        waiting.extend(queues.enqueue(at, width, Duration::ZERO));
                    }
                    Step::Finish => {
                        if let Some((queue, width)) = running.pop() {
                            queues.finish(queue, width, Duration::from_millis(5));
                        }
                    }
                    Step::Cancel(at) => {
                        if at < waiting.len() {
                            let ticket = waiting.remove(at);
                            prop_assert!(queues.cancel(ticket));
                            prop_assert!(!queues.cancel(ticket));
                        }
                    }
                }
                loop {
                    let used: u32 = running.iter().map(|(_, width)| width).sum();
                    let Some((ticket, queue, width, _)) = queues.dispatch(LIMIT - used, LIMIT) else { break };
                    prop_assert!(used + width <= LIMIT);
                    prop_assert!(waiting.contains(&ticket));
                    waiting.retain(|other| *other != ticket);
                    running.push((queue, width));
                }
                prop_assert_eq!(queues.len(), waiting.len());
                let used: u32 = running.iter().map(|(_, width)| width).sum();
                prop_assert!(waiting.is_empty() || LIMIT - used < 5, "room for everybody, and somebody waits");
            }
        }
    }
}
