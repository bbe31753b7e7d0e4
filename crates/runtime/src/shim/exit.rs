//! What a shim does when a container has ended: find out why, and write it down.

use std::fs;
use std::io;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::protocol::{Exit, StartContainer};

/// Whether the kernel killed a process of the container for want of memory.
pub fn was_oom_killed(start: &StartContainer) -> bool {
    let Some(dir) = &start.memory_cgroup else {
        return false;
    };
    // cgroup v2 has the count in memory.events, v1 in memory.oom_control.
    ["memory.events", "memory.oom_control"]
        .iter()
        .filter_map(|name| fs::read_to_string(dir.join(name)).ok())
        .any(|text| oom_kills(&text) > 0)
}

fn oom_kills(text: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == "oom_kill")
        .and_then(|(_, count)| count.trim().parse().ok())
        .unwrap_or(0)
}

/// Sends a signal to every process of the container but its first.
pub fn signal_group(start: &StartContainer, signal: i32) {
    let Ok(signal) = Signal::try_from(signal) else {
        return;
    };
    let Some(dir) = &start.processes_cgroup else {
        return;
    };
    let Ok(text) = fs::read_to_string(dir.join("cgroup.procs")) else {
        return;
    };
    for pid in text.lines().filter_map(|line| line.parse::<i32>().ok()) {
        // 0 stands for a process that this namespace does not show.
        if pid > 0 {
            // It may have ended meanwhile.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

/// Kills every process of the container.
pub fn kill_group(start: &StartContainer) {
    signal_group(start, Signal::SIGKILL as i32);
}

/// Writes the exit status so that a reader finds the whole of it or nothing.
pub fn persist(path: &Path, exit: &Exit) -> io::Result<()> {
    let draft = path.with_extension("draft");
    fs::write(&draft, serde_json::to_vec(exit)?)?;
    fs::rename(&draft, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oom_kills_are_counted_in_both_formats() {
        let v1 = "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n";
        let v2 = "low 0\nhigh 0\nmax 7\noom 1\noom_kill 1\noom_group_kill 0\n";
        assert_eq!(oom_kills(v1), 2);
        assert_eq!(oom_kills(v2), 1);
        assert_eq!(oom_kills("oom 3\n"), 0);
    }

    #[test]
    fn exits_are_written_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("exit.json");
        let exit = Exit {
            code: 137,
            at: 5,
            oom_killed: true,
        };
        persist(&path, &exit).unwrap();
        let read: Exit = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(read, exit);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
