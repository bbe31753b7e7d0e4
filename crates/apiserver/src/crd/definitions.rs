//! Follows the definitions: gives each its status, and puts what it defines into the registry.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use http::{Method, StatusCode};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionNames, CustomResourceDefinitionStatus,
};
use skiff_api::apiextensions::naming::{self, CLEANUP_FINALIZER, Taken};
use skiff_api::{Scope, Subresource};
use tokio::sync::watch;

use super::{CustomKind, Definition};
use crate::cache::{Entry, ResourceCache, Since, Trigger};
use crate::kubernetes_service::call;
use crate::registry::{Resource, ServedKind};
use crate::request::UserInfo;
use crate::served_kind::CustomParts;
use crate::server::ApiServer;

/// What failed is tried again after this time.
pub(super) const RETRY: Duration = Duration::from_millis(200);

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";

/// What the server knows of custom resources beside the registry.
pub(crate) struct Definitions {
    /// Whether all definitions that there were at the start are served.
    synced: watch::Sender<bool>,
}

impl Default for Definitions {
    fn default() -> Self {
        Self {
            synced: watch::Sender::new(false),
        }
    }
}

impl Definitions {
    /// Waits until the definitions that there were at the start are served.
    pub async fn synced(&self) {
        let mut synced = self.synced.subscribe();
        // The sender lives as long as the server.
        let _ = synced.wait_for(|synced| *synced).await;
    }
}

/// Follows the definitions until the server stops.
pub(crate) async fn run(server: Arc<ApiServer>) {
    let follow = async {
        let mut follower = Follower {
            server: server.clone(),
            user: Arc::new(UserInfo::new("system:apiserver", &["system:masters"])),
            known: HashMap::new(),
            groups: HashMap::new(),
            serial: 0,
        };
        loop {
            if !follower.follow().await {
                return;
            }
            server.clock.sleep(RETRY).await;
        }
    };
    tokio::select! {
        () = follow => {}
        () = server.shutdown.triggered() => {}
    }
}

/// What was made of a definition.
struct Known {
    group: String,
    plural: String,
    /// Tells whether what is served must change.
    fingerprint: u64,
    installed: bool,
    cleaning: bool,
    definition: Option<Arc<Definition>>,
}

struct Follower {
    server: Arc<ApiServer>,
    user: Arc<UserInfo>,
    known: HashMap<String, Known>,
    /// The names that the definitions of each group have got.
    groups: HashMap<String, BTreeMap<String, CustomResourceDefinitionNames>>,
    /// The number of the newest state of a definition.
    serial: u64,
}

impl Follower {
    /// Follows one cache until it ends; `false`: there are no definitions in this server.
    async fn follow(&mut self) -> bool {
        let registry = self.server.registry.load_full();
        let Some(resource) = registry.stored(GROUP, PLURAL) else {
            self.server.definitions.synced.send_replace(true);
            return false;
        };
        let cache = match self.server.hub_cache(resource).await {
            Ok(cache) => cache,
            Err(error) => {
                tracing::debug!(%error, "definitions of custom resources cannot be read");
                return true;
            }
        };
        let changes = cache.subscribe(Trigger::Any);
        let (entries, mut cursor) = cache.snapshot(cache.prefix());
        let there: HashSet<&str> = entries.iter().map(|entry| entry.name()).collect();
        let gone: Vec<String> = self
            .known
            .keys()
            .filter(|name| !there.contains(name.as_str()))
            .cloned()
            .collect();
        for name in gone {
            self.forget(&cache, &name);
        }
        for entry in &entries {
            self.see(&cache, entry);
        }
        self.server.definitions.synced.send_replace(true);
        loop {
            match cache.since(cursor, 256) {
                Since::Lost => return true,
                Since::Events(events, _) if events.is_empty() => changes.changed().await,
                Since::Events(events, next) => {
                    cursor = next;
                    for event in events {
                        match (&event.current, &event.previous) {
                            (Some(entry), _) => self.see(&cache, entry),
                            (None, Some(entry)) => self.forget(&cache, entry.name()),
                            (None, None) => {}
                        }
                    }
                }
            }
        }
    }

    fn taken(&self, group: &str, name: &str) -> Taken {
        let mut taken = Taken::default();
        for (other, names) in self.groups.get(group).into_iter().flatten() {
            if other != name {
                taken.add(names);
            }
        }
        taken
    }

