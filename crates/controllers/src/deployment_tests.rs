//! Tests of the plan: whole rollouts against a simulated cluster, and single decisions.

use super::*;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{
    DeploymentSpec, DeploymentStrategy, ReplicaSetStatus, RollingUpdateDeployment,
};
use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use proptest::prelude::*;

fn time(second: i64) -> Time {
    Time(Timestamp::from_second(second).unwrap())
}

fn template(image: &str) -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some([("app".to_owned(), "web".to_owned())].into()),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            containers: vec![Container {
                name: "web".into(),
                image: Some(image.into()),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
    }
}

fn deployment(replicas: i32, surge: IntOrString, unavailable: IntOrString) -> Deployment {
    Deployment {
        metadata: ObjectMeta {
            name: Some("web".into()),
            namespace: Some("default".into()),
            uid: Some("d".into()),
            generation: Some(1),
            ..ObjectMeta::default()
        },
        spec: Some(DeploymentSpec {
            replicas: Some(replicas),
            selector: LabelSelector {
                match_labels: Some([("app".to_owned(), "web".to_owned())].into()),
                ..LabelSelector::default()
            },
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(surge),
                    max_unavailable: Some(unavailable),
                }),
            }),
            template: template("v1"),
            progress_deadline_seconds: Some(600),
            revision_history_limit: Some(10),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// A cluster in which pods become available one by one.
struct World {
    deployment: Deployment,
    sets: Vec<Arc<ReplicaSet>>,
    now: i64,
    broken: Option<String>,
}

impl World {
    fn new(deployment: Deployment) -> Self {
        Self {
            deployment,
            sets: Vec::new(),
            now: 1000,
            broken: None,
        }
    }

    fn plan(&self) -> Plan {
        plan(&Observed {
            deployment: &self.deployment,
            sets: &self.sets,
            with_pods: &[],
            now: &time(self.now),
        })
    }

    /// Carries out one plan; answers whether it changed anything.
    fn step(&mut self) -> bool {
        self.now += 1;
        let plan = self.plan();
        let idle = plan.create.is_none()
            && plan.update.is_empty()
            && plan.deployment.is_none()
            && plan.delete.is_empty();
        if let Some(mut set) = plan.create {
            set.metadata.uid = set.metadata.name.clone();
            set.metadata.creation_timestamp = Some(time(self.now));
            set.metadata.generation = Some(1);
            self.sets.push(Arc::new(set));
        }
        for (before, mut after) in plan.update {
            after.metadata.generation = after.metadata.generation.map(|generation| generation + 1);
            let set = self
                .sets
                .iter_mut()
                .find(|set| set.metadata.uid == before.metadata.uid);
            *set.unwrap() = Arc::new(after);
        }
        for deleted in plan.delete {
            self.sets
                .retain(|set| set.metadata.uid != deleted.metadata.uid);
        }
        if let Some(deployment) = plan.deployment {
            self.deployment = deployment;
        }
        !idle
    }

    /// Lets the ReplicaSets follow; at most one more pod of each becomes available.
    fn settle(&mut self) {
        for set in &mut self.sets {
            let mut changed = (**set).clone();
            let replicas = wanted(&changed);
            let is_broken = changed.metadata.uid == self.broken && self.broken.is_some();
            let limit = if is_broken { 0 } else { replicas };
            let now_available = (available(&changed) + 1).min(limit);
            changed.status = Some(ReplicaSetStatus {
                replicas,
                available_replicas: Some(now_available),
                ready_replicas: Some(now_available),
                observed_generation: changed.metadata.generation,
                ..ReplicaSetStatus::default()
            });
            *set = Arc::new(changed);
        }
    }

    fn finish(&mut self) {
        for _ in 0..500 {
            let moved = self.step();
            let before = self.sets.clone();
            self.settle();
            if !moved && before == self.sets {
                return;
            }
        }
        panic!("does not end: {:?}", self.sizes());
    }

    fn change_image(&mut self, image: &str) {
        let spec = self.deployment.spec.as_mut().unwrap();
        spec.template = template(image);
        self.deployment.metadata.generation = self.deployment.metadata.generation.map(|g| g + 1);
    }

