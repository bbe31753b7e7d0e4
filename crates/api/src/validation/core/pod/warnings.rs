//! What clients are told about pods that are sound but not as their authors may think.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, ContainerPort, NodeSelectorTerm, Pod, PodAffinityTerm, PodSpec,
    PodTemplateSpec, Volume, VolumeProjection, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::annotations::APP_ARMOR;
use super::containers::visit;
use crate::field::Path;
use crate::validation::absent::{entries, entry, items, text};
use crate::validation::quantity::Amount;
use crate::validation::{names, net};

const NO_SELECTOR: &str = "a null labelSelector results in matching no pod";
const NODE_LABELS: [(&str, &str); 8] = [
    (
        "beta.kubernetes.io/arch",
        "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
    ),
    (
        "beta.kubernetes.io/os",
        "deprecated since v1.14; use \"kubernetes.io/os\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    (
        "failure-domain.beta.kubernetes.io/zone",
        "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead",
    ),
    (
        "beta.kubernetes.io/instance-type",
        "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead",
    ),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    (
        "scheduler.alpha.kubernetes.io/preferAvoidPods",
        "deprecated since v1.22; use Taints and Tolerations instead",
    ),
    (
        "node-role.kubernetes.io/master",
        "use \"node-role.kubernetes.io/control-plane\" instead",
    ),
];

/// What is said of a node label that has had its day.
pub(crate) fn deprecated_node_label(key: &str) -> Option<&'static str> {
    NODE_LABELS
        .iter()
        .find(|(label, _)| *label == key)
        .map(|(_, message)| *message)
}

/// What the client is told about a Pod; nothing on updates.
#[must_use]
pub fn warnings_pod(new: &Pod, old: Option<&Pod>) -> Vec<String> {
    if old.is_some() {
        return Vec::new();
    }
    let mut warnings = Vec::new();
    let wrong = names::dns_label(text(&new.metadata.name));
    if !wrong.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]",
            wrong.join(" ")
        ));
    }
    if let Some(spec) = &new.spec {
        Report {
            warnings: &mut warnings,
            spec,
            meta: &new.metadata,
            root: None,
        }
        .all();
    }
    warnings
}

/// What the client is told about a workload's template.
pub(crate) fn template_warnings(template: &PodTemplateSpec, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    let none = ObjectMeta::default();
    let meta = template.metadata.as_ref().unwrap_or(&none);
    if let Some(spec) = &template.spec {
        Report {
            warnings: &mut warnings,
            spec,
            meta,
            root: Some(path),
        }
        .all();
    }
    warnings
}

struct Report<'a> {
    warnings: &'a mut Vec<String>,
    spec: &'a PodSpec,
    meta: &'a ObjectMeta,
    /// The template's path; a Pod has none.
    root: Option<&'a Path>,
}

