//! `KubeSchedulerConfiguration` (`kubescheduler.config.k8s.io/v1`): the file that a scheduler is set up with.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use k8s_openapi::api::core::v1::{NodeAffinity, TopologySpreadConstraint};
use serde::Deserialize;
use serde_json::Value;

use crate::SchedulerConfig;
use crate::devices::allocator::steps_within;
use crate::extender::ExtenderConfig;
use crate::framework::{PLUGINS, Plugin, number};
use crate::profile::{Args, DEFAULT_SCHEDULER, Profile, Strategy, Weighted};
use crate::queue::Rests;

const API_VERSION: &str = "kubescheduler.config.k8s.io/v1";

/// A file that makes no sense, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigurationError(pub String);

fn wrong<T>(text: impl Into<String>) -> Result<T, ConfigurationError> {
    Err(ConfigurationError(text.into()))
}

/// The file. Fields that are about other things than scheduling are taken and not looked at.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    api_version: String,
    kind: String,
    #[serde(default)]
    profiles: Vec<ProfileFile>,
    #[serde(default)]
    extenders: Vec<ExtenderFile>,
    percentage_of_nodes_to_score: Option<i64>,
    pod_initial_backoff_seconds: Option<i64>,
    pod_max_backoff_seconds: Option<i64>,
    #[serde(rename = "parallelism")]
    _parallelism: Option<i64>,
    #[serde(default)]
    leader_election: LeaderElection,
    #[serde(rename = "clientConnection")]
    _client_connection: Option<Value>,
    #[serde(rename = "healthzBindAddress")]
    _healthz_bind_address: Option<String>,
    #[serde(rename = "metricsBindAddress")]
    _metrics_bind_address: Option<String>,
    #[serde(rename = "enableProfiling")]
    _enable_profiling: Option<bool>,
    #[serde(rename = "enableContentionProfiling")]
    _enable_contention_profiling: Option<bool>,
    #[serde(rename = "delayCacheUntilActive")]
    _delay_cache_until_active: Option<bool>,
}

/// How schedulers agree who of them works, as the file says it. Times are as they stand there, for example `15s`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LeaderElection {
    /// Whether they do.
    pub leader_elect: Option<bool>,
    /// How long others wait after the last sign of a leader.
    pub lease_duration: Option<String>,
    /// How long a leader tries to renew before it gives up.
    pub renew_deadline: Option<String>,
    /// How long a leader waits between renewals.
    pub retry_period: Option<String>,
    /// The kind of the lock; there is only one, `leases`.
    pub resource_lock: Option<String>,
    /// The name of the Lease.
    pub resource_name: Option<String>,
    /// The namespace of the Lease.
    pub resource_namespace: Option<String>,
}

