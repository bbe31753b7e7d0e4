//! The pods of a Job: how one is made, and what one says of itself.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{self, Container, EnvVar, EnvVarSource, ObjectFieldSelector};

use crate::ownership::controller_reference;
use crate::pods;
use crate::seen_pod::Pod;

/// The finalizer of pods that are not counted yet.
pub(crate) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// A generated name has room for five more letters.
const LONGEST_PREFIX: usize = 58;

/// A pod that is to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NewPod {
    pub index: Option<i32>,
    /// The failures of the index so far, where they are told: those that count, and the others.
    pub failures: Option<(i32, i32)>,
}

/// Whether the pod is still to be counted.
pub(crate) fn is_tracked(pod: &Pod) -> bool {
    let mut finalizers = pod.metadata.finalizers.iter().flatten();
    finalizers.any(|found| found == FINALIZER)
}

fn number(pod: &Pod, annotation: &str) -> Option<i32> {
    let text = pod.metadata.annotations.as_ref()?.get(annotation)?;
    text.parse().ok().filter(|number| *number >= 0)
}

/// The index that the pod works on.
pub(crate) fn completion_index(pod: &Pod) -> Option<i32> {
    number(pod, INDEX)
}

/// How often its index failed before it, not counting what is ignored.
pub(crate) fn failures(pod: &Pod) -> i32 {
    number(pod, FAILURES).unwrap_or(0)
}

/// How often its index failed before it in ways that are ignored.
pub(crate) fn ignored_failures(pod: &Pod) -> i32 {
    number(pod, IGNORED).unwrap_or(0)
}

/// A pod of the Job, ready to be created.
pub(crate) fn make(job: &Job, new: &NewPod) -> v1::Pod {
    let Some(spec) = &job.spec else {
        return v1::Pod::default();
    };
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let mut pod = pods::from_template(&spec.template, name, controller_reference(job));
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|found| found == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    let Some(index) = new.index else {
        return pod;
    };
    pod.metadata.generate_name = Some(indexed_prefix(name, index));
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if let Some((counted, ignored)) = new.failures {
        annotations.insert(FAILURES.to_owned(), counted.to_string());
        if ignored > 0 {
            annotations.insert(IGNORED.to_owned(), ignored.to_string());
        }
    }
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(INDEX.to_owned(), index.to_string());
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(format!("{name}-{index}"));
        let init = spec.init_containers.iter_mut().flatten();
        init.chain(&mut spec.containers).for_each(tell_index);
    }
    pod
}

fn indexed_prefix(name: &str, index: i32) -> String {
    let suffix = format!("-{index}-");
    let room = LONGEST_PREFIX.saturating_sub(suffix.len());
    // Names of objects are ASCII.
    let name = name.get(..room).unwrap_or(name);
    format!("{name}{suffix}")
}

fn tell_index(container: &mut Container) {
    let variables = container.env.get_or_insert_default();
    if variables.iter().any(|known| known.name == INDEX_VARIABLE) {
        return;
    }
    variables.push(EnvVar {
        name: INDEX_VARIABLE.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                field_path: format!("metadata.labels['{INDEX}']"),
                ..ObjectFieldSelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seen_pod::seen;
    use serde_json::json;

    #[test]
    fn an_indexed_pod_knows_its_index() {
        let job = |name: &str| -> Job {
            serde_json::from_value(json!({"metadata": {"name": name, "uid": "u"}, "spec": {"template": {
                "metadata": {"labels": {"a": "b"}, "finalizers": ["x/y"]},
                "spec": {"initContainers": [{"name": "i"}], "containers": [{"name": "c", "env": [{"name": "JOB_COMPLETION_INDEX", "value": "mine"}]}]}}}}))
            .unwrap()
        };
        let new = NewPod {
            index: Some(12),
            failures: Some((2, 0)),
        };
        let pod = make(&job("work"), &new);
        let meta = &pod.metadata;
        assert_eq!(meta.generate_name.as_deref(), Some("work-12-"));
        assert_eq!(
            meta.finalizers.clone().unwrap_or_default(),
            ["x/y", FINALIZER]
        );
        assert_eq!(
            (completion_index(&seen(&pod)), failures(&seen(&pod))),
            (Some(12), 2)
        );
        assert_eq!(meta.labels.as_ref().map(|labels| labels.len()), Some(2));
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(spec.hostname.as_deref(), Some("work-12"));
        let variables = spec.init_containers.as_ref().unwrap()[0].env.clone();
        assert_eq!(
            serde_json::to_value(variables).unwrap(),
            json!([{"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['batch.kubernetes.io/job-completion-index']"}}}])
        );
        assert_eq!(spec.containers[0].env.as_ref().map(Vec::len), Some(1));
        let long = make(&job(&"n".repeat(63)), &new).metadata.generate_name;
        assert_eq!(long, Some(format!("{}-12-", "n".repeat(54))));
        let plain = make(&job("work"), &NewPod::default());
        assert_eq!(plain.metadata.generate_name.as_deref(), Some("work-"));
        assert!(plain.metadata.annotations.is_none() && is_tracked(&seen(&plain)));
    }
}