    /// A definition is there, or has changed.
    fn see(&mut self, cache: &Arc<ResourceCache>, entry: &Entry) {
        let Some(crd) = entry.decode::<CustomResourceDefinition>() else {
            return;
        };
        let name = entry.name().to_owned();
        let group = crd.spec.group.clone();
        let status = naming::plan_status(&crd, &self.taken(&group, &name), self.server.now());
        let names = status.accepted_names.clone().unwrap_or_default();
        let group_names = self.groups.entry(group.clone()).or_default();
        let before = group_names.insert(name.clone(), names.clone());
        let established =
            crd.metadata.deletion_timestamp.is_some()
                || status.conditions.iter().flatten().any(|condition| {
                    condition.type_ == "Established" && condition.status == "True"
                });
        self.serve(entry, &crd, &names, established);
        if crd.metadata.deletion_timestamp.is_some() {
            self.clean_up(&name, crd);
        } else if crd.status.as_ref() != Some(&status) {
            self.write_status(crd, status);
        }
        if before.is_some_and(|before| before != names) {
            self.see_others(cache, &group, &name);
        }
    }

    /// Looks at the other definitions of a group again: names may have become free.
    fn see_others(&mut self, cache: &Arc<ResourceCache>, group: &str, name: &str) {
        let others: Vec<String> = self
            .groups
            .get(group)
            .into_iter()
            .flat_map(BTreeMap::keys)
            .filter(|other| *other != name)
            .cloned()
            .collect();
        for other in others {
            let Some(entry) = cache.get(&format!("{}{other}", cache.prefix())) else {
                continue;
            };
            let refused = entry
                .decode()
                .is_some_and(|crd: CustomResourceDefinition| !naming::holds(&crd, "NamesAccepted"));
            if refused {
                self.see(cache, &entry);
            }
        }
    }

    /// Puts what a definition defines into the registry, or takes it out.
    fn serve(
        &mut self,
        entry: &Entry,
        crd: &CustomResourceDefinition,
        names: &CustomResourceDefinitionNames,
        established: bool,
    ) {
        let fingerprint = fingerprint(crd, names, established);
        self.serial += 1;
        let name = entry.name().to_owned();
        let known = self.known.entry(name).or_insert_with(|| Known {
            group: crd.spec.group.clone(),
            plural: crd.spec.names.plural.clone(),
            fingerprint: 0,
            installed: false,
            cleaning: false,
            definition: None,
        });
        if known.fingerprint == fingerprint {
            // Nothing that counts has changed; the older bytes need not be kept.
            if let Some(definition) = &known.definition {
                definition.renew(entry.bytes.clone());
            }
            return;
        }
        known.fingerprint = fingerprint;
        known.definition = established.then(|| {
            let state = (fingerprint, self.serial);
            Arc::new(Definition::new(crd, entry.bytes.clone(), state))
        });
        let versions = match &known.definition {
            Some(definition) => resources(crd, definition, names),
            None => Vec::new(),
        };
        if versions.is_empty() && !known.installed {
            return;
        }
        known.installed = !versions.is_empty();
        let (group, plural) = (known.group.clone(), known.plural.clone());
        self.install(&group, &plural, versions);
    }

    fn install(&self, group: &str, plural: &str, versions: Vec<Resource>) {
        self.server
            .registry
            .rcu(|registry| registry.with_custom(group, plural, versions.clone()));
        // Watches end, and what is cached is read anew as the definition has it now.
        self.server
            .hub
            .drop_cache(&format!("/registry/{group}/{plural}"));
    }

    /// A definition is gone.
    fn forget(&mut self, cache: &Arc<ResourceCache>, name: &str) {
        let Some(known) = self.known.remove(name) else {
            return;
        };
        self.install(&known.group, &known.plural, Vec::new());
        if let Some(names) = self.groups.get_mut(&known.group) {
            names.remove(name);
            if names.is_empty() {
                self.groups.remove(&known.group);
            }
        }
        self.see_others(cache, &known.group, name);
    }

    fn write_status(
        &self,
        mut crd: CustomResourceDefinition,
        status: CustomResourceDefinitionStatus,
    ) {
        let (server, user) = (self.server.clone(), self.user.clone());
        crd.status = Some(status);
        tokio::spawn(async move { put_status(&server, &user, &crd).await });
    }