    fn sizes(&self) -> Vec<i32> {
        self.sets.iter().map(|set| wanted(set)).collect()
    }

    fn total(&self) -> i32 {
        self.sizes().iter().sum()
    }

    fn available(&self) -> i32 {
        self.sets
            .iter()
            .map(|set| available(set).min(wanted(set)))
            .sum()
    }

    fn progressing(&self) -> (String, String) {
        let found = status::find(&self.deployment, "Progressing").unwrap();
        (found.status.clone(), found.reason.clone().unwrap())
    }

    fn revisions(&self) -> Vec<String> {
        self.sets
            .iter()
            .map(|set| set.metadata.annotations.as_ref().unwrap()[REVISION].clone())
            .collect()
    }
}

fn percent(number: i32) -> IntOrString {
    IntOrString::String(format!("{number}%"))
}

#[test]
fn first_rollout_makes_one_set_and_tells() {
    let mut world = World::new(deployment(3, percent(25), percent(25)));
    world.step();
    let set = world.sets[0].clone();
    let hash = &set.metadata.labels.as_ref().unwrap()[template_hash::LABEL];
    assert_eq!(set.metadata.name, Some(format!("web-{hash}")));
    assert_eq!(
        set.spec
            .as_ref()
            .unwrap()
            .selector
            .match_labels
            .as_ref()
            .unwrap()[template_hash::LABEL],
        *hash
    );
    assert_eq!(wanted(&set), 3);
    assert_eq!(
        world.progressing(),
        ("True".into(), "NewReplicaSetCreated".into())
    );
    world.finish();
    assert_eq!(
        world.progressing(),
        ("True".into(), "NewReplicaSetAvailable".into())
    );
    let status = world.deployment.status.clone().unwrap();
    assert_eq!(
        (
            status.replicas,
            status.updated_replicas,
            status.available_replicas
        ),
        (Some(3), Some(3), Some(3))
    );
    assert_eq!(
        status::find(&world.deployment, "Available").unwrap().status,
        "True"
    );
    assert_eq!(
        world.deployment.metadata.annotations.as_ref().unwrap()[REVISION],
        "1"
    );
}

#[test]
fn rolling_back_reuses_the_old_set_under_a_new_revision() {
    let mut world = World::new(deployment(2, IntOrString::Int(1), IntOrString::Int(0)));
    world.finish();
    world.change_image("v2");
    world.finish();
    assert_eq!(
        (world.sizes(), world.revisions()),
        (vec![0, 2], vec!["1".into(), "2".to_owned()])
    );
    world.change_image("v1");
    world.finish();
    assert_eq!(
        (world.sizes(), world.revisions()),
        (vec![2, 0], vec!["3".into(), "2".to_owned()])
    );
    let annotations = world.sets[0].metadata.annotations.clone().unwrap();
    assert_eq!(annotations[REVISION_HISTORY], "1");
    assert_eq!(
        world.deployment.metadata.annotations.as_ref().unwrap()[REVISION],
        "3"
    );
}

