//! Random workloads and faults: whatever happens on the way, the rules hold at every revision and the end is what was asked for.

use std::time::Duration;

use skiff_base::Random;
use skiff_simulation::SimulationConfig;
use skiff_testkit::virtual_time;

use crate::play::Play;
use crate::workload::NODES;
use crate::world::{World, epoch};
use crate::{alone, rules};

/// What lives through a history.
const COMMAND: &str = "cargo nextest run -p skiff-testkit --test simulation every_history";
/// All must be as asked after so much time without faults. Who was refused often tries again after 1,000 seconds, as upstream,
/// and may be refused once more.
const LIMIT: Duration = Duration::from_secs(3600);

/// Small nodes, so that room matters.
fn nodes(seed: u64) -> SimulationConfig {
    let capacity = [("cpu", "4"), ("memory", "8Gi"), ("pods", "10")];
    SimulationConfig {
        seed,
        capacity: capacity
            .map(|(name, amount)| (name.to_owned(), amount.to_owned()))
            .to_vec(),
        ..SimulationConfig::of(NODES)
    }
}

/// Most histories are short, so that there can be many; what takes long to go wrong has its chance in the others.
fn steps(seed: u64) -> u64 {
    match Random::seeded(seed ^ 0x57e9).below(8) {
        0 => 30,
        1..=3 => 15,
        _ => 8,
    }
}

/// Lives through the history of a seed; answers with all that was written.
fn live(seed: u64) -> String {
    virtual_time::run(epoch(), |clock| async move {
        let mut world = World::start(clock, nodes(seed), rules::all()).await;
        let journal = world.journal.clone();
        alone::die_of_panics(move || {
            let again = "to repeat it: SKIFF_SIMULATION_SEEDS=1 SKIFF_SIMULATION_SEED";
            format!(
                "{}\nseed {seed} ({again}={seed} {COMMAND}):",
                journal.tail()
            )
        });
        let mut play = Play::begin(&world, seed).await;
        let weather = Random::seeded(seed).below(3) * 30;
        world.line.set_weather(weather);
        for _ in 0..steps(seed) {
            play.step(&mut world).await;
        }
        play.calm(&mut world).await;
        let journal = world.journal.clone();
        let settled = || {
            let settled = journal.scene(|scene| play.is_settled(scene));
            settled.and_then(|()| journal.at_end())
        };
        world.until_all(LIMIT, settled).await;
        world.journal.whole()
    })
}

/// The same process, but nobody looks at what is written: the length is all that is kept.
fn only_live(seed: u64) -> String {
    live(seed).len().to_string()
}

pub fn number(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().expect(name))
}

/// `SKIFF_SIMULATION_SEEDS` is how many histories are lived through, from `SKIFF_SIMULATION_SEED` on.
#[test]
fn every_history_keeps_the_rules_and_ends_as_wanted() {
    let first = number("SKIFF_SIMULATION_SEED", 1);
    let seeds: Vec<u64> = (first..first + number("SKIFF_SIMULATION_SEEDS", 40)).collect();
    let together = std::thread::available_parallelism().map_or(1, usize::from);
    let results = tempfile::tempdir().unwrap();
    let ended = alone::each(&seeds, together, results.path(), only_live);
    let total: Duration = ended.iter().map(|ended| ended.cpu).sum();
    let most = ended.iter().max_by_key(|ended| ended.cpu).unwrap();
    eprintln!(
        "{} histories, {:?} of CPU each, at most {:?} (seed {})",
        ended.len(),
        total / ended.len() as u32,
        most.cpu,
        most.seed
    );
    let mut broken: Vec<u64> = ended
        .iter()
        .filter(|ended| !ended.fine)
        .map(|ended| ended.seed)
        .collect();
    broken.sort_unstable();
    assert!(
        broken.is_empty(),
        "{} histories went wrong; to repeat one: SKIFF_SIMULATION_SEEDS=1 SKIFF_SIMULATION_SEED=.. {COMMAND}, of {broken:?}",
        broken.len()
    );
}

#[test]
fn a_seed_gives_the_same_history_to_the_last_byte() {
    let results = tempfile::tempdir().unwrap();
    let seeds = [7, 8, 7];
    for ended in alone::each(&seeds, 1, results.path(), live) {
        assert!(ended.fine, "seed {}", ended.seed);
    }
    let [first, other, again] = [0, 1, 2].map(|place: usize| {
        std::fs::read_to_string(results.path().join(place.to_string())).unwrap()
    });
    let differs = first.lines().zip(again.lines()).find(|(a, b)| a != b);
    assert_eq!(differs, None);
    assert!(first == again && first.len() > 100_000);
    assert_ne!(first, other);
}
