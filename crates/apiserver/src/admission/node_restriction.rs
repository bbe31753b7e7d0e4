//! NodeRestriction: a kubelet writes its own node, its own pods and what belongs to them, nothing else.

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::{
    Node, PersistentVolume, PersistentVolumeClaim, Pod, ProjectedVolumeSource, Volume,
};
use k8s_openapi::api::resource::v1::ResourceSlice;
use k8s_openapi::api::storage::v1::CSIDriver;
use skiff_api::{ApiError, ApiResult, Object, ObjectExt};

use super::certificates::common_name;
use super::{Admission, AdmissionRequest, Operation};
use crate::authz::graph::{Referenced, references};
use crate::authz::node::node_of;
use crate::request::Attributes;

const MIRROR: &str = "kubernetes.io/config.mirror";
const KUBELET_SIGNERS: [&str; 2] = [
    "kubernetes.io/kubelet-serving",
    "kubernetes.io/kube-apiserver-client-kubelet",
];
/// What a kubelet may say of its own node under Kubernetes' names.
const OWN_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

pub(crate) struct NodeRestriction;

/// Why something is refused: a 403 with this text, or another error.
enum Refusal {
    Forbidden(String),
    Other(ApiError),
}

impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        Self::Other(error)
    }
}

type Outcome = Result<(), Refusal>;

fn refuse(why: impl Into<String>) -> Outcome {
    Err(Refusal::Forbidden(why.into()))
}

fn only_if(holds: bool, why: impl FnOnce() -> String) -> Outcome {
    match holds {
        true => Ok(()),
        false => refuse(why()),
    }
}

/// A write by a kubelet.
struct Check<'a> {
    request: &'a AdmissionRequest<'a>,
    node: &'a str,
    object: Option<&'a dyn Object>,
    old: Option<&'a dyn Object>,
}

#[async_trait]
impl Admission for NodeRestriction {
    /// As upstream's, it judges before validation does; and again after all that others change.
    async fn mutate(
        &self,
        request: &AdmissionRequest<'_>,
        object: &mut dyn Object,
        old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        self.validate(request, Some(object), old).await
    }

    async fn validate(
        &self,
        request: &AdmissionRequest<'_>,
        object: Option<&dyn Object>,
        old: Option<&dyn Object>,
    ) -> ApiResult<()> {
        let Some(node) = node_of(&request.call.user) else {
            return Ok(());
        };
        let check = Check {
            request,
            node,
            object,
            old,
        };
        match check.all().await {
            Ok(()) => Ok(()),
            Err(Refusal::Forbidden(why)) => Err(request.forbidden(&why)),
            Err(Refusal::Other(error)) => Err(error),
        }
    }
}

impl<'a> Check<'a> {
    async fn all(&self) -> Outcome {
        if self.node.is_empty() {
            let user = &self.request.call.user.name;
            return refuse(format!("could not determine node from user {user:?}"));
        }
        let kind = &self.request.resource.kind;
        match (&*kind.group, &*kind.plural, self.request.subresource) {
            ("", "pods", "") => self.pod().await,
            ("", "pods", "status") => self.pod_status(),
            ("", "pods", "eviction") => self.eviction().await,
            ("", "pods", other) => refuse(format!(
                "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
            )),
            ("", "nodes", _) => self.own_node(),
            ("", "persistentvolumeclaims", "status") => self.claim_status(),
            ("", "persistentvolumeclaims", _) => refuse("may only update PVC status"),
            ("", "serviceaccounts", "token") => self.token().await,
            ("coordination.k8s.io", "leases", _) => {
                only_if(self.request.namespace == "kube-node-lease", || {
                    "can only access leases in the \"kube-node-lease\" system namespace".to_owned()
                })?;
                self.own_name("node lease")
            }
            ("storage.k8s.io", "csinodes", _) => self.own_name("CSINode"),
            ("resource.k8s.io", "resourceslices", _) => self.slice(),
            ("certificates.k8s.io", "certificatesigningrequests", "") => self.certificate(),
            _ => Ok(()),
        }
    }

