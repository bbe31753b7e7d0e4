//! Files that set a scheduler up, and files that make no sense.

use super::*;

const HEAD: &str = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n";

fn with(rest: &str) -> Result<SchedulerConfig, ConfigurationError> {
    read(&format!("{HEAD}{rest}"))
}

fn names(numbers: &[usize]) -> Vec<&'static str> {
    numbers.iter().map(|number| PLUGINS[*number].name).collect()
}

#[test]
fn an_empty_file_is_the_default() {
    let config = with("").unwrap();
    assert_eq!(config.profiles, [Profile::default()]);
    assert_eq!(config.rests, Rests::default());
    let profile = &config.profiles[0];
    assert_eq!(
        names(&profile.filters),
        [
            "NodeUnschedulable",
            "NodeName",
            "TaintToleration",
            "NodeAffinity",
            "NodePorts",
            "NodeResourcesFit",
            "VolumeRestrictions",
            "NodeVolumeLimits",
            "VolumeBinding",
            "VolumeZone",
            "PodTopologySpread",
            "InterPodAffinity",
            "DynamicResources",
            "NodeDeclaredFeatures"
        ]
    );
    let weights: Vec<(&str, i64)> = profile
        .scores
        .iter()
        .map(|(number, weight)| (PLUGINS[*number].name, *weight))
        .collect();
    assert_eq!(
        weights,
        [
            ("TaintToleration", 3),
            ("NodeAffinity", 2),
            ("NodeResourcesFit", 1),
            ("PodTopologySpread", 2),
            ("InterPodAffinity", 2),
            ("DynamicResources", 2),
            ("NodeResourcesBalancedAllocation", 1),
            ("ImageLocality", 1)
        ]
    );
}

#[test]
fn who_leads_and_how_long_devices_are_looked_for() {
    let config = with(
        "leaderElection: {leaderElect: false, leaseDuration: 30s, resourceName: mine, resourceLock: leases}\n",
    );
    let said = config.unwrap().leader_election;
    assert_eq!(said.leader_elect, Some(false));
    assert_eq!(said.lease_duration.as_deref(), Some("30s"));
    assert_eq!(said.resource_name.as_deref(), Some("mine"));
    for (wrong, why) in [
        (
            "resourceLock: endpoints",
            "leaderElection.resourceLock: Invalid value: \"endpoints\"",
        ),
        (
            "retryPeriod: 0s",
            "leaderElection.retryPeriod: Invalid value: \"0s\": must be greater than zero",
        ),
        (
            "renewDeadline: soon",
            "leaderElection.renewDeadline: Invalid value: \"soon\"",
        ),
        ("leader: true", "unknown field"),
    ] {
        let error = with(&format!("leaderElection: {{{wrong}}}\n")).unwrap_err();
        assert!(error.0.contains(why), "{error}");
    }
    let steps = |time: &str| {
        let file = format!(
            "profiles: [{{pluginConfig: [{{name: DynamicResources, args: {{filterTimeout: {time}}}}}]}}]\n"
        );
        with(&file).map(|config| config.profiles[0].args.device_steps)
    };
    assert_eq!(steps("500ms").unwrap(), 10_000);
    assert_eq!(steps("0s").unwrap(), u32::MAX);
    assert_eq!(Profile::default().args.device_steps, 200_000);
    assert!(steps("-1s").is_err());
}

#[test]
fn plugins_are_chosen_and_weighed() {
    let config = with(
        "percentageOfNodesToScore: 30
profiles:
- schedulerName: a
  plugins:
    score:
      disabled: [{name: '*'}]
      enabled: [{name: ImageLocality, weight: 7}, {name: NodeResourcesFit}]
    filter:
      disabled: [{name: NodePorts}]
- schedulerName: b
  percentageOfNodesToScore: 5
  plugins:
    multiPoint:
      disabled: [{name: PodTopologySpread}, {name: DefaultPreemption}]
      enabled: [{name: TaintToleration, weight: 9}]
",
    )
    .unwrap();
    let [a, b] = &config.profiles[..] else {
        panic!("two profiles");
    };
    let image = number("ImageLocality").unwrap();
    let fit = number("NodeResourcesFit").unwrap();
    assert_eq!(
        (a.percentage, a.scores.clone()),
        (30, vec![(image, 7), (fit, 1)])
    );
    assert!(!names(&a.filters).contains(&"NodePorts"));
    assert!(names(&a.pre_filters).contains(&"NodePorts"));
    assert_eq!(b.percentage, 5);
    assert!(!names(&b.filters).contains(&"PodTopologySpread"));
    assert_eq!(names(&b.post_filters), ["DynamicResources"]);
    assert_eq!(b.scores[0], (number("TaintToleration").unwrap(), 9));
}