fn checked(said: LeaderElection) -> Result<LeaderElection, ConfigurationError> {
    let lock = said.resource_lock.as_deref();
    if let Some(lock) = lock.filter(|lock| !matches!(*lock, "" | "leases")) {
        return wrong(format!(
            "leaderElection.resourceLock: Invalid value: \"{lock}\": resourceLock value must be \"leases\""
        ));
    }
    for (name, time) in [
        ("leaseDuration", &said.lease_duration),
        ("renewDeadline", &said.renew_deadline),
        ("retryPeriod", &said.retry_period),
    ] {
        if let Some(text) = time
            && duration(text).is_none_or(|time| time.is_zero())
        {
            return wrong(format!(
                "leaderElection.{name}: Invalid value: \"{text}\": must be greater than zero"
            ));
        }
    }
    Ok(said)
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ProfileFile {
    scheduler_name: Option<String>,
    percentage_of_nodes_to_score: Option<i64>,
    #[serde(default)]
    plugins: Plugins,
    #[serde(default)]
    plugin_config: Vec<PluginConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Plugins {
    pre_enqueue: PluginSet,
    queue_sort: PluginSet,
    pre_filter: PluginSet,
    filter: PluginSet,
    post_filter: PluginSet,
    pre_score: PluginSet,
    score: PluginSet,
    reserve: PluginSet,
    permit: PluginSet,
    pre_bind: PluginSet,
    bind: PluginSet,
    post_bind: PluginSet,
    multi_point: PluginSet,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct PluginSet {
    enabled: Vec<PluginChoice>,
    disabled: Vec<PluginChoice>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PluginChoice {
    name: String,
    #[serde(default)]
    weight: i64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PluginConfig {
    name: String,
    #[serde(default)]
    args: Value,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ExtenderFile {
    url_prefix: String,
    #[serde(default)]
    filter_verb: String,
    #[serde(default)]
    preempt_verb: String,
    #[serde(default)]
    prioritize_verb: String,
    #[serde(default)]
    weight: i64,
    #[serde(default)]
    bind_verb: String,
    #[serde(default, rename = "enableHTTPS")]
    enable_https: bool,
    #[serde(rename = "tlsConfig")]
    tls_config: Option<TlsFile>,
    #[serde(rename = "httpTimeout")]
    http_timeout: Option<String>,
    #[serde(default)]
    node_cache_capable: bool,
    #[serde(default)]
    managed_resources: Vec<ManagedResource>,
    #[serde(default)]
    ignorable: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct TlsFile {
    insecure: bool,
    server_name: String,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    cert_data: Option<String>,
    key_data: Option<String>,
    ca_data: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ManagedResource {
    name: String,
    #[serde(default)]
    ignored_by_scheduler: bool,
}

/// Reads a file's text, YAML or JSON.
pub fn read(text: &str) -> Result<SchedulerConfig, ConfigurationError> {
    // By way of JSON: a YAML decoder for each of these types would be a lot of code.
    let file: serde_json::Value =
        serde_saphyr::from_str(text).map_err(|error| ConfigurationError(error.to_string()))?;
    let file: File =
        serde_json::from_value(file).map_err(|error| ConfigurationError(error.to_string()))?;
    if file.api_version != API_VERSION || file.kind != "KubeSchedulerConfiguration" {
        return wrong(format!(
            "no kind \"{}\" is registered for version \"{}\": {API_VERSION} KubeSchedulerConfiguration is",
            file.kind, file.api_version
        ));
    }
    let percentage = share(
        "percentageOfNodesToScore",
        file.percentage_of_nodes_to_score,
    )?;
    let mut files = file.profiles;
    if files.is_empty() {
        files.push(ProfileFile::default());
    }
    let alone = files.len() == 1;
    let mut profiles: Vec<Profile> = Vec::new();
    for (index, file) in files.into_iter().enumerate() {
        let path = format!("profiles[{index}]");
        let profile = profile(file, &path, alone, percentage)?;
        if profiles.iter().any(|other| other.name == profile.name) {
            return wrong(format!(
                "{path}.schedulerName: Duplicate value: \"{}\"",
                profile.name
            ));
        }
        profiles.push(profile);
    }
    let first = seconds(
        "podInitialBackoffSeconds",
        file.pod_initial_backoff_seconds,
        1,
    )?;
    let longest = seconds("podMaxBackoffSeconds", file.pod_max_backoff_seconds, 10)?;
    if longest < first {
        return wrong(format!(
            "podMaxBackoffSeconds: Invalid value: {}: must be greater than or equal to PodInitialBackoffSeconds",
            longest.as_secs()
        ));
    }
    let extenders: Result<Vec<ExtenderConfig>, ConfigurationError> =
        file.extenders.into_iter().map(extender).collect();
    let extenders = extenders?;
    for profile in &mut profiles {
        let ignored = extenders
            .iter()
            .flat_map(|found| &found.ignored_by_scheduler);
        profile.args.ignored_resources.extend(ignored.cloned());
    }
    Ok(SchedulerConfig {
        profiles,
        rests: Rests { first, longest },
        extenders,
        host: String::new(),
        leader_election: checked(file.leader_election)?,
    })
}

fn share(field: &str, stated: Option<i64>) -> Result<u32, ConfigurationError> {
    let value = stated.unwrap_or(0);
    match u32::try_from(value) {
        Ok(value) if value <= 100 => Ok(value),
        _ => wrong(format!(
            "{field}: Invalid value: {value}: not in valid range [0-100]"
        )),
    }
}

fn seconds(field: &str, stated: Option<i64>, default: i64) -> Result<Duration, ConfigurationError> {
    let value = stated.unwrap_or(default);
    match u64::try_from(value) {
        Ok(value) if value > 0 => Ok(Duration::from_secs(value)),
        _ => wrong(format!(
            "{field}: Invalid value: {value}: must be greater than 0"
        )),
    }
}

fn profile(
    file: ProfileFile,
    path: &str,
    alone: bool,
    percentage: u32,
) -> Result<Profile, ConfigurationError> {
    let name = match file.scheduler_name {
        Some(name) if !name.is_empty() => name,
        None if alone => DEFAULT_SCHEDULER.to_owned(),
        _ => return wrong(format!("{path}.schedulerName: Required value")),
    };
    let mut profile = Profile::with_defaults(&name);
    profile.percentage = match file.percentage_of_nodes_to_score {
        None => percentage,
        stated => share(&format!("{path}.percentageOfNodesToScore"), stated)?,
    };
    choose(&mut profile, &file.plugins, path)?;
    let mut configured = BTreeSet::new();
    for (index, config) in file.plugin_config.into_iter().enumerate() {
        let path = format!("{path}.pluginConfig[{index}]");
        if !configured.insert(config.name.clone()) {
            return wrong(format!("{path}: Duplicate value: \"{}\"", config.name));
        }
        arguments(&mut profile.args, &config.name, config.args)
            .map_err(|why| ConfigurationError(format!("{path}.args: {}", why.0)))?;
    }
    Ok(profile)
}

type Does = fn(&Plugin) -> bool;

/// The number of a plugin that is named at a point of a profile.
fn named(choice: &PluginChoice, path: &str, at: &str) -> Result<usize, ConfigurationError> {
    match number(&choice.name) {
        Some(number) => Ok(number),
        None => wrong(format!(
            "{path}.plugins.{at}: plugin \"{}\" does not exist",
            choice.name
        )),
    }
}

/// A point at which plugins are asked: who can be, its name, and what the file says of it.
type Point<'a> = (Does, &'static str, &'a PluginSet);

/// Who is asked at a point, and how much that counts: the defaults, `multiPoint`, then what is said of the point.
fn list(
    (does, at, set): Point,
    multi: &PluginSet,
    path: &str,
) -> Result<Vec<(usize, i64)>, ConfigurationError> {
    let off = |set: &PluginSet, name: &str| {
        let mut disabled = set.disabled.iter();
        disabled.any(|found| found.name == "*" || found.name == name)
    };
    let mut first: Vec<(usize, i64)> = Vec::new();
    for choice in &set.enabled {
        let number = named(choice, path, at)?;
        if !PLUGINS.get(number).is_some_and(does) {
            return wrong(format!(
                "{path}.plugins.{at}: plugin \"{}\" does not extend it",
                choice.name
            ));
        }
        first.push((number, weight_of(number, choice.weight)));
    }
    let mut all: Vec<(usize, i64)> = Vec::new();
    for (number, plugin) in PLUGINS.iter().enumerate() {
        if does(plugin) && !off(multi, plugin.name) {
            all.push((number, plugin.weight));
        }
    }
    for choice in &multi.enabled {
        let number = named(choice, path, "multiPoint")?;
        if !PLUGINS.get(number).is_some_and(does) {
            continue;
        }
        match all.iter_mut().find(|(known, _)| *known == number) {
            Some((_, weight)) if choice.weight != 0 => *weight = choice.weight,
            Some(_) => {}
            None => all.push((number, weight_of(number, choice.weight))),
        }
    }
    all.retain(|(number, _)| {
        let name = PLUGINS.get(*number).map_or("", |plugin| plugin.name);
        !off(set, name) && !first.iter().any(|(chosen, _)| chosen == number)
    });
    first.extend(all);
    Ok(first)
}

/// Settles who is asked at each point.
fn choose(profile: &mut Profile, plugins: &Plugins, path: &str) -> Result<(), ConfigurationError> {
    let numbers = |point: Point| {
        let all = list(point, &plugins.multi_point, path)?;
        Ok::<Vec<usize>, ConfigurationError>(all.into_iter().map(|(number, _)| number).collect())
    };
    profile.pre_enqueue = numbers((
        |found| found.pre_enqueue.is_some(),
        "preEnqueue",
        &plugins.pre_enqueue,
    ))?;
    profile.pre_filters = numbers((
        |found| found.pre_filter.is_some(),
        "preFilter",
        &plugins.pre_filter,
    ))?;
    profile.filters = numbers((|found| found.filter.is_some(), "filter", &plugins.filter))?;
    profile.post_filters = numbers((
        |found| found.post_filter,
        "postFilter",
        &plugins.post_filter,
    ))?;
    profile.reserves = numbers((|found| found.reserve, "reserve", &plugins.reserve))?;
    profile.binds = numbers((|found| found.bind, "bind", &plugins.bind))?;
    let scoring: Point = (|found| found.score.is_some(), "score", &plugins.score);
    profile.scores = list(scoring, &plugins.multi_point, path)?;
    let sorting = numbers((|found| found.queue_sort, "queueSort", &plugins.queue_sort))?;
    if sorting.len() != 1 {
        return wrong(format!(
            "{path}.plugins.queueSort: exactly one plugin is needed"
        ));
    }
    if profile.binds.is_empty() {
        return wrong(format!(
            "{path}.plugins.bind: at least one bind plugin is needed"
        ));
    }
    for (at, set) in [
        ("preScore", &plugins.pre_score),
        ("permit", &plugins.permit),
        ("preBind", &plugins.pre_bind),
        ("postBind", &plugins.post_bind),
    ] {
        for choice in &set.enabled {
            named(choice, path, at)?;
        }
    }
    Ok(())
}

fn weight_of(number: usize, stated: i64) -> i64 {
    let default = PLUGINS.get(number).map_or(1, |plugin| plugin.weight.max(1));
    if stated == 0 { default } else { stated }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct AllArgs {
    #[serde(rename = "apiVersion")]
    _api_version: Option<String>,
    #[serde(rename = "kind")]
    _kind: Option<String>,
    added_affinity: Option<NodeAffinity>,
    ignored_resources: Option<Vec<String>>,
    ignored_resource_groups: Option<Vec<String>>,
    scoring_strategy: Option<ScoringStrategy>,
    resources: Option<Vec<ResourceSpec>>,
    hard_pod_affinity_weight: Option<i64>,
    ignore_preferred_terms_of_existing_pods: Option<bool>,
    default_constraints: Option<Vec<TopologySpreadConstraint>>,
    defaulting_type: Option<String>,
    bind_timeout_seconds: Option<i64>,
    #[serde(rename = "shape")]
    _shape: Option<Vec<ShapePoint>>,
    min_candidate_nodes_percentage: Option<i64>,
    min_candidate_nodes_absolute: Option<i64>,
    filter_timeout: Option<String>,
    binding_timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ScoringStrategy {
    #[serde(rename = "type")]
    type_: Option<String>,
    #[serde(default)]
    resources: Vec<ResourceSpec>,
    requested_to_capacity_ratio: Option<Ratio>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Ratio {
    #[serde(default)]
    shape: Vec<ShapePoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ShapePoint {
    utilization: i64,
    score: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ResourceSpec {
    name: String,
    #[serde(default)]
    weight: i64,
}

/// The fields that the arguments of each plugin have.
const FIELDS: [(&str, &[&str]); 7] = [
    ("NodeAffinity", &["addedAffinity"]),
    (
        "NodeResourcesFit",
        &[
            "ignoredResources",
            "ignoredResourceGroups",
            "scoringStrategy",
        ],
    ),
    ("NodeResourcesBalancedAllocation", &["resources"]),
    (
        "InterPodAffinity",
        &[
            "hardPodAffinityWeight",
            "ignorePreferredTermsOfExistingPods",
        ],
    ),
    (
        "PodTopologySpread",
        &["defaultConstraints", "defaultingType"],
    ),
    ("VolumeBinding", &["bindTimeoutSeconds", "shape"]),
    (
        "DefaultPreemption",
        &["minCandidateNodesPercentage", "minCandidateNodesAbsolute"],
    ),
];

fn arguments(args: &mut Args, name: &str, stated: Value) -> Result<(), ConfigurationError> {
    if number(name).is_none() {
        return wrong(format!("plugin \"{name}\" does not exist"));
    }
    let Value::Object(object) = &stated else {
        return Ok(());
    };
    let fields = FIELDS.iter().find(|(plugin, _)| *plugin == name);
    let fields = fields.map_or(&[][..], |(_, fields)| fields);
    let timeouts = ["filterTimeout", "bindingTimeout"];
    for field in object
        .keys()
        .filter(|field| !matches!(field.as_str(), "apiVersion" | "kind"))
    {
        let known = fields.contains(&field.as_str())
            || (name == "DynamicResources" && timeouts.contains(&field.as_str()));
        if !known {
            return wrong(format!("strict decoding error: unknown field \"{field}\""));
        }
    }
    let all: AllArgs =
        serde_json::from_value(stated).map_err(|error| ConfigurationError(error.to_string()))?;
    take(args, all)
}

fn take(args: &mut Args, all: AllArgs) -> Result<(), ConfigurationError> {
    args.added_affinity = all.added_affinity.or(args.added_affinity.take());
    args.ignored_resources
        .extend(all.ignored_resources.unwrap_or_default());
    args.ignored_groups
        .extend(all.ignored_resource_groups.unwrap_or_default());
    if let Some(strategy) = all.scoring_strategy {
        take_strategy(args, strategy)?;
    }
    if let Some(resources) = all.resources.filter(|all| !all.is_empty()) {
        args.balanced_resources = weighted("resources", resources)?;
        if args.balanced_resources.len() > 8 {
            return wrong("resources: Too many: must have at most 8 items");
        }
    }
    if let Some(weight) = all.hard_pod_affinity_weight {
        if !(0..=100).contains(&weight) {
            return wrong(format!(
                "hardPodAffinityWeight: Invalid value: {weight}: not in valid range [0-100]"
            ));
        }
        args.hard_pod_affinity_weight = weight;
    }
    if let Some(ignore) = all.ignore_preferred_terms_of_existing_pods {
        args.ignore_preferred_of_others = ignore;
    }
    let constraints = all.default_constraints.unwrap_or_default();
    match all.defaulting_type.as_deref() {
        Some("List") => {
            args.spread_defaults = constraints;
            args.spread_by_system = false;
        }
        None | Some("System" | "") if constraints.is_empty() => {}
        None | Some("System" | "") => {
            return wrong(
                "defaultingType: Invalid value: \"System\": when .defaultConstraints are not empty",
            );
        }
        Some(other) => {
            return wrong(format!(
                "defaultingType: Unsupported value: \"{other}\": supported values: \"List\", \"System\""
            ));
        }
    }
    if let Some(seconds) = all.bind_timeout_seconds {
        args.bind_timeout_seconds = u64::try_from(seconds).or_else(|_| {
            wrong(format!(
                "bindTimeoutSeconds: Invalid value: {seconds}: invalid BindTimeoutSeconds, should not be a negative value"
            ))
        })?;
    }
    if let Some(text) = all.filter_timeout {
        let Some(time) = duration(&text) else {
            return wrong(format!(
                "filterTimeout: Invalid value: \"{text}\": must be zero or positive"
            ));
        };
        args.device_steps = steps_within(time);
    }
    if let Some(text) = all.binding_timeout {
        let least = Duration::from_secs(1);
        let Some(time) = duration(&text).filter(|time| *time >= least) else {
            return wrong(format!(
                "bindingTimeout: Invalid value: \"{text}\": must be at least 1 second"
            ));
        };
        args.device_timeout_seconds = time.as_secs();
    }
    if let Some(share) = all.min_candidate_nodes_percentage {
        args.min_candidates_percentage = match usize::try_from(share) {
            Ok(share) if share <= 100 => share,
            _ => {
                return wrong(format!(
                    "minCandidateNodesPercentage: Invalid value: {share}: not in valid range [0, 100]"
                ));
            }
        };
    }
    if let Some(count) = all.min_candidate_nodes_absolute {
        args.min_candidates_absolute = usize::try_from(count).or_else(|_| {
            wrong(format!(
                "minCandidateNodesAbsolute: Invalid value: {count}: not in valid range [0, inf)"
            ))
        })?;
    }
    Ok(())
}

fn take_strategy(args: &mut Args, strategy: ScoringStrategy) -> Result<(), ConfigurationError> {
    if !strategy.resources.is_empty() {
        args.fit_resources = weighted("scoringStrategy.resources", strategy.resources)?;
    }
    args.strategy = match strategy.type_.as_deref() {
        None | Some("LeastAllocated") => Strategy::LeastAllocated,
        Some("MostAllocated") => Strategy::MostAllocated,
        Some("RequestedToCapacityRatio") => {
            let shape = strategy.requested_to_capacity_ratio;
            Strategy::Ratio(line(shape.map(|ratio| ratio.shape).unwrap_or_default())?)
        }
        Some(other) => {
            return wrong(format!(
                "scoringStrategy.type: Unsupported value: \"{other}\""
            ));
        }
    };
    Ok(())
}

fn line(points: Vec<ShapePoint>) -> Result<Vec<(i64, i64)>, ConfigurationError> {
    const PATH: &str = "scoringStrategy.requestedToCapacityRatio.shape";
    if points.is_empty() {
        return wrong(format!(
            "{PATH}: Required value: at least one point must be specified"
        ));
    }
    let mut last = -1;
    for (index, point) in points.iter().enumerate() {
        if !(0..=100).contains(&point.utilization) || point.utilization <= last {
            return wrong(format!(
                "{PATH}[{index}].utilization: Invalid value: {}: utilization values must be sorted in increasing order",
                point.utilization
            ));
        }
        if !(0..=10).contains(&point.score) {
            return wrong(format!(
                "{PATH}[{index}].score: Invalid value: {}: not in valid range [0-10]",
                point.score
            ));
        }
        last = point.utilization;
    }
    let points = points.iter();
    Ok(points
        .map(|point| (point.utilization, point.score * 10))
        .collect())
}

fn weighted(path: &str, stated: Vec<ResourceSpec>) -> Result<Vec<Weighted>, ConfigurationError> {
    let mut all: Vec<Weighted> = Vec::new();
    for (index, resource) in stated.into_iter().enumerate() {
        let weight = if resource.weight == 0 {
            1
        } else {
            resource.weight
        };
        if !(1..=100).contains(&weight) {
            return wrong(format!(
                "{path}[{index}].weight: Invalid value: {weight}: resource weight of {} not in valid range [1-100]",
                resource.name
            ));
        }
        all.push(Weighted::new(&resource.name, weight));
    }
    Ok(all)
}

fn extender(file: ExtenderFile) -> Result<ExtenderConfig, ConfigurationError> {
    if !file.prioritize_verb.is_empty() && file.weight <= 0 {
        return wrong(format!(
            "extenders: {}: weight: must have a positive weight applied to it",
            file.url_prefix
        ));
    }
    let timeout = match &file.http_timeout {
        None => Duration::from_secs(5),
        Some(text) => duration(text).ok_or_else(|| {
            ConfigurationError(format!("httpTimeout: invalid duration \"{text}\""))
        })?,
    };
    let tls = file.tls_config.unwrap_or_default();
    let from = |data: &Option<String>, path: &Option<PathBuf>| match (data, path) {
        (Some(data), _) => Ok(Some(decode(data)?)),
        (None, Some(path)) => match std::fs::read_to_string(path) {
            Ok(text) => Ok(Some(text)),
            Err(error) => wrong(format!("{}: {error}", path.display())),
        },
        (None, None) => Ok(None),
    };
    let authority_pem = from(&tls.ca_data, &tls.ca_file)?;
    let certificate = from(&tls.cert_data, &tls.cert_file)?;
    let key = from(&tls.key_data, &tls.key_file)?;
    let resources = file.managed_resources;
    let ignored = resources.iter().filter(|found| found.ignored_by_scheduler);
    Ok(ExtenderConfig {
        insecure: tls.insecure || (file.enable_https && authority_pem.is_none()),
        server_name: tls.server_name,
        authority_pem,
        identity_pem: certificate.zip(key),
        ignored_by_scheduler: ignored.map(|found| found.name.clone()).collect(),
        managed_resources: resources.iter().map(|found| found.name.clone()).collect(),
        url_prefix: file.url_prefix,
        filter_verb: file.filter_verb,
        prioritize_verb: file.prioritize_verb,
        bind_verb: file.bind_verb,
        preempt_verb: file.preempt_verb,
        weight: file.weight,
        timeout,
        node_cache_capable: file.node_cache_capable,
        ignorable: file.ignorable,
    })
}

fn decode(data: &str) -> Result<String, ConfigurationError> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(data.trim());
    let text = bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok());
    text.ok_or_else(|| ConfigurationError("tlsConfig: illegal base64 data".to_owned()))
}

/// `1m30s`, as Go writes durations.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = rest.split_at_checked(end)?;
        let number: f64 = number.parse().ok()?;
        let end = unit
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(unit.len());
        let (unit, next) = unit.split_at_checked(end)?;
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += Duration::try_from_secs_f64(number * seconds).ok()?;
        rest = next;
    }
    Some(total)
}

#[cfg(test)]
#[path = "configuration_tests.rs"]
mod tests;