impl Report<'_> {
    fn path(&self, name: &str) -> Path {
        self.root.cloned().unwrap_or_default().child(name)
    }

    fn spec_path(&self, name: &str) -> Path {
        self.path("spec").child(name)
    }

    fn say(&mut self, path: &Path, message: &str) {
        self.warnings.push(format!("{path}: {message}"));
    }

    fn all(&mut self) {
        self.node_labels();
        self.spread();
        self.annotations();
        self.volumes();
        self.warnings
            .extend(overlapping_paths(items(&self.spec.volumes)));
        self.duplicates();
        self.fractions_of_overhead();
        self.containers();
        self.ports();
        self.port_names();
        if self
            .spec
            .termination_grace_period_seconds
            .is_some_and(|seconds| seconds < 0)
        {
            let path = self.spec_path("terminationGracePeriodSeconds");
            let message = "must be >= 0; negative values are invalid and will be treated as 1";
            self.say(&path, message);
        }
        self.affinity();
        let servers = self.spec_path("dnsConfig").child("nameservers");
        let config = self.spec.dns_config.as_ref();
        for (index, server) in config
            .map_or(&[][..], |config| items(&config.nameservers))
            .iter()
            .enumerate()
        {
            self.warnings
                .extend(net::ip_warnings(&servers.index(index), server));
        }
        let aliases = self.spec_path("hostAliases");
        for (index, alias) in items(&self.spec.host_aliases).iter().enumerate() {
            let path = aliases.index(index).child("ip");
            self.warnings.extend(net::ip_warnings(&path, &alias.ip));
        }
    }

    fn node_labels(&mut self) {
        let path = self.spec_path("nodeSelector");
        for (key, _) in entries(&self.spec.node_selector) {
            if let Some(message) = deprecated_node_label(key) {
                self.say(&path.key(key), message);
            }
        }
        let affinity = self
            .spec
            .affinity
            .as_ref()
            .and_then(|a| a.node_affinity.as_ref());
        let Some(affinity) = affinity else { return };
        let path = self.spec_path("affinity").child("nodeAffinity");
        let required = path.child(REQUIRED).child("nodeSelectorTerms");
        let terms = affinity
            .required_during_scheduling_ignored_during_execution
            .iter()
            .flat_map(|selector| &selector.node_selector_terms);
        for (index, term) in terms.enumerate() {
            self.warnings
                .extend(term_warnings(term, false, &required.index(index)));
        }
        let preferred = items(&affinity.preferred_during_scheduling_ignored_during_execution);
        for (index, term) in preferred.iter().enumerate() {
            let path = path.child(PREFERRED).index(index).child("preference");
            self.warnings
                .extend(term_warnings(&term.preference, true, &path));
        }
    }

    fn spread(&mut self) {
        let path = self.spec_path("topologySpreadConstraints");
        for (index, constraint) in items(&self.spec.topology_spread_constraints)
            .iter()
            .enumerate()
        {
            let (path, key) = (path.index(index), &constraint.topology_key);
            if let Some(message) = deprecated_node_label(key) {
                self.say(&path.child("topologyKey"), &format!("{key} is {message}"));
            }
            if constraint.label_selector.is_none() {
                self.say(&path.child("labelSelector"), NO_SELECTOR);
            }
        }
    }

    fn annotations(&mut self) {
        const SYSCTLS: &str = "non-functional in v1.11+; use the \"sysctls\" field instead";
        let path = self.path("metadata").child("annotations");
        for (key, message) in [
            (
                "scheduler.alpha.kubernetes.io/critical-pod",
                "non-functional in v1.16+; use the \"priorityClassName\" field instead",
            ),
            ("security.alpha.kubernetes.io/sysctls", SYSCTLS),
            ("security.alpha.kubernetes.io/unsafe-sysctls", SYSCTLS),
        ] {
            if entry(&self.meta.annotations, key).is_some() {
                self.say(&path.key(key), message);
            }
        }
    }

    fn volumes(&mut self) {
        let path = self.spec_path("volumes");
        for (index, volume) in items(&self.spec.volumes).iter().enumerate() {
            let path = path.index(index);
            for (there, name, message) in [
                (
                    volume.photon_persistent_disk.is_some(),
                    "photonPersistentDisk",
                    "deprecated in v1.11, non-functional in v1.16+",
                ),
                (
                    volume.git_repo.is_some(),
                    "gitRepo",
                    "deprecated in v1.11, and disabled by default in v1.33+",
                ),
                (
                    volume.scale_io.is_some(),
                    "scaleIO",
                    "deprecated in v1.16, non-functional in v1.22+",
                ),
                (volume.flocker.is_some(), "flocker", DEAD_SINCE_25),
                (volume.storageos.is_some(), "storageOS", DEAD_SINCE_25),
                (volume.quobyte.is_some(), "quobyte", DEAD_SINCE_25),
                (
                    volume.glusterfs.is_some(),
                    "glusterfs",
                    "deprecated in v1.25, non-functional in v1.26+",
                ),
            ] {
                if there {
                    self.say(&path.child(name), message);
                }
            }
            self.claim_sizes(volume, &path);
            for (there, name) in [
                (volume.cephfs.is_some(), "cephfs"),
                (volume.rbd.is_some(), "rbd"),
            ] {
                if there {
                    let message = "deprecated in v1.28, non-functional in v1.31+";
                    self.say(&path.child(name), message);
                }
            }
        }
    }

    fn claim_sizes(&mut self, volume: &Volume, path: &Path) {
        let template = volume
            .ephemeral
            .as_ref()
            .and_then(|e| e.volume_claim_template.as_ref());
        if let Some(template) = template {
            let path = path
                .child("ephemeral")
                .child("volumeClaimTemplate")
                .child("spec");
            self.warnings
                .extend(claim_spec_warnings(&template.spec, &path));
        }
    }

    fn duplicates(&mut self) {
        let mut seen = BTreeSet::new();
        let path = self.spec_path("hostAliases");
        for (index, alias) in items(&self.spec.host_aliases).iter().enumerate() {
            if !seen.insert(alias.ip.as_str()) {
                let path = path.index(index).child("ip");
                self.say(&path, &format!("duplicate ip {:?}", alias.ip));
            }
        }
        let path = self.spec_path("imagePullSecrets");
        let secrets = items(&self.spec.image_pull_secrets);
        let mut seen = BTreeSet::new();
        for (index, secret) in secrets.iter().enumerate() {
            if !seen.insert(secret.name.as_str()) {
                let path = path.index(index).child("name");
                self.say(&path, &format!("duplicate name {:?}", secret.name));
            }
        }
        for (index, _) in secrets
            .iter()
            .enumerate()
            .filter(|(_, secret)| secret.name.is_empty())
        {
            self.say(&path.index(index).child("name"), "invalid empty name \"\"");
        }
    }

    fn fractions_of_overhead(&mut self) {
        let path = self.spec_path("overhead");
        for name in ["memory", "ephemeral-storage"] {
            self.fraction(entry(&self.spec.overhead, name), &path.key(name));
        }
    }

    fn fraction(&mut self, quantity: Option<&Quantity>, path: &Path) {
        if let Some(quantity) = quantity.filter(|quantity| !Amount::of(quantity).is_whole()) {
            let message = format!(
                "fractional byte value {:?} is invalid, must be an integer",
                quantity.0
            );
            self.say(path, &message);
        }
    }

    fn containers(&mut self) {
        const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
        let context = self.spec.security_context.as_ref();
        let path = self.path("metadata").child("annotations");
        let seccomp = "non-functional in v1.27+; use the \"seccompProfile\" field instead";
        if context.is_none_or(|context| context.seccomp_profile.is_none())
            && entry(&self.meta.annotations, SECCOMP_POD).is_some()
        {
            self.say(&path.key(SECCOMP_POD), seccomp);
        }
        let pod_profile = context.and_then(|context| context.app_armor_profile.as_ref());
        let (spec, spec_path) = (self.spec, self.path("spec"));
        visit(spec, &spec_path, |container, place| {
            let own = container.security_context.as_ref();
            let key = format!(
                "container.seccomp.security.alpha.kubernetes.io/{}",
                container.name
            );
            if own.is_none_or(|own| own.seccomp_profile.is_none())
                && entry(&self.meta.annotations, &key).is_some()
            {
                self.say(&path.key(&key), seccomp);
            }
            let key = format!("{APP_ARMOR}{}", container.name);
            let own_profile = own.is_some_and(|own| own.app_armor_profile.is_some());
            if self.root.is_some()
                && !own_profile
                && let Some(annotation) = entry(&self.meta.annotations, &key)
                && pod_profile.is_none_or(|profile| !says_the_same(annotation, profile))
            {
                let message = "deprecated since v1.30; use the \"appArmorProfile\" field instead";
                self.say(&path.key(&key), message);
            }
            if let Some(resources) = &container.resources {
                for name in ["memory", "ephemeral-storage"] {
                    for (list, quantities) in [
                        ("limits", &resources.limits),
                        ("requests", &resources.requests),
                    ] {
                        let path = place.child("resources").child(list).key(name);
                        self.fraction(entry(quantities, name), &path);
                    }
                }
            }
            self.hidden_variables(container, &place.child("env"));
        });
    }

    fn hidden_variables(&mut self, container: &Container, path: &Path) {
        let mut seen = BTreeSet::new();
        for (index, variable) in items(&container.env).iter().enumerate() {
            if seen.insert(variable.name.as_str()) {
                continue;
            }
            // Building on the former value is fine.
            let reference = format!("$({})", variable.name);
            let value = text(&variable.value);
            if variable.value_from.is_some() || value == reference || !value.contains(&reference) {
                let message = format!(
                    "hides previous definition of {:?}, which may be dropped when using apply",
                    variable.name
                );
                self.say(&path.index(index), &message);
            }
        }
    }

    fn ports(&mut self) {
        let mut seen: BTreeMap<(i32, String), Vec<(Path, ContainerPort)>> = BTreeMap::new();
        let (spec, path) = (self.spec, self.path("spec"));
        visit(spec, &path, |container, path| {
            for (index, port) in items(&container.ports).iter().enumerate() {
                let path = path.child("ports").index(index);
                let (ip, number) = (text(&port.host_ip), port.host_port.unwrap_or(0));
                if !ip.is_empty() && number == 0 {
                    let message = format!(
                        "hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{} Protocol:{} HostIP:{ip}}}",
                        text(&port.name),
                        port.container_port,
                        text(&port.protocol)
                    );
                    self.say(&path, &message);
                }
                let key = (port.container_port, text(&port.protocol).to_owned());
                let others = seen.entry(key).or_default();
                for (other_path, other) in others.iter() {
                    let (other_ip, other_number) =
                        (text(&other.host_ip), other.host_port.unwrap_or(0));
                    let relation = if ip == other_ip && number == other_number {
                        "duplicate"
                    } else if number == 0 || other_number == 0 {
                        "overlapping"
                    } else if number == other_number && ip.is_empty() != other_ip.is_empty() {
                        "dangerously ambiguous"
                    } else {
                        continue;
                    };
                    self.say(
                        &path,
                        &format!("{relation} port definition with {other_path}"),
                    );
                }
                others.push((path, port.clone()));
            }
        });
    }

    fn port_names(&mut self) {
        let mut seen: BTreeMap<String, Path> = BTreeMap::new();
        let (spec, path) = (self.spec, self.path("spec"));
        visit(spec, &path, |container, path| {
            for (index, port) in items(&container.ports).iter().enumerate() {
                let (name, path) = (text(&port.name), path.child("ports").index(index));
                if name.is_empty() {
                    continue;
                }
                match seen.get(name) {
                    Some(other) => {
                        let message = format!(
                            "duplicate port name {name:?} with {other}, services and probes that select ports by name will use {other}"
                        );
                        self.say(&path, &message);
                    }
                    None => {
                        seen.insert(name.to_owned(), path);
                    }
                }
            }
        });
    }

    fn affinity(&mut self) {
        let Some(affinity) = &self.spec.affinity else {
            return;
        };
        let path = self.spec_path("affinity");
        if let Some(pods) = &affinity.pod_affinity {
            self.terms(
                items(&pods.required_during_scheduling_ignored_during_execution),
                items(&pods.preferred_during_scheduling_ignored_during_execution),
                &path.child("podAffinity"),
            );
        }
        if let Some(pods) = &affinity.pod_anti_affinity {
            self.terms(
                items(&pods.required_during_scheduling_ignored_during_execution),
                items(&pods.preferred_during_scheduling_ignored_during_execution),
                &path.child("podAntiAffinity"),
            );
        }
    }

    fn terms(
        &mut self,
        required: &[PodAffinityTerm],
        preferred: &[WeightedPodAffinityTerm],
        path: &Path,
    ) {
        for (index, term) in required.iter().enumerate() {
            if term.label_selector.is_none() {
                let path = path.child(REQUIRED).index(index).child("labelSelector");
                self.say(&path, NO_SELECTOR);
            }
        }
        for (index, term) in preferred.iter().enumerate() {
            if term.pod_affinity_term.label_selector.is_none() {
                let path = path.child(PREFERRED).index(index);
                self.say(
                    &path.child("podAffinityTerm").child("labelSelector"),
                    NO_SELECTOR,
                );
            }
        }
    }
}