    fn typed<T: 'static>(&self, object: Option<&'a dyn Object>) -> Result<&'a T, Refusal> {
        let typed = object.and_then(|object| object.downcast_ref());
        typed.ok_or_else(|| Refusal::Forbidden("unexpected type".to_owned()))
    }

    fn on_this_node(&self, pod: &Pod) -> bool {
        let spec = pod.spec.as_ref();
        spec.and_then(|spec| spec.node_name.as_deref()) == Some(self.node)
    }

    async fn find_pod(&self, name: &str) -> Result<Pod, Refusal> {
        let namespace = self.request.namespace;
        let found = self.request.find("", "pods", namespace, name).await?;
        found.ok_or_else(|| ApiError::not_found("", "pods", name).into())
    }

    async fn pod(&self) -> Outcome {
        let node = self.node;
        match self.request.operation {
            Operation::Create => self.mirror_pod().await,
            Operation::Delete => {
                let pod: &Pod = self.typed(self.old)?;
                only_if(self.on_this_node(pod), || {
                    format!("node {node:?} can only delete pods with spec.nodeName set to itself")
                })
            }
            Operation::Connect => Ok(()),
            Operation::Update => refuse(format!(
                "unexpected operation \"UPDATE\", node {node:?} can only create and delete mirror pods"
            )),
        }
    }

    async fn mirror_pod(&self) -> Outcome {
        let node = self.node;
        let pod: &Pod = self.typed(self.object)?;
        let annotations = pod.metadata.annotations.as_ref();
        only_if(
            annotations.is_some_and(|all| all.contains_key(MIRROR)),
            || {
                format!(
                    "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
                )
            },
        )?;
        only_if(self.on_this_node(pod), || {
            format!("node {node:?} can only create pods with spec.nodeName set to itself")
        })?;
        let owner = match pod.metadata.owner_references.as_deref().unwrap_or_default() {
            [owner] => owner,
            [] => {
                return refuse(format!(
                    "node {node:?} can only create pods with an owner reference set to itself"
                ));
            }
            _ => {
                return refuse(format!(
                    "node {node:?} can only create pods with a single owner reference set to itself"
                ));
            }
        };
        let own = owner.api_version == "v1" && owner.kind == "Node" && owner.name == node;
        only_if(own, || {
            format!("node {node:?} can only create pods with an owner reference set to itself")
        })?;
        only_if(owner.controller == Some(true), || {
            format!(
                "node {node:?} can only create pods with a controller owner reference set to itself"
            )
        })?;
        only_if(owner.block_owner_deletion != Some(true), || {
            format!("node {node:?} must not set blockOwnerDeletion on an owner reference")
        })?;
        let found: Option<Node> = self.request.find("", "nodes", "", node).await?;
        let found = found.ok_or_else(|| ApiError::not_found("", "nodes", node))?;
        let uid = found.metadata.uid.unwrap_or_default();
        only_if(owner.uid == uid, || {
            format!("node {node} UID mismatch: expected {} got {uid}", owner.uid)
        })?;
        match named_objects(pod) {
            Some(what) => refuse(format!(
                "node {node:?} can not create pods that reference {what}"
            )),
            None => Ok(()),
        }
    }

    fn pod_status(&self) -> Outcome {
        let node = self.node;
        if self.request.operation != Operation::Update {
            return refuse("unexpected operation");
        }
        let (old, new): (&Pod, &Pod) = (self.typed(self.old)?, self.typed(self.object)?);
        only_if(self.on_this_node(old), || {
            format!(
                "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
            )
        })?;
        let labels = |pod: &Pod| pod.metadata.labels.clone().unwrap_or_default();
        only_if(labels(old) == labels(new), || {
            format!("node {node:?} cannot update labels through pod status")
        })?;
        let status = |pod: &Pod| pod.status.clone().unwrap_or_default();
        let (old, new) = (status(old), status(new));
        let claims = old.resource_claim_statuses.unwrap_or_default();
        only_if(
            claims == new.resource_claim_statuses.unwrap_or_default(),
            || format!("node {node:?} cannot update resource claim statues"),
        )?;
        let extended = old.extended_resource_claim_status;
        only_if(extended == new.extended_resource_claim_status, || {
            format!("node {node:?} cannot update extended resource claim status")
        })
    }

    async fn eviction(&self) -> Outcome {
        let node = self.node;
        if self.request.operation != Operation::Create {
            return refuse("unexpected operation");
        }
        let pod = self.find_pod(self.request.name).await?;
        only_if(self.on_this_node(&pod), || {
            format!("node {node} can only evict pods with spec.nodeName set to itself")
        })
    }

    fn own_node(&self) -> Outcome {
        let (node, name) = (self.node, self.request.name);
        only_if(name == node, || {
            format!("node {node:?} is not allowed to modify node {name:?}")
        })?;
        let labels = |node: &Node| node.metadata.labels.clone().unwrap_or_default();
        match self.request.operation {
            Operation::Create => {
                let new: &Node = self.typed(self.object)?;
                let set: Vec<String> = labels(new).into_keys().collect();
                let forbidden = forbidden_labels(set);
                only_if(forbidden.is_empty(), || {
                    format!(
                        "node {node:?} is not allowed to set the following labels: {}",
                        forbidden.join(", ")
                    )
                })
            }
            Operation::Update => {
                let (new, old): (&Node, &Node) = (self.typed(self.object)?, self.typed(self.old)?);
                let taints = |node: &Node| {
                    let taints = node.spec.as_ref().and_then(|spec| spec.taints.clone());
                    taints.unwrap_or_default()
                };
                only_if(taints(new) == taints(old), || {
                    format!("node {node:?} is not allowed to modify taints")
                })?;
                let owners =
                    |node: &Node| node.metadata.owner_references.clone().unwrap_or_default();
                only_if(owners(new) == owners(old), || {
                    format!("node {node:?} is not allowed to modify ownerReferences")
                })?;
                let (new, old) = (labels(new), labels(old));
                let mut changed: Vec<String> = new.keys().chain(old.keys()).cloned().collect();
                changed.retain(|key| new.get(key) != old.get(key));
                let forbidden = forbidden_labels(changed);
                only_if(forbidden.is_empty(), || {
                    format!("is not allowed to modify labels: {}", forbidden.join(", "))
                })
            }
            Operation::Delete | Operation::Connect => Ok(()),
        }
    }

    fn claim_status(&self) -> Outcome {
        let node = self.node;
        if self.request.operation != Operation::Update {
            return refuse("unexpected operation");
        }
        let rest = |claim: &PersistentVolumeClaim| {
            let mut claim = claim.clone();
            claim.metadata.resource_version = None;
            claim.metadata.managed_fields = None;
            let status = claim.status.get_or_insert_default();
            status.capacity = None;
            status.conditions = None;
            status.allocated_resource_statuses = None;
            status.allocated_resources = None;
            claim
        };
        let same = rest(self.typed(self.object)?) == rest(self.typed(self.old)?);
        only_if(same, || {
            format!(
                "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
            )
        })
    }

    async fn token(&self) -> Outcome {
        if self.request.operation != Operation::Create {
            return Ok(());
        }
        let request: &TokenRequest = self.typed(self.object)?;
        let spec = request.spec.clone().unwrap_or_default();
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let reference = spec.bound_object_ref.filter(|reference| {
            text(&reference.api_version) == "v1"
                && text(&reference.kind) == "Pod"
                && !text(&reference.name).is_empty()
        });
        let Some(reference) = reference else {
            return refuse("node requested token not bound to a pod");
        };
        let uid = text(&reference.uid);
        only_if(!uid.is_empty(), || {
            "node requested token with a pod binding without a uid".to_owned()
        })?;
        let pod = self.find_pod(&text(&reference.name)).await?;
        only_if(pod.metadata.uid.as_ref() == Some(&uid), || {
            format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            )
        })?;
        only_if(self.on_this_node(&pod), || {
            "node requested token bound to a pod scheduled on a different node".to_owned()
        })?;
        self.audience(&pod, spec.audiences.as_deref().unwrap_or_default())
            .await
    }

    /// A kubelet asks for tokens for those only that the pod's volumes name.
    async fn audience(&self, pod: &Pod, audiences: &[String]) -> Outcome {
        // The API server's own audience is filled in before a request comes here.
        let ours = self.request.call.server.authenticator();
        let ours = ours.map(|ours| ours.audiences()).unwrap_or_default();
        let wanted = match audiences {
            [] => "",
            [only] if ours.contains(only) => "",
            [only] => only.as_str(),
            _ => return refuse("node may only request 0 or 1 audiences"),
        };
        for volume in pod
            .spec
            .iter()
            .flat_map(|spec| spec.volumes.iter().flatten())
        {
            if self.volume_names(pod, volume, wanted).await? {
                return Ok(());
            }
        }
        let attributes = Attributes {
            user: self.request.call.user.clone(),
            verb: "request-serviceaccounts-token-audience".to_owned(),
            namespace: self.request.namespace.to_owned(),
            version: "v1".to_owned(),
            resource: wanted.to_owned(),
            name: self.request.name.to_owned(),
            is_resource: true,
            ..Attributes::default()
        };
        if self.request.call.server.decide(&attributes).await.allowed() {
            return Ok(());
        }
        refuse(format!(
            "audience {wanted:?} not found in pod spec volume, {} is not authorized to request tokens for this audience",
            self.request.call.user.name
        ))
    }

    async fn volume_names(
        &self,
        pod: &Pod,
        volume: &Volume,
        audience: &str,
    ) -> Result<bool, Refusal> {
        let projects = |projected: &ProjectedVolumeSource| {
            let mut sources = projected.sources.iter().flatten();
            sources.any(|source| {
                let token = source.service_account_token.as_ref();
                token.is_some_and(|token| token.audience.as_deref().unwrap_or_default() == audience)
            })
        };
        if volume.projected.as_ref().is_some_and(projects) {
            return Ok(true);
        }
        let driver = if let Some(csi) = &volume.csi {
            Some(csi.driver.clone())
        } else if let Some(claim) = &volume.persistent_volume_claim {
            self.claims_driver(&claim.claim_name).await?
        } else if volume.ephemeral.is_some() {
            let pod = pod.metadata.name.as_deref().unwrap_or_default();
            self.claims_driver(&format!("{pod}-{}", volume.name))
                .await?
        } else {
            None
        };
        let Some(driver) = driver else {
            return Ok(false);
        };
        let driver: Option<CSIDriver> = self
            .request
            .find("storage.k8s.io", "csidrivers", "", &driver)
            .await?;
        let asks = driver.and_then(|driver| driver.spec.token_requests);
        Ok(asks
            .into_iter()
            .flatten()
            .any(|ask| ask.audience == audience))
    }

    async fn claims_driver(&self, claim: &str) -> Result<Option<String>, Refusal> {
        let namespace = self.request.namespace;
        let claim: Option<PersistentVolumeClaim> = self
            .request
            .find("", "persistentvolumeclaims", namespace, claim)
            .await?;
        let volume = claim.and_then(|claim| claim.spec?.volume_name);
        let Some(volume) = volume.filter(|volume| !volume.is_empty()) else {
            return Ok(None);
        };
        let volume: Option<PersistentVolume> = self
            .request
            .find("", "persistentvolumes", "", &volume)
            .await?;
        Ok(volume.and_then(|volume| Some(volume.spec?.csi?.driver)))
    }

    fn own_name(&self, what: &str) -> Outcome {
        let name = match (self.request.operation, self.object) {
            (Operation::Create, Some(object)) => object.metadata().name.as_deref(),
            _ => Some(self.request.name),
        };
        only_if(name == Some(self.node), || {
            format!("can only access {what} with the same name as the requesting node")
        })
    }

    fn slice(&self) -> Outcome {
        let (object, verb) = match self.request.operation {
            Operation::Create => (self.object, "create"),
            Operation::Delete => (self.old, "delete"),
            Operation::Update | Operation::Connect => return Ok(()),
        };
        let slice: &ResourceSlice = self.typed(object)?;
        only_if(slice.spec.node_name.as_deref() == Some(self.node), || {
            format!("can only {verb} ResourceSlice with the same NodeName as the requesting node")
        })
    }

    fn certificate(&self) -> Outcome {
        if self.request.operation != Operation::Create {
            return Ok(());
        }
        let asked: &CertificateSigningRequest = self.typed(self.object)?;
        if !KUBELET_SIGNERS.contains(&asked.spec.signer_name.as_str()) {
            return Ok(());
        }
        let node = self.node;
        match common_name(&asked.spec.request.0) {
            Ok(name) if name == format!("system:node:{node}") => Ok(()),
            Ok(_) => refuse(format!(
                "can only create a node CSR with CN=system:node:{node}"
            )),
            Err(why) => refuse(format!("unable to parse csr: {why}")),
        }
    }
}