#[test]
fn arguments_are_taken() {
    let config = with(
        "podInitialBackoffSeconds: 2
podMaxBackoffSeconds: 30
profiles:
- pluginConfig:
  - name: NodeResourcesFit
    args:
      apiVersion: kubescheduler.config.k8s.io/v1
      kind: NodeResourcesFitArgs
      ignoredResourceGroups: [x.io]
      scoringStrategy:
        type: RequestedToCapacityRatio
        resources: [{name: x.io/gpu, weight: 5}]
        requestedToCapacityRatio: {shape: [{utilization: 0, score: 0}, {utilization: 100, score: 10}]}
  - name: InterPodAffinity
    args: {hardPodAffinityWeight: 50}
  - name: PodTopologySpread
    args: {defaultingType: List}
  - name: DefaultPreemption
    args: {minCandidateNodesPercentage: 20, minCandidateNodesAbsolute: 5}
  - name: NodeAffinity
    args:
      addedAffinity:
        requiredDuringSchedulingIgnoredDuringExecution:
          nodeSelectorTerms: [{matchExpressions: [{key: pool, operator: In, values: [a]}]}]
",
    )
    .unwrap();
    let args = &config.profiles[0].args;
    assert_eq!(args.strategy, Strategy::Ratio(vec![(0, 0), (100, 100)]));
    assert_eq!(
        (&*args.fit_resources[0].name, args.fit_resources[0].weight),
        ("x.io/gpu", 5)
    );
    assert!(args.ignores("x.io/gpu") && !args.ignores("y.io/gpu"));
    assert_eq!(args.hard_pod_affinity_weight, 50);
    assert!(args.spread_defaults.is_empty() && !args.spread_by_system);
    assert_eq!(
        (args.min_candidates_percentage, args.min_candidates_absolute),
        (20, 5)
    );
    assert!(args.added_affinity.is_some());
    assert_eq!(config.rests.first, Duration::from_secs(2));
}

#[test]
fn extenders_are_taken() {
    let config = with(
        "extenders:
- urlPrefix: http://127.0.0.1:1/x
  filterVerb: filter
  prioritizeVerb: score
  weight: 3
  httpTimeout: 1m30s
  ignorable: true
  managedResources: [{name: x.io/gpu, ignoredByScheduler: true}]
",
    )
    .unwrap();
    let extender = &config.extenders[0];
    assert_eq!(
        (extender.weight, extender.timeout),
        (3, Duration::from_secs(90))
    );
    assert!(extender.ignorable && extender.managed_resources.contains("x.io/gpu"));
    assert!(config.profiles[0].args.ignores("x.io/gpu"));
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (rest, expected) in [
        ("percentageOfNodesToScore: 101", "percentageOfNodesToScore"),
        ("podInitialBackoffSeconds: 0", "podInitialBackoffSeconds"),
        ("podInitialBackoffSeconds: 20", "podMaxBackoffSeconds"),
        ("nonsense: 1", "nonsense"),
        (
            "profiles: [{schedulerName: a}, {schedulerName: a}]",
            "Duplicate value",
        ),
        (
            "profiles: [{schedulerName: a}, {}]",
            "profiles[1].schedulerName: Required value",
        ),
        (
            "profiles: [{plugins: {filter: {enabled: [{name: Nobody}]}}}]",
            "\"Nobody\" does not exist",
        ),
        (
            "profiles: [{plugins: {filter: {enabled: [{name: ImageLocality}]}}}]",
            "does not extend",
        ),
        (
            "profiles: [{plugins: {bind: {disabled: [{name: '*'}]}}}]",
            "bind plugin",
        ),
        (
            "profiles: [{plugins: {queueSort: {disabled: [{name: '*'}]}}}]",
            "queueSort",
        ),
        (
            "profiles: [{pluginConfig: [{name: NodeAffinity, args: {x: 1}}]}]",
            "unknown field \"x\"",
        ),
        (
            "profiles: [{pluginConfig: [{name: InterPodAffinity, args: {hardPodAffinityWeight: 101}}]}]",
            "[0-100]",
        ),
        (
            "profiles: [{pluginConfig: [{name: NodeResourcesFit, args: {scoringStrategy: {type: RequestedToCapacityRatio}}}]}]",
            "at least one point",
        ),
        (
            "extenders: [{urlPrefix: 'http://x', prioritizeVerb: p}]",
            "positive weight",
        ),
    ] {
        let error = with(rest).unwrap_err().0;
        assert!(error.contains(expected), "{rest}: {error}");
    }
    let other = read("apiVersion: v1\nkind: Pod\n").unwrap_err().0;
    assert!(
        other.contains("unknown") || other.contains("no kind"),
        "{other}"
    );
}