    /// Deletes the instances of a definition that is going away, then lets it go.
    fn clean_up(&mut self, name: &str, crd: CustomResourceDefinition) {
        let held = crd.metadata.finalizers.iter().flatten();
        if !held.into_iter().any(|held| held == CLEANUP_FINALIZER) {
            return;
        }
        let Some(known) = self.known.get_mut(name) else {
            return;
        };
        if std::mem::replace(&mut known.cleaning, true) {
            return;
        }
        let (server, user) = (self.server.clone(), self.user.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = super::cleanup::clean_up(&server, &user, crd) => {}
                () = server.shutdown.triggered() => {}
            }
        });
    }
}

/// Writes the status of a definition as it is given; tries again unless someone else has written the definition, or it
/// is gone. Answers the definition as it is then.
pub(super) async fn put_status(
    server: &Arc<ApiServer>,
    user: &Arc<UserInfo>,
    crd: &CustomResourceDefinition,
) -> Option<CustomResourceDefinition> {
    let name = crd.metadata.name.as_deref().unwrap_or_default();
    let path = format!("/apis/{GROUP}/v1/{PLURAL}/{name}/status");
    let body = serde_json::to_value(crd).ok()?;
    loop {
        let (code, answer) = call(server, user, Method::PUT, &path, Some(&body)).await;
        if code.is_success() {
            return serde_json::from_value(answer).ok();
        }
        if matches!(code, StatusCode::NOT_FOUND | StatusCode::CONFLICT) {
            return None;
        }
        tracing::warn!(
            name,
            error = %answer["message"],
            "the status of a definition cannot be written"
        );
        tokio::select! {
            () = server.clock.sleep(RETRY) => {}
            () = server.shutdown.triggered() => return None,
        }
    }
}

/// A number that changes with everything that decides what is served.
fn fingerprint(
    crd: &CustomResourceDefinition,
    names: &CustomResourceDefinitionNames,
    established: bool,
) -> u64 {
    let mut hasher = DefaultHasher::new();
    for part in [
        serde_json::to_string(&crd.spec),
        serde_json::to_string(names),
    ] {
        part.unwrap_or_default().hash(&mut hasher);
    }
    let stored = crd.status.as_ref();
    stored
        .and_then(|status| status.stored_versions.as_ref())
        .hash(&mut hasher);
    crd.metadata.deletion_timestamp.is_some().hash(&mut hasher);
    (established, &crd.metadata.uid).hash(&mut hasher);
    // Zero stands for what has not been looked at.
    hasher.finish() | 1
}

/// The served versions of a definition.
fn resources(
    crd: &CustomResourceDefinition,
    definition: &Arc<Definition>,
    names: &CustomResourceDefinitionNames,
) -> Vec<Resource> {
    let versions = crd.spec.versions.iter().enumerate();
    versions
        .filter(|(_, version)| version.served)
        .filter_map(|(index, version)| {
            let custom = Arc::new(CustomKind::new(definition.clone(), index)?);
            let text = |name: &Option<String>| name.clone().unwrap_or_default();
            let parts = CustomParts {
                names: [
                    crd.spec.group.clone(),
                    version.name.clone(),
                    names.kind.clone(),
                    text(&names.list_kind),
                ],
                resource: [names.plural.clone(), text(&names.singular)],
                short_names: names.short_names.clone().unwrap_or_default(),
                categories: names.categories.clone().unwrap_or_default(),
                scope: match crd.spec.scope.as_str() {
                    "Namespaced" => Scope::Namespaced,
                    _ => Scope::Cluster,
                },
                subresources: subresources(
                    custom.version().has_status,
                    custom.version().scale.is_some(),
                ),
            };
            let kind = Arc::new(ServedKind::custom(parts, custom));
            Some(Resource {
                storage: kind.clone(),
                kind,
            })
        })
        .collect()
}

/// The subresources that a custom resource can have; a status is of the resource's own kind.
const BOTH: &[Subresource] = &[Subresource::SCALE, Subresource::status("", "", "")];

fn subresources(status: bool, scale: bool) -> &'static [Subresource] {
    match (scale, status) {
        (true, true) => BOTH,
        (true, false) => &BOTH[..1],
        (false, true) => &BOTH[1..],
        (false, false) => &[],
    }
}
