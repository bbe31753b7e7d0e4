//! Decoders of the kinds that several components read, compiled here once: each of them would else carry its own.

use k8s_openapi::api::core::v1::{
    ConfigMap, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service,
    ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceSlice};
use k8s_openapi::api::storage::v1::{CSINode, StorageClass, VolumeAttachment};
use serde::de::DeserializeOwned;

type Decoder<K> = fn(&str) -> serde_json::Result<K>;

const fn of<K: DeserializeOwned>() -> Decoder<K> {
    |json| serde_json::from_str(json)
}

/// Those of pods and nodes, and of what they need. Calling it does nothing; that it is compiled makes the decoders part of
/// this crate, whose users share them where they are built for size.
#[must_use]
pub const fn shared() -> impl Sized {
    (
        (of::<Pod>(), of::<Node>(), of::<Namespace>()),
        (of::<ConfigMap>(), of::<Secret>(), of::<ServiceAccount>()),
        (of::<Service>(), of::<EndpointSlice>()),
        (of::<PersistentVolume>(), of::<PersistentVolumeClaim>()),
        (
            of::<StorageClass>(),
            of::<CSINode>(),
            of::<VolumeAttachment>(),
        ),
        (of::<ResourceClaim>(), of::<ResourceSlice>()),
    )
}
