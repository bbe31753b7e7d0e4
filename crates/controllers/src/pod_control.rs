//! Makes and deletes pods on behalf of an owner, and tells of it.

use std::sync::Arc;

use futures::future::join_all;
use k8s_openapi::api::core::v1;
use kube::api::{Api, DeleteParams, PostParams};
use kube::core::{NamespaceResourceScope, ObjectMeta, Resource};
use kube::{Client, Error};
use serde::de::DeserializeOwned;
use skiff_client::failure::message;
use skiff_client::{ApiFailure, EventRecorder, EventType, ObjectKey, SharedCache};

use crate::deletion::delete_seen;
use crate::gate::WriteGate;
use crate::ownership::lives;
use crate::seen_pod::Pod;

/// Makes and deletes pods for the objects of one controller.
pub struct PodControl {
    client: Client,
    recorder: EventRecorder,
    gate: WriteGate,
}

impl PodControl {
    /// Acts with `client`, tells by `recorder`.
    #[must_use]
    pub fn new(client: Client, recorder: EventRecorder) -> Self {
        Self {
            client,
            recorder,
            gate: WriteGate::default(),
        }
    }

    /// Whether the cache shows all that was done for the owner.
    #[must_use]
    pub fn is_open(&self, key: &ObjectKey, pods: &SharedCache<Pod>) -> bool {
        self.gate.is_open(key, pods)
    }

    /// Forgets an owner that is gone.
    pub fn forget(&self, key: &ObjectKey) {
        self.gate.forget(key);
    }

    fn api<K: Resource<DynamicType = (), Scope = NamespaceResourceScope>>(
        &self,
        key: &ObjectKey,
    ) -> Api<K> {
        Api::namespaced(self.client.clone(), key.namespace())
    }

    /// A pod was written for the owner otherwise than here.
    pub fn wrote(&self, key: &ObjectKey, pod: &ObjectMeta) {
        self.gate.wrote(key, pod);
    }

    /// Makes `count` pods in batches that double while all goes well, so that a failure that hits all of them costs
    /// few requests. `make` gives the pod with each number. For an owner that is gone, which the cache may not show yet, none
    /// is made: the garbage collector would take it away, and it would be made again, without end.
    ///
    /// Answers how many went well, and the first failure of the batch that had one; nothing is made after it.
    pub async fn create<O>(
        &self,
        key: &ObjectKey,
        owner: &O,
        count: usize,
        make: impl Fn(usize) -> v1::Pod,
    ) -> (usize, Result<(), Error>)
    where
        O: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned,
    {
        if count == 0 {
            return (0, Ok(()));
        }
        match lives(&self.client, owner).await {
            Ok(true) => {}
            Ok(false) => return (0, Ok(())),
            Err(error) => return (0, Err(error)),
        }
        let (mut tried, mut batch) = (0, 1);
        while tried < count {
            let end = count.min(tried + batch);
            let creations = (tried..end).map(|number| self.create_one(key, owner, make(number)));
            let outcomes = join_all(creations).await;
            let failed = outcomes.iter().filter(|outcome| outcome.is_err()).count();
            if let Some(failure) = outcomes.into_iter().find(Result::is_err) {
                return (end - failed, failure);
            }
            tried = end;
            batch *= 2;
        }
        (count, Ok(()))
    }

    async fn create_one<O: Resource<DynamicType = ()>>(
        &self,
        key: &ObjectKey,
        owner: &O,
        pod: v1::Pod,
    ) -> Result<(), Error> {
        match self
            .api::<v1::Pod>(key)
            .create(&PostParams::default(), &pod)
            .await
        {
            Ok(created) => {
                self.gate.wrote(key, &created.metadata);
                let name = created.metadata.name.unwrap_or_default();
                let text = format!("Created pod: {name}");
                self.recorder
                    .about(owner, EventType::Normal, "SuccessfulCreate", text);
                Ok(())
            }
            Err(error) if error.has_cause("NamespaceTerminating") => Ok(()),
            Err(error) => {
                let text = format!("Error creating: {}", message(&error));
                self.recorder
                    .about(owner, EventType::Warning, "FailedCreate", text);
                Err(error)
            }
        }
    }

    /// Deletes pods, all at once.
    ///
    /// # Errors
    /// The first failure.
    pub async fn delete<O: Resource<DynamicType = ()>>(
        &self,
        key: &ObjectKey,
        owner: &O,
        pods: &[Arc<Pod>],
    ) -> Result<(), Error> {
        let deletions = pods.iter().map(|pod| self.delete_one(key, owner, pod));
        join_all(deletions).await.into_iter().collect()
    }

    /// Deletes a pod.
    ///
    /// # Errors
    /// What the server says, unless the pod is gone.
    pub async fn delete_one<O: Resource<DynamicType = ()>>(
        &self,
        key: &ObjectKey,
        owner: &O,
        pod: &Pod,
    ) -> Result<(), Error> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let api: Api<Pod> = self.api(key);
        match delete_seen(&api, &pod.metadata, DeleteParams::default()).await {
            Ok(true) => {
                self.gate.deleted(key, &pod.metadata);
                let text = format!("Deleted pod: {name}");
                self.recorder
                    .about(owner, EventType::Normal, "SuccessfulDelete", text);
                Ok(())
            }
            Ok(false) => Ok(()),
            Err(error) => {
                let text = format!("Error deleting: {}", message(&error));
                self.recorder
                    .about(owner, EventType::Warning, "FailedDelete", text);
                Err(error)
            }
        }
    }
}