/// Whether an annotation of AppArmor asks for what the profile does.
fn says_the_same(annotation: &str, profile: &AppArmorProfile) -> bool {
    let local = profile.localhost_profile.as_deref();
    match profile.type_.as_str() {
        "Unconfined" => annotation == "unconfined" && local.is_none(),
        "RuntimeDefault" => annotation == "runtime/default" && local.is_none(),
        "Localhost" => local.is_some() && annotation.strip_prefix("localhost/") == local,
        _ => false,
    }
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const DEAD_SINCE_25: &str = "deprecated in v1.22, non-functional in v1.25+";

/// What is said of a node selector's term.
pub(crate) fn term_warnings(term: &NodeSelectorTerm, values: bool, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    for (index, expression) in items(&term.match_expressions).iter().enumerate() {
        let (path, key) = (path.child("matchExpressions").index(index), &expression.key);
        if let Some(message) = deprecated_node_label(key) {
            warnings.push(format!("{}: {key} is {message}", path.child("key")));
        }
        if values {
            for (index, value) in items(&expression.values).iter().enumerate() {
                let path = path.child("values").index(index);
                for message in names::label_value(value) {
                    warnings.push(format!("{path}: {value} is invalid, {message}"));
                }
            }
        }
    }
    warnings
}

/// What is said of a claim's sizes.
pub(crate) fn claim_spec_warnings(
    spec: &k8s_openapi::api::core::v1::PersistentVolumeClaimSpec,
    path: &Path,
) -> Vec<String> {
    let Some(resources) = &spec.resources else {
        return Vec::new();
    };
    let mut warnings = Vec::new();
    for (name, list) in [
        ("requests", &resources.requests),
        ("limits", &resources.limits),
    ] {
        if let Some(size) = entry(list, "storage").filter(|size| !Amount::of(size).is_whole()) {
            let path = path.child("resources").child(name).key("storage");
            warnings.push(format!(
                "{path}: fractional byte value {:?} is invalid, must be an integer",
                size.0
            ));
        }
    }
    warnings
}

/// A file of a volume and where it comes from.
#[derive(Clone, PartialEq)]
struct File {
    path: String,
    source: String,
}

impl std::fmt::Display for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.path)?;
        if !self.source.is_empty() {
            write!(f, " ({})", self.source)?;
        }
        Ok(())
    }
}

