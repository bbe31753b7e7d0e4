//! How the tests of the node look at pods: fields, events, times.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Cluster, eventually, text};
use crate::image::BUSYBOX;

impl Cluster {
    /// `kubectl apply` of pods whose image is written as `BUSYBOX`.
    pub fn make(&self, manifest: &str) {
        self.apply(&manifest.replace("BUSYBOX", BUSYBOX));
    }

    /// A pod of the default namespace; null when there is none.
    pub fn pod(&self, name: &str) -> Value {
        let output = self.kubectl(&["get", "pod", name, "-o", "json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Waits until a pod is as wanted, and hands it over.
    pub fn until(&self, pod: &str, what: &str, good: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(60) {
            last = self.pod(pod);
            if good(&last) {
                return last;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let events = self.events(pod).join("\n");
        panic!("pod {pod}: {what} did not come to be\n{last:#}\n{events}");
    }

    /// Waits until a pod has this phase.
    pub fn until_phase(&self, pod: &str, phase: &str) -> Value {
        self.until(pod, phase, |pod| pod["status"]["phase"] == phase)
    }

    /// Waits until a pod is ready.
    pub fn until_ready(&self, pod: &str) -> Value {
        self.until(pod, "readiness", |pod| {
            condition(pod, "Ready")["status"] == "True"
        })
    }

    /// The events about an object: `field path, reason: message`, the oldest first.
    pub fn events(&self, name: &str) -> Vec<String> {
        let selector = format!("involvedObject.name={name}");
        let list = self.ask(&["get", "events", "--field-selector", &selector, "-o", "json"]);
        let list: Value = serde_json::from_str(&list).unwrap();
        let mut events: Vec<Value> = list["items"].as_array().cloned().unwrap_or_default();
        let version = |event: &Value| event["metadata"]["name"].as_str().map(str::to_owned);
        events.sort_by_key(version);
        let line = |event: &Value| {
            let field = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            let path = event["involvedObject"]["fieldPath"].as_str();
            let (path, reason) = (path.unwrap_or_default(), field("reason"));
            format!("{path} {}/{reason}: {}", field("type"), field("message"))
        };
        events.iter().map(line).collect()
    }

    /// Waits until an event about `name` contains `words`.
    pub fn happened(&self, name: &str, words: &str) {
        let mut last = Vec::new();
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(60) {
            last = self.events(name);
            if last.iter().any(|event| event.contains(words)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("{name}: {words:?} is not told:\n{}", last.join("\n"));
    }

    /// A command in a pod's first container; what it wrote.
    pub fn exec(&self, pod: &str, command: &str) -> String {
        let output = self.kubectl(&["exec", pod, "--", "sh", "-c", command]);
        text(&output)
    }

    /// Waits until a pod is no longer there.
    pub fn until_gone(&self, pod: &str) {
        eventually(&format!("the end of pod {pod}"), || self.pod(pod).is_null());
    }
}

/// A condition of an object; null when it has none of that type.
pub fn condition<'a>(object: &'a Value, kind: &str) -> &'a Value {
    let conditions = object["status"]["conditions"].as_array();
    let mut found = conditions.into_iter().flatten();
    found.find(|c| c["type"] == kind).unwrap_or(&Value::Null)
}

/// The status of a container, init containers included; null when it has none.
pub fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let lists = ["containerStatuses", "initContainerStatuses"];
    let mut all = lists
        .iter()
        .filter_map(|list| pod["status"][list].as_array())
        .flatten();
    all.find(|status| status["name"] == name)
        .unwrap_or(&Value::Null)
}

/// Why a container waits, and the words.
pub fn waiting<'a>(pod: &'a Value, name: &str) -> (&'a str, &'a str) {
    let state = &container(pod, name)["state"]["waiting"];
    let field = |name: &str| state[name].as_str().unwrap_or_default();
    (field("reason"), field("message"))
}