/// What a mirror pod must not name: it would give its node rights on it.
fn named_objects(pod: &Pod) -> Option<&'static str> {
    let spec = pod.spec.as_ref()?;
    let references = references(pod);
    let names = |what| references.iter().any(|(found, _)| *found == what);
    if names(Referenced::ServiceAccount) {
        return Some("serviceaccounts");
    }
    if names(Referenced::Secret) {
        return Some("secrets");
    }
    if names(Referenced::ConfigMap) {
        return Some("configmaps");
    }
    if spec
        .resource_claims
        .as_ref()
        .is_some_and(|claims| !claims.is_empty())
    {
        return Some("resourceclaims");
    }
    spec.volumes.iter().flatten().find_map(volume_object)
}

fn volume_object(volume: &Volume) -> Option<&'static str> {
    if volume.config_map.is_some() {
        return Some("configmaps (via configmap volumes)");
    }
    if volume.secret.is_some() {
        return Some("secrets (via secret volumes)");
    }
    if volume.csi.is_some() {
        return Some("csidrivers (via CSI volumes)");
    }
    if volume.glusterfs.is_some() {
        return Some("endpoints (via glusterFS volumes)");
    }
    if volume.persistent_volume_claim.is_some() {
        return Some("persistentvolumeclaims");
    }
    if volume.ephemeral.is_some() {
        return Some("persistentvolumeclaims (via ephemeral volumes)");
    }
    if volume.azure_file.is_some() {
        return Some("secrets (via azureFile volumes)");
    }
    let sources = volume.projected.as_ref()?.sources.iter().flatten();
    sources
        .map(|source| {
            [
                (
                    source.config_map.is_some(),
                    "configmaps (via projected volumes)",
                ),
                (source.secret.is_some(), "secrets (via projected volumes)"),
                (
                    source.service_account_token.is_some(),
                    "serviceaccounts (via projected volumes)",
                ),
                (source.cluster_trust_bundle.is_some(), "clustertrustbundles"),
                (source.pod_certificate.is_some(), "podcertificates"),
            ]
        })
        .find_map(|sources| {
            let mut named = sources.into_iter().filter(|(named, _)| *named);
            named.next().map(|(_, what)| what)
        })
}

