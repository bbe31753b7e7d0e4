//! A process and chance of its own for each history, so that a seed tells all that happens in it.
//!
//! What programs leave to chance (the order of a hash map, uuids, Tokio's choice between branches) comes from `getrandom` in the
//! end; here that function answers with numbers of the seed. Counters of a process go into those choices too: each history is
//! lived in a child process, and all children begin alike.
#![allow(
    unsafe_code,
    reason = "standing in for a function of the C library, and fork"
)]

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

/// A child that takes so many seconds of real time hangs, and is ended.
const LIMIT: u32 = 300;

thread_local! {
    static CHANCE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// The next number of SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The C library's function of this name, for threads whose chance is not given; for the others numbers of their seed.
///
/// # Safety
/// `buffer` has room for `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn getrandom(
    buffer: *mut libc::c_void,
    length: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    let Some(mut state) = CHANCE.try_with(Cell::get).ok().flatten() else {
        // SAFETY: the caller's promise is the system call's.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) }
            as libc::ssize_t;
    };
    // SAFETY: the caller promises room for `length` bytes.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for chunk in bytes.chunks_mut(8) {
        let number = next(&mut state).to_le_bytes();
        chunk.copy_from_slice(&number[..chunk.len()]);
    }
    CHANCE.set(Some(state));
    libc::ssize_t::try_from(length).unwrap_or(libc::ssize_t::MAX)
}

/// What became of a child.
pub struct Ended {
    pub seed: u64,
    /// Whether it came to its end without a panic.
    pub fine: bool,
    /// What its process used.
    pub cpu: Duration,
}

/// Lives through the histories of all seeds, `together` at a time. What `live` answers goes to a file in `results`, named after
/// the seed's place in the list; what it panics with goes to standard error.
pub fn each(seeds: &[u64], together: usize, results: &Path, live: fn(u64) -> String) -> Vec<Ended> {
    let mut running = BTreeMap::new();
    let mut ended = Vec::new();
    for (place, seed) in seeds.iter().copied().enumerate() {
        if running.len() >= together.max(1) {
            ended.push(wait(&mut running));
        }
        let child = begin(seed, &results.join(place.to_string()), live);
        running.insert(child, seed);
    }
    while !running.is_empty() {
        ended.push(wait(&mut running));
    }
    ended
}

fn begin(seed: u64, result: &Path, live: fn(u64) -> String) -> libc::pid_t {
    // SAFETY: the child goes on with this thread alone, uses nothing that other threads may have held, and ends by `_exit`.
    let child = unsafe { libc::fork() };
    assert!(child >= 0, "fork: {}", std::io::Error::last_os_error());
    if child == 0 {
        // SAFETY: plain system calls.
        unsafe { libc::alarm(LIMIT) };
        let fine = in_own_thread(seed, result, live);
        // SAFETY: as above.
        unsafe { libc::_exit(i32::from(!fine)) };
    }
    child
}

/// A thread whose first random number is the seed's.
fn in_own_thread(seed: u64, result: &Path, live: fn(u64) -> String) -> bool {
    let result = result.to_owned();
    let thread = std::thread::Builder::new()
        .stack_size(64 << 20)
        .spawn(move || {
            CHANCE.set(Some(seed));
            let text = live(seed);
            std::fs::write(result, text).is_ok()
        });
    thread.is_ok_and(|thread| thread.join().unwrap_or(false))
}

fn wait(running: &mut BTreeMap<libc::pid_t, u64>) -> Ended {
    let mut status = 0;
    // SAFETY: all-zero is a value of this plain structure.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both places are writable.
    let child = unsafe { libc::wait4(-1, &raw mut status, 0, &raw mut usage) };
    let seed = running
        .remove(&child)
        .expect("the only children are those begun here");
    let time = |time: libc::timeval| {
        Duration::from_secs(time.tv_sec.unsigned_abs())
            + Duration::from_micros(time.tv_usec.unsigned_abs())
    };
    if libc::WIFSIGNALED(status) {
        complain(&format!(
            "seed {seed}: ended by signal {}\n",
            libc::WTERMSIG(status)
        ));
    }
    Ended {
        seed,
        fine: status == 0,
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
    }
}

/// Makes every panic of this process its end, wherever somebody might catch it, after `last_words`.
pub fn die_of_panics(last_words: impl Fn() -> String + Send + Sync + 'static) {
    std::panic::set_hook(Box::new(move |panic| {
        complain(&format!("{}\n{panic}\n", last_words()));
        // SAFETY: a plain system call.
        unsafe { libc::_exit(101) }
    }));
}

/// Past the test harness, which would keep it to itself in a child.
pub fn complain(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}
