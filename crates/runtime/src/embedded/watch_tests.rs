//! What the runtime makes of a shim's words, with a shim that says what the test wants.

use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use skiff_base::{Random, SystemClock};
use tokio::sync::broadcast;

use super::record::{Container, ContainerFacts, ContainerState, Phase, Sandbox, SandboxState};
use super::{EmbeddedRuntime, Inner, NoNetwork, RuntimeConfig, stats};
use crate::cgroup::Hierarchies;
use crate::cri;
use crate::image::{ImageStore, Limits};
use crate::shim::SOCKET_FILE;
use crate::shim::protocol::{Event, Exit, Inbox, Reply, Request, frame};

/// A runtime that mounts nothing and makes no control groups.
fn bare(dir: &Path) -> EmbeddedRuntime {
    let config = RuntimeConfig::new(
        dir.to_owned(),
        dir.join("run"),
        Arc::new(NoNetwork),
        SystemClock::shared(),
        Random::seeded(1),
    );
    let images = ImageStore::open(&dir.join("images"), Limits::default()).unwrap();
    EmbeddedRuntime(Arc::new(Inner {
        config,
        shim_program: "/nowhere".into(),
        images: Arc::new(images),
        cgroups: Hierarchies::V2(dir.join("cgroup")),
        sandboxes: Default::default(),
        containers: Default::default(),
        events: broadcast::Sender::new(8),
        names: Default::default(),
        samples: stats::Samples::default(),
    }))
}

/// A shim that tells when it is watched, and says then what it is given.
fn shim(dir: &Path) -> (Receiver<Request>, Sender<Vec<u8>>) {
    use std::io::Write as _;
    let listener = UnixListener::bind(dir.join(SOCKET_FILE)).unwrap();
    let (asked, requests) = channel();
    let (answers, given) = channel::<Vec<u8>>();
    std::thread::spawn(move || {
        let (mut socket, _): (UnixStream, _) = listener.accept().unwrap();
        let mut inbox = Inbox::default();
        let request = loop {
            if let Some(request) = inbox.next_frame::<Request>().unwrap() {
                break request;
            }
            inbox.receive(socket.as_raw_fd()).unwrap();
        };
        asked.send(request).unwrap();
        for bytes in given {
            socket.write_all(&bytes).unwrap();
        }
    });
    (requests, answers)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_started_after_the_shims_answer_is_not_taken_for_lost() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = bare(dir.path());
    let run = dir.path().join("s");
    std::fs::create_dir_all(&run).unwrap();
    let (requests, answers) = shim(&run);
    let state = SandboxState {
        ready: true,
        ..SandboxState::default()
    };
    let sandbox = Arc::new(Sandbox::new(
        "pod".into(),
        cri::PodSandboxConfig::default(),
        dir.path().join("pod"),
        run,
        state,
    ));
    let watching = {
        let (runtime, sandbox) = (runtime.clone(), sandbox.clone());
        tokio::spawn(async move { runtime.watch(&sandbox).await })
    };
    let request = tokio::task::spawn_blocking(move || requests.recv().unwrap());
    assert!(matches!(request.await.unwrap(), Request::Watch));
    assert!(
        !watching.is_finished(),
        "nothing may be started before the shim has answered"
    );
    let hello = Reply::Hello {
        pid: 1,
        pause_pid: None,
        running: Vec::new(),
    };
    answers.send(frame(&hello).unwrap()).unwrap();
    watching.await.unwrap().unwrap();

    let facts = ContainerFacts {
        sandbox_id: "pod".into(),
        ..ContainerFacts::default()
    };
    let home = dir.path().join("c");
    std::fs::create_dir_all(&home).unwrap();
    let state = ContainerState {
        phase: Phase::Running,
        started_at: 1,
        ..ContainerState::default()
    };
    let config = cri::ContainerConfig::default();
    let container = Arc::new(Container::new("c".into(), config, facts, home, None, state));
    runtime
        .0
        .containers
        .write()
        .insert("c".into(), container.clone());
    let exit = Exit {
        code: 7,
        at: 2,
        oom_killed: false,
    };
    let event = Event::Exited {
        container: "c".into(),
        exit: exit.clone(),
    };
    answers.send(frame(&event).unwrap()).unwrap();
    container.ended().await;
    assert_eq!(container.state().exit, Some(exit));
}
