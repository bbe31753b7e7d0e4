//! Which objects a kubelet may see: those that the pods on its node name, and what belongs to them.
//!
//! What leads to a node is kept with the node, so a decision looks at one node's pods however many there are in the
//! cluster.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::api::core::v1::{
    Container, EnvFromSource, EnvVar, PersistentVolume, PersistentVolumeSpec, Pod, SecretReference,
    Volume,
};
use serde::Deserialize;

/// The store's prefixes that the graph follows.
pub const PREFIXES: [&str; 4] = [
    "/registry/pods/",
    "/registry/persistentvolumes/",
    "/registry/volumeattachments/",
    "/registry/resourceslices/",
];

/// What an object is, to the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Referenced {
    /// A Secret.
    Secret,
    /// A ConfigMap.
    ConfigMap,
    /// A PersistentVolumeClaim.
    Claim,
    /// A ServiceAccount.
    ServiceAccount,
    /// A ResourceClaim.
    ResourceClaim,
}

/// What one pod refers to.
#[derive(Debug)]
struct PodRow {
    node: String,
    references: BTreeSet<(Referenced, String)>,
}

/// What one volume leads to.
#[derive(Debug)]
struct VolumeRow {
    /// The claim that it is bound to, `namespace/name`.
    claim: String,
    /// The secrets that a kubelet needs for it, `namespace/name`.
    secrets: Vec<String>,
}

/// An object that names its node in its own specification.
#[derive(Deserialize)]
struct OnNode {
    spec: OnNodeSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct OnNodeSpec {
    #[serde(default)]
    node_name: Option<String>,
}

/// Which node may see which objects.
#[derive(Debug, Default)]
pub struct Graph {
    /// By `namespace/name`.
    pods: HashMap<String, PodRow>,
    /// The pods of each node.
    nodes: HashMap<String, BTreeSet<String>>,
    volumes: HashMap<String, VolumeRow>,
    /// The volumes of a claim, and those that need a secret.
    by_claim: HashMap<String, BTreeSet<String>>,
    by_secret: HashMap<String, BTreeSet<String>>,
    /// The node of each VolumeAttachment.
    attachments: HashMap<String, String>,
    /// The node of each ResourceSlice.
    slices: HashMap<String, String>,
}

impl Graph {
    /// Takes in the state of a key; `None` when it was deleted. Other keys are ignored.
    pub fn put(&mut self, key: &str, value: Option<&[u8]>) {
        let Some(prefix) = PREFIXES.iter().position(|prefix| key.starts_with(prefix)) else {
            return;
        };
        let name = &key[PREFIXES[prefix].len()..];
        match prefix {
            0 => {
                self.forget(name);
                if let Some(pod) = value.and_then(|value| serde_json::from_slice::<Pod>(value).ok())
                {
                    self.add(name, &pod);
                }
            }
            1 => self.put_volume(
                name,
                value.and_then(|value| serde_json::from_slice::<PersistentVolume>(value).ok()),
            ),
            _ => {
                let object = value.and_then(|value| serde_json::from_slice::<OnNode>(value).ok());
                let node = object.and_then(|object| object.spec.node_name);
                let of = match prefix {
                    2 => &mut self.attachments,
                    _ => &mut self.slices,
                };
                match node.filter(|node| !node.is_empty()) {
                    Some(node) => of.insert(name.to_owned(), node),
                    None => of.remove(name),
                };
            }
        }
    }

    fn put_volume(&mut self, name: &str, volume: Option<PersistentVolume>) {
        if let Some(row) = self.volumes.remove(name) {
            drop_from(&mut self.by_claim, &row.claim, name);
            for secret in &row.secrets {
                drop_from(&mut self.by_secret, secret, name);
            }
        }
        let Some(spec) = volume.and_then(|volume| volume.spec) else {
            return;
        };
        let Some(claim) = &spec.claim_ref else { return };
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let claim_namespace = text(&claim.namespace);
        let row = VolumeRow {
            claim: format!("{claim_namespace}/{}", text(&claim.name)),
            secrets: volume_secrets(&spec, &claim_namespace),
        };
        let add = |to: &mut HashMap<String, BTreeSet<String>>, key: &String| {
            to.entry(key.clone()).or_default().insert(name.to_owned());
        };
        add(&mut self.by_claim, &row.claim);
        for secret in &row.secrets {
            add(&mut self.by_secret, secret);
        }
        self.volumes.insert(name.to_owned(), row);
    }

    fn forget(&mut self, name: &str) {
        let Some(row) = self.pods.remove(name) else {
            return;
        };
        drop_from(&mut self.nodes, &row.node, name);
    }