#[test]
fn history_is_cut_to_the_limit() {
    let mut base = deployment(1, IntOrString::Int(1), IntOrString::Int(0));
    base.spec.as_mut().unwrap().revision_history_limit = Some(2);
    let mut world = World::new(base);
    for image in ["v1", "v2", "v3", "v4", "v5"] {
        world.change_image(image);
        world.finish();
    }
    assert_eq!(world.revisions(), ["3", "4", "5"]);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_in_proportion() {
    let mut world = World::new(deployment(10, IntOrString::Int(3), IntOrString::Int(2)));
    world.finish();
    world.change_image("v2");
    world.step();
    world.broken = world.sets[1].metadata.uid.clone();
    world.finish();
    assert_eq!(world.sizes(), [8, 5]);
    world.deployment.spec.as_mut().unwrap().replicas = Some(15);
    world.step();
    // 18 in all, in the ratio of 8 to 5.
    assert_eq!(world.sizes(), [11, 7]);
}

/// Found by the simulation: the old ReplicaSet had been told to go down to two, and its status still told of four.
#[test]
fn pods_that_are_about_to_go_are_not_counted_on() {
    let mut world = World::new(deployment(4, IntOrString::Int(2), IntOrString::Int(1)));
    world.finish();
    world.deployment.spec.as_mut().unwrap().replicas = Some(2);
    world.change_image("v2");
    while world.step() {
        let left: i32 = world.available();
        assert!(left >= 1, "{:?}", world.sizes());
    }
    assert_eq!(world.sizes(), [1, 2]);
    world.finish();
    assert_eq!(world.sizes(), [0, 2]);
}

#[test]
fn a_stuck_rollout_times_out_and_a_paused_one_does_not() {
    let mut world = World::new(deployment(2, IntOrString::Int(1), IntOrString::Int(0)));
    world.finish();
    world.change_image("v2");
    world.step();
    world.broken = world.sets[1].metadata.uid.clone();
    world.finish();
    assert_eq!(world.sizes(), [2, 1]);
    let again = world.plan().again.unwrap().as_secs();
    assert!((500..=601).contains(&again), "{again}");
    world.now += 700;
    world.step();
    assert_eq!(
        world.progressing(),
        ("False".into(), "ProgressDeadlineExceeded".into())
    );

    let mut world = World::new(deployment(2, IntOrString::Int(1), IntOrString::Int(0)));
    world.finish();
    world.deployment.spec.as_mut().unwrap().paused = Some(true);
    world.change_image("v2");
    world.finish();
    assert_eq!(
        (world.sizes(), world.progressing().1),
        (vec![2], "DeploymentPaused".to_owned())
    );
    world.now += 700;
    world.deployment.spec.as_mut().unwrap().paused = None;
    world.step();
    assert_ne!(world.progressing().1, "ProgressDeadlineExceeded");
    world.finish();
    assert_eq!(world.sizes(), [0, 2]);
}

#[test]
fn recreate_waits_for_the_old_pods() {
    let mut base = deployment(3, IntOrString::Int(0), IntOrString::Int(0));
    base.spec.as_mut().unwrap().strategy = Some(DeploymentStrategy {
        type_: Some("Recreate".into()),
        rolling_update: None,
    });
    let mut world = World::new(base);
    world.finish();
    world.change_image("v2");
    world.step();
    assert_eq!(world.sizes(), [0]);
    world.settle();
    let waiting = plan(&Observed {
        deployment: &world.deployment,
        sets: &world.sets,
        with_pods: &[world.sets[0].metadata.uid.clone().unwrap()],
        now: &time(world.now),
    });
    assert_eq!(waiting.create, None);
    world.finish();
    assert_eq!(world.sizes(), [0, 3]);
}

#[test]
fn numbers_and_percentages() {
    for (value, total, up, expected) in [
        (IntOrString::Int(3), 10, true, 3),
        (percent(25), 10, true, 3),
        (percent(25), 10, false, 2),
        (percent(100), 7, false, 7),
        (IntOrString::String("x".into()), 7, true, 0),
    ] {
        assert_eq!(scaled(Some(&value), total, up), expected, "{value:?}");
    }
    let shape = Shape::of(&deployment(1, percent(0), percent(25)));
    assert_eq!((shape.max_surge, shape.max_unavailable), (0, 1));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever the numbers: never more pods than allowed, never fewer available than promised, and the
    /// rollout ends with the new template only.
    #[test]
    fn rollouts_keep_their_promises(replicas in 1_i32..20, surge in 0_i32..60, unavailable in 0_i32..60) {
        let mut world = World::new(deployment(replicas, percent(surge), percent(unavailable)));
        world.finish();
        let shape = Shape::of(&world.deployment);
        world.change_image("v2");
        let mut steps = 0;
        while world.sizes() != [0, replicas] {
            world.step();
            prop_assert!(world.total() <= replicas + shape.max_surge);
            prop_assert!(world.available() >= replicas - shape.max_unavailable);
            world.settle();
            steps += 1;
            prop_assert!(steps < 500);
        }
        world.finish();
        prop_assert_eq!(world.progressing().1, "NewReplicaSetAvailable");
    }
}