fn file(path: &str, source: &str) -> File {
    File {
        path: path.trim_end_matches('/').to_owned(),
        source: source.to_owned(),
    }
}

fn overlaps(files: Vec<File>) -> Vec<String> {
    let below = |a: &File, b: &File| format!("{}/", a.path).starts_with(&format!("{}/", b.path));
    let mut found = Vec::new();
    for (index, new) in files
        .iter()
        .enumerate()
        .filter(|(_, file)| !file.path.is_empty())
    {
        let before = files
            .iter()
            .take(index)
            .filter(|file| !file.path.is_empty());
        for old in before.filter(|old| below(old, new) || below(new, old)) {
            found.push(format!("{new} with {old}"));
        }
    }
    found
}

fn projected_files(source: &VolumeProjection) -> Vec<File> {
    let mut files = Vec::new();
    if let Some(map) = source.config_map.as_ref().filter(|map| map.items.is_some()) {
        let name = format!("ConfigMap {:?}", map.name);
        files.extend(items(&map.items).iter().map(|key| file(&key.path, &name)));
    } else if let Some(secret) = source
        .secret
        .as_ref()
        .filter(|secret| secret.items.is_some())
    {
        let name = format!("Secret {:?}", secret.name);
        files.extend(
            items(&secret.items)
                .iter()
                .map(|key| file(&key.path, &name)),
        );
    } else if let Some(downward) = source.downward_api.as_ref().filter(|d| d.items.is_some()) {
        files.extend(
            items(&downward.items)
                .iter()
                .map(|item| file(&item.path, "DownwardAPI")),
        );
    } else if let Some(token) = &source.service_account_token {
        files.push(file(&token.path, "ServiceAccountToken"));
    } else if let Some(bundle) = &source.cluster_trust_bundle {
        let name = bundle
            .name
            .as_deref()
            .or(bundle.signer_name.as_deref())
            .unwrap_or_default();
        files.push(file(&bundle.path, &format!("ClusterTrustBundle {name:?}")));
    } else if let Some(certificate) = &source.pod_certificate {
        for (path, what) in [
            (&certificate.certificate_chain_path, "PodCertificate chain"),
            (&certificate.key_path, "PodCertificate key"),
            (
                &certificate.credential_bundle_path,
                "PodCertificate credential bundle",
            ),
        ] {
            if !text(path).is_empty() {
                files.push(file(text(path), what));
            }
        }
    }
    files
}

