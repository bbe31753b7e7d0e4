//! Wakes the workers of pods whose containers changed: by the runtime's events, or by looking where it has none.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use skiff_base::{Backoff, Shutdown};
use skiff_runtime::cri;
use tonic::{Code, Request, Status};

use crate::container::sandbox::POD_UID_LABEL;
use crate::manager::Manager;

/// How often a runtime without events is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Routes events until `shutdown`.
pub async fn run(manager: Arc<Manager>, shutdown: Shutdown) {
    let clock = manager.context().clock.clone();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let ended = tokio::select! {
            ended = follow(&manager, &mut backoff) => ended,
            () = shutdown.triggered() => return,
        };
        match ended {
            Err(status) if status.code() == Code::Unimplemented => {
                tokio::select! {
                    () = look_for_ever(&manager) => {}
                    () = shutdown.triggered() => return,
                }
            }
            Err(status) => tracing::warn!(%status, "the runtime's events ended"),
            Ok(()) => {}
        }
        tokio::select! {
            () = clock.sleep(backoff.next(&manager.context().random)) => {}
            () = shutdown.triggered() => return,
        }
    }
}

async fn follow(manager: &Manager, backoff: &mut Backoff) -> Result<(), Status> {
    let request = Request::new(cri::GetEventsRequest {});
    let service = &manager.context().runtime.service;
    let mut events = service.get_container_events(request).await?.into_inner();
    // What happened before the stream was there has to be looked at.
    for pod in manager.pods() {
        manager.runtime_changed(crate::pod::spec::uid(&pod));
    }
    while let Some(event) = events.next().await {
        let event = event?;
        backoff.reset();
        let metadata = event.pod_sandbox_status.and_then(|s| s.metadata);
        if let Some(metadata) = metadata {
            manager.runtime_changed(&metadata.uid);
        }
    }
    Ok(())
}

/// Compares lists of what runs, for ever.
async fn look_for_ever(manager: &Manager) {
    let runtime = &manager.context().runtime;
    let mut before: HashMap<String, (i32, String)> = HashMap::new();
    loop {
        let lists = futures::join!(runtime.containers(None), runtime.sandboxes(None));
        if let (Ok(containers), Ok(sandboxes)) = lists {
            let uid = |labels: &HashMap<String, String>| {
                labels.get(POD_UID_LABEL).cloned().unwrap_or_default()
            };
            let now: HashMap<String, (i32, String)> = containers
                .iter()
                .map(|c| (c.id.clone(), (c.state, uid(&c.labels))))
                .chain(
                    sandboxes
                        .iter()
                        .map(|s| (s.id.clone(), (s.state, uid(&s.labels)))),
                )
                .collect();
            let changed = now
                .iter()
                .filter(|(id, state)| before.get(*id) != Some(state));
            let gone = before.iter().filter(|(id, _)| !now.contains_key(*id));
            for (_, (_, uid)) in changed.chain(gone) {
                manager.runtime_changed(uid);
            }
            before = now;
        }
        manager.context().clock.sleep(LOOK).await;
    }
}