    fn add(&mut self, name: &str, pod: &Pod) {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
        let Some(node) = node.filter(|node| !node.is_empty()) else {
            return;
        };
        // A mirror pod stands for a file on the node; it gives the node no rights.
        let annotations = pod.metadata.annotations.as_ref();
        let mirror = annotations.is_some_and(|all| all.contains_key("kubernetes.io/config.mirror"));
        let references = if mirror {
            BTreeSet::new()
        } else {
            references(pod)
        };
        let pods = self.nodes.entry(node.clone()).or_default();
        pods.insert(name.to_owned());
        let row = PodRow { node, references };
        self.pods.insert(name.to_owned(), row);
    }

    /// Whether a pod on the node names the object, or a volume of such a pod does.
    #[must_use]
    pub fn sees(&self, node: &str, namespace: &str, what: Referenced, name: &str) -> bool {
        let wanted = (what, name.to_owned());
        let in_namespace = |pod: &str| pod.split_once('/').is_some_and(|(of, _)| of == namespace);
        let mut pods = self.nodes.get(node).into_iter().flatten();
        let named = pods.any(|pod| {
            in_namespace(pod)
                && (self.pods.get(pod)).is_some_and(|row| row.references.contains(&wanted))
        });
        named || what == Referenced::Secret && self.sees_by_volume(node, namespace, name)
    }

    fn sees_by_volume(&self, node: &str, namespace: &str, secret: &str) -> bool {
        let volumes = self.by_secret.get(&format!("{namespace}/{secret}"));
        let mut volumes = volumes.into_iter().flatten();
        volumes.any(|volume| self.sees_volume(node, volume))
    }

    /// Whether a pod on the node uses the volume.
    #[must_use]
    pub fn sees_volume(&self, node: &str, volume: &str) -> bool {
        let row = self.volumes.get(volume);
        let claim = row.and_then(|row| row.claim.split_once('/'));
        claim.is_some_and(|(namespace, claim)| self.sees(node, namespace, Referenced::Claim, claim))
    }

    /// Whether the pod is on the node.
    #[must_use]
    pub fn runs(&self, node: &str, namespace: &str, name: &str) -> bool {
        let row = self.pods.get(&format!("{namespace}/{name}"));
        row.is_some_and(|row| row.node == node)
    }

    /// Whether the VolumeAttachment is for the node.
    #[must_use]
    pub fn attaches(&self, node: &str, attachment: &str) -> bool {
        (self.attachments.get(attachment)).is_some_and(|found| found == node)
    }

    /// Whether the ResourceSlice is the node's.
    #[must_use]
    pub fn offers(&self, node: &str, slice: &str) -> bool {
        self.slices.get(slice).is_some_and(|found| found == node)
    }

    /// Whether nothing is known of any node.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}

fn drop_from(map: &mut HashMap<String, BTreeSet<String>>, key: &str, name: &str) {
    if let Some(names) = map.get_mut(key) {
        names.remove(name);
        if names.is_empty() {
            map.remove(key);
        }
    }
}

/// The secrets of a volume that a kubelet needs, `namespace/name`; without a namespace they are in the claim's.
fn volume_secrets(spec: &PersistentVolumeSpec, claim_namespace: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut add = |namespace: Option<&String>, name: Option<&String>| {
        let namespace = namespace.filter(|text| !text.is_empty());
        let namespace = namespace.map_or(claim_namespace, String::as_str);
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            found.push(format!("{namespace}/{name}"));
        }
    };
    if let Some(source) = &spec.azure_file {
        add(source.secret_namespace.as_ref(), Some(&source.secret_name));
    }
    let csi = spec.csi.as_ref();
    let references: [Option<&SecretReference>; 9] = [
        spec.cephfs
            .as_ref()
            .and_then(|source| source.secret_ref.as_ref()),
        spec.cinder
            .as_ref()
            .and_then(|source| source.secret_ref.as_ref()),
        spec.flex_volume
            .as_ref()
            .and_then(|source| source.secret_ref.as_ref()),
        spec.rbd
            .as_ref()
            .and_then(|source| source.secret_ref.as_ref()),
        spec.scale_io.as_ref().map(|source| &source.secret_ref),
        spec.iscsi
            .as_ref()
            .and_then(|source| source.secret_ref.as_ref()),
        csi.and_then(|source| source.node_publish_secret_ref.as_ref()),
        csi.and_then(|source| source.node_stage_secret_ref.as_ref()),
        csi.and_then(|source| source.node_expand_secret_ref.as_ref()),
    ];
    for reference in references.into_iter().flatten() {
        add(reference.namespace.as_ref(), reference.name.as_ref());
    }
    if let Some(secret) = spec
        .storageos
        .as_ref()
        .and_then(|source| source.secret_ref.as_ref())
    {
        add(secret.namespace.as_ref(), secret.name.as_ref());
    }
    found
}

/// What a pod names.
#[must_use]
pub fn references(pod: &Pod) -> BTreeSet<(Referenced, String)> {
    let mut found = BTreeSet::new();
    let Some(spec) = &pod.spec else { return found };
    let mut add = |what, name: Option<&String>| {
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            found.insert((what, name.clone()));
        }
    };
    add(
        Referenced::ServiceAccount,
        spec.service_account_name.as_ref(),
    );
    for secret in spec.image_pull_secrets.iter().flatten() {
        add(Referenced::Secret, Some(&secret.name));
    }
    let containers = spec
        .containers
        .iter()
        .chain(spec.init_containers.iter().flatten());
    for Container { env, env_from, .. } in containers {
        environment(env.as_deref(), env_from.as_deref(), &mut add);
    }
    for container in spec.ephemeral_containers.iter().flatten() {
        environment(
            container.env.as_deref(),
            container.env_from.as_deref(),
            &mut add,
        );
    }
    for volume in spec.volumes.iter().flatten() {
        volume_references(pod, volume, &mut add);
    }
    let status = pod.status.as_ref();
    let made = status.and_then(|status| status.resource_claim_statuses.as_ref());
    for claim in spec.resource_claims.iter().flatten() {
        let made = made.into_iter().flatten();
        let made = made.filter(|status| status.name == claim.name);
        let mut made = made.filter_map(|status| status.resource_claim_name.as_ref());
        add(
            Referenced::ResourceClaim,
            claim.resource_claim_name.as_ref().or(made.next_back()),
        );
    }
    let extended = status.and_then(|status| status.extended_resource_claim_status.as_ref());
    add(
        Referenced::ResourceClaim,
        extended.map(|status| &status.resource_claim_name),
    );
    found
}