fn overlapping_paths(volumes: &[Volume]) -> Vec<String> {
    let mut warnings = Vec::new();
    for volume in volumes {
        let mut say = |what: &str, files: Vec<File>| {
            for overlap in overlaps(files) {
                let name = &volume.name;
                warnings.push(format!(
                    "volume {name:?} ({what}): overlapping paths: {overlap}"
                ));
            }
        };
        if let Some(map) = &volume.config_map {
            let files = items(&map.items)
                .iter()
                .map(|key| file(&key.path, ""))
                .collect();
            say(&format!("ConfigMap {:?}", map.name), files);
        }
        if let Some(secret) = &volume.secret {
            let files = items(&secret.items)
                .iter()
                .map(|key| file(&key.path, ""))
                .collect();
            say(&format!("Secret {:?}", text(&secret.secret_name)), files);
        }
        if let Some(downward) = &volume.downward_api {
            let files = items(&downward.items)
                .iter()
                .map(|item| file(&item.path, ""))
                .collect();
            say("DownwardAPI", files);
        }
        if let Some(projected) = &volume.projected {
            let sources = items(&projected.sources);
            say(
                "Projected",
                sources.iter().flat_map(projected_files).collect(),
            );
            for _ in sources
                .iter()
                .filter(|source| **source == VolumeProjection::default())
            {
                warnings.push(format!(
                    "volume {:?} (Projected) has no sources provided",
                    volume.name
                ));
            }
        }
    }
    warnings
}