/// Of labels that are set or changed, those that are not for a kubelet.
fn forbidden_labels(mut labels: Vec<String>) -> Vec<String> {
    let under = |label: &str, domain: &str| {
        let prefix = label.split_once('/').map_or("", |(prefix, _)| prefix);
        prefix == domain
            || prefix
                .strip_suffix(domain)
                .is_some_and(|rest| rest.ends_with('.'))
    };
    labels.retain(|label| {
        let kubernetes = under(label, "kubernetes.io") || under(label, "k8s.io");
        let own = OWN_LABELS.contains(&label.as_str())
            || under(label, "kubelet.kubernetes.io")
            || under(label, "node.kubernetes.io");
        under(label, "node-restriction.kubernetes.io") || kubernetes && !own
    });
    labels.sort_unstable();
    labels.dedup();
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn some_labels_are_not_for_kubelets() {
        let forbidden =
            |labels: &[&str]| forbidden_labels(labels.iter().map(ToString::to_string).collect());
        let all = [
            "team",
            "example.com/x",
            "kubernetes.io/hostname",
            "kubelet.kubernetes.io/a",
            "sub.node.kubernetes.io/a",
            "node-restriction.kubernetes.io/a",
            "x.node-restriction.kubernetes.io/a",
            "kubernetes.io/role",
            "node-role.kubernetes.io/control-plane",
            "xkubernetes.io/a",
        ];
        assert_eq!(
            forbidden(&all),
            [
                "kubernetes.io/role",
                "node-restriction.kubernetes.io/a",
                "node-role.kubernetes.io/control-plane",
                "x.node-restriction.kubernetes.io/a"
            ]
        );
    }

    #[test]
    fn a_mirror_pod_names_nothing_of_the_cluster() {
        let named = |spec: serde_json::Value| {
            let pod: Pod =
                serde_json::from_value(json!({"metadata": {"name": "m"}, "spec": spec})).unwrap();
            named_objects(&pod)
        };
        let volume = |source: serde_json::Value| json!({"containers": [], "volumes": [source]});
        assert_eq!(
            named(volume(json!({"name": "v", "hostPath": {"path": "/"}}))),
            None
        );
        assert_eq!(
            named(json!({"containers": [], "serviceAccountName": "x"})),
            Some("serviceaccounts")
        );
        let env = json!({"containers": [], "ephemeralContainers": [{"name": "e", "envFrom": [{"secretRef": {"name": "s"}}]}]});
        assert_eq!(named(env), Some("secrets"));
        assert_eq!(
            named(volume(
                json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}})
            )),
            Some("persistentvolumeclaims")
        );
        assert_eq!(
            named(volume(
                json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}})
            )),
            Some("serviceaccounts (via projected volumes)")
        );
        assert_eq!(
            named(json!({"containers": [], "resourceClaims": [{"name": "r"}]})),
            Some("resourceclaims")
        );
    }
}