fn environment(
    env: Option<&[EnvVar]>,
    env_from: Option<&[EnvFromSource]>,
    add: &mut dyn FnMut(Referenced, Option<&String>),
) {
    for source in env
        .unwrap_or_default()
        .iter()
        .filter_map(|variable| variable.value_from.as_ref())
    {
        add(
            Referenced::Secret,
            source
                .secret_key_ref
                .as_ref()
                .map(|reference| &reference.name),
        );
        add(
            Referenced::ConfigMap,
            source
                .config_map_key_ref
                .as_ref()
                .map(|reference| &reference.name),
        );
    }
    for source in env_from.unwrap_or_default() {
        add(
            Referenced::Secret,
            source.secret_ref.as_ref().map(|reference| &reference.name),
        );
        add(
            Referenced::ConfigMap,
            source
                .config_map_ref
                .as_ref()
                .map(|reference| &reference.name),
        );
    }
}

fn volume_references(pod: &Pod, volume: &Volume, add: &mut dyn FnMut(Referenced, Option<&String>)) {
    let secrets = [
        volume
            .secret
            .as_ref()
            .and_then(|source| source.secret_name.as_ref()),
        volume.azure_file.as_ref().map(|source| &source.secret_name),
        volume
            .cephfs
            .as_ref()
            .and_then(|source| source.secret_ref.as_ref())
            .map(|secret| &secret.name),
        volume
            .cinder
            .as_ref()
            .and_then(|source| source.secret_ref.as_ref())
            .map(|secret| &secret.name),
        volume
            .flex_volume
            .as_ref()
            .and_then(|source| source.secret_ref.as_ref())
            .map(|secret| &secret.name),
        volume
            .rbd
            .as_ref()
            .and_then(|source| source.secret_ref.as_ref())
            .map(|secret| &secret.name),
        volume
            .scale_io
            .as_ref()
            .map(|source| &source.secret_ref.name),
        volume
            .iscsi
            .as_ref()
            .and_then(|source| source.secret_ref.as_ref())
            .map(|secret| &secret.name),
        volume
            .storageos
            .as_ref()
            .and_then(|source| source.secret_ref.as_ref())
            .map(|secret| &secret.name),
        volume
            .csi
            .as_ref()
            .and_then(|source| source.node_publish_secret_ref.as_ref())
            .map(|secret| &secret.name),
    ];
    for secret in secrets {
        add(Referenced::Secret, secret);
    }
    add(
        Referenced::ConfigMap,
        volume.config_map.as_ref().map(|source| &source.name),
    );
    add(
        Referenced::Claim,
        volume
            .persistent_volume_claim
            .as_ref()
            .map(|source| &source.claim_name),
    );
    if volume.ephemeral.is_some() {
        let claim = format!(
            "{}-{}",
            pod.metadata.name.as_deref().unwrap_or_default(),
            volume.name
        );
        add(Referenced::Claim, Some(&claim));
    }
    let projected = volume.projected.iter();
    for source in projected
        .filter_map(|projected| projected.sources.as_ref())
        .flatten()
    {
        add(
            Referenced::Secret,
            source.secret.as_ref().map(|source| &source.name),
        );
        add(
            Referenced::ConfigMap,
            source.config_map.as_ref().map(|source| &source.name),
        );
    }
}
