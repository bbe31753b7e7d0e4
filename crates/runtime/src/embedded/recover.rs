//! Finds what an earlier server left: pods that still run, pods that died meanwhile, and halves.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::container::container_name;
use super::record::{Container, Sandbox};
use super::sandbox::{remove_dir, sandbox_name};
use super::shim_client;
use super::{EmbeddedRuntime, blocking, unmount_below};
use crate::shim::protocol::Request;

impl EmbeddedRuntime {
    pub(super) async fn recover(&self) -> io::Result<()> {
        let mut doomed = Vec::new();
        for dir in entries(self.0.config.root.join("sandboxes"))? {
            let id = name(&dir);
            match Sandbox::load(&dir, self.run_dir(&id))? {
                Some(sandbox) => {
                    self.0.names.lock().insert(sandbox_name(&sandbox.config));
                    self.0.sandboxes.write().insert(id, Arc::new(sandbox));
                }
                // It was being made or removed.
                None => doomed.push(dir),
            }
        }
        for dir in entries(self.0.config.root.join("containers"))? {
            match Container::load(&dir)? {
                Some(container) => {
                    let key = container_name(&container.config, &container.facts.sandbox_id);
                    self.0.names.lock().insert(key);
                    let id = container.id.clone();
                    self.0.containers.write().insert(id, Arc::new(container));
                }
                None => doomed.push(dir),
            }
        }
        let run = self.0.config.run.join("s");
        for dir in entries(run)? {
            if !self.0.sandboxes.read().contains_key(&name(&dir)) {
                // A shim without a record: nobody will ask for it.
                let _ = shim_client::call(&dir, &Request::Shutdown).await;
                doomed.push(dir);
            }
        }
        blocking(move || {
            doomed.iter().try_for_each(|dir| {
                unmount_below(dir)?;
                remove_dir(dir)
            })
        })
        .await?;
        self.resume().await
    }

    async fn resume(&self) -> io::Result<()> {
        let sandboxes: Vec<_> = self.0.sandboxes.read().values().cloned().collect();
        for sandbox in &sandboxes {
            let up = sandbox.state().ready && self.watch(sandbox).await.is_ok();
            if !up {
                // It was stopped or never finished: only its record stays until it is removed.
                self.bury(sandbox).await?;
                self.tear_down(sandbox).await.map_err(io::Error::other)?;
            }
        }
        for container in self.0.containers.read().values() {
            if !self
                .0
                .sandboxes
                .read()
                .contains_key(&container.facts.sandbox_id)
            {
                self.settle(container, None)?;
            }
        }
        self.finish_removals().await
    }

    /// Removals that the end of the server interrupted.
    async fn finish_removals(&self) -> io::Result<()> {
        let removing: Vec<_> = self
            .0
            .containers
            .read()
            .values()
            .filter(|container| container.state().removing)
            .cloned()
            .collect();
        for container in removing {
            self.remove_container(&container)
                .await
                .map_err(io::Error::other)?;
        }
        Ok(())
    }
}

fn entries(dir: PathBuf) -> io::Result<Vec<PathBuf>> {
    std::fs::read_dir(dir)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect()
}

fn name(dir: &std::path::Path) -> String {
    dir.file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default()
}
