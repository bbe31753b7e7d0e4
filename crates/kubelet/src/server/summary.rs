//! `/stats/summary`, `/metrics/resource` and `/metrics/cadvisor`: what pods and the node use.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_runtime::cri;
use tonic::Request;

use crate::container::sandbox::{
    CONTAINER_NAME_LABEL, POD_NAME_LABEL, POD_NAMESPACE_LABEL, POD_UID_LABEL,
};
use crate::context::Context;

/// Use of one container.
#[derive(Clone, Debug, Default)]
struct Use {
    name: String,
    id: String,
    image: String,
    time: i64,
    cpu_total: Option<u64>,
    cpu_rate: Option<u64>,
    memory: Option<u64>,
    usage: Option<u64>,
    rss: Option<u64>,
    disk: Option<u64>,
    started: i64,
}

#[derive(Clone, Debug, Default)]
struct PodUse {
    name: String,
    namespace: String,
    uid: String,
    containers: Vec<Use>,
}

fn value(number: Option<cri::UInt64Value>) -> Option<u64> {
    number.map(|n| n.value)
}

fn time(nanoseconds: i64) -> String {
    let time = Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or_default();
    Timestamp::from_second(time.as_second())
        .unwrap_or_default()
        .to_string()
}

async fn pods(context: &Context) -> Result<Vec<PodUse>, tonic::Status> {
    let service = &context.runtime.service;
    let request = Request::new(cri::ListContainerStatsRequest::default());
    let stats = service
        .list_container_stats(request)
        .await?
        .into_inner()
        .stats;
    let containers = context.runtime.containers(None).await?;
    let known: BTreeMap<&str, &cri::Container> =
        containers.iter().map(|c| (c.id.as_str(), c)).collect();
    let mut pods: BTreeMap<String, PodUse> = BTreeMap::new();
    for one in stats {
        let attributes = one.attributes.unwrap_or_default();
        let label = |name: &str| attributes.labels.get(name).cloned().unwrap_or_default();
        let uid = label(POD_UID_LABEL);
        let pod = pods.entry(uid.clone()).or_insert_with(|| PodUse {
            name: label(POD_NAME_LABEL),
            namespace: label(POD_NAMESPACE_LABEL),
            uid,
            containers: Vec::new(),
        });
        let cpu = one.cpu.unwrap_or_default();
        let memory = one.memory.unwrap_or_default();
        let known = known.get(attributes.id.as_str());
        let image = known.and_then(|container| container.image.as_ref());
        pod.containers.push(Use {
            name: label(CONTAINER_NAME_LABEL),
            id: attributes.id.clone(),
            image: image.map(|image| image.image.clone()).unwrap_or_default(),
            time: cpu.timestamp,
            cpu_total: value(cpu.usage_core_nano_seconds),
            cpu_rate: value(cpu.usage_nano_cores),
            memory: value(memory.working_set_bytes),
            usage: value(memory.usage_bytes),
            rss: value(memory.rss_bytes),
            disk: value(one.writable_layer.and_then(|w| w.used_bytes)),
            started: known.map_or(0, |container| container.created_at),
        });
    }
    Ok(pods.into_values().collect())
}

fn sum(uses: &[Use], of: impl Fn(&Use) -> Option<u64>) -> Option<u64> {
    uses.iter().filter_map(of).reduce(u64::saturating_add)
}

fn cpu(time_of: i64, total: Option<u64>, rate: Option<u64>) -> Value {
    json!({"time": time(time_of), "usageNanoCores": rate, "usageCoreNanoSeconds": total})
}

fn memory(time_of: i64, uses: &[Use]) -> Value {
    json!({
        "time": time(time_of),
        "usageBytes": sum(uses, |u| u.usage.or(u.memory)),
        "workingSetBytes": sum(uses, |u| u.memory),
        "rssBytes": sum(uses, |u| u.rss),
    })
}

/// The answer of `/stats/summary`.
pub async fn summary(context: &Context) -> Result<Value, tonic::Status> {
    let pods = pods(context).await?;
    let node = node_use(context);
    let list: Vec<Value> = pods
        .iter()
        .map(|pod| {
            let uses = &pod.containers;
            let at = uses.iter().map(|u| u.time).max().unwrap_or(0);
            let started = uses.iter().map(|u| u.started).min().unwrap_or(0);
            let containers: Vec<Value> = uses
                .iter()
                .map(|u| {
                    json!({
                        "name": u.name,
                        "startTime": time(u.started),
                        "cpu": cpu(u.time, u.cpu_total, u.cpu_rate),
                        "memory": memory(u.time, std::slice::from_ref(u)),
                        "rootfs": {"time": time(u.time), "usedBytes": u.disk},
                    })
                })
                .collect();
            json!({
                "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
                "startTime": time(started),
                "containers": containers,
                "cpu": cpu(at, sum(uses, |u| u.cpu_total), sum(uses, |u| u.cpu_rate)),
                "memory": memory(at, uses),
            })
        })
        .collect();
    let now = context.cluster.now().to_string();
    Ok(json!({
        "node": {
            "nodeName": context.config.node_name,
            "startTime": now,
            "cpu": {"time": now, "usageCoreNanoSeconds": node.cpu_nanoseconds},
            "memory": {
                "time": now,
                "availableBytes": node.memory_available,
                "workingSetBytes": node.memory_used,
                "usageBytes": node.memory_used,
            },
        },
        "pods": list,
    }))
}

/// Use of the whole node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct NodeUse {
    cpu_nanoseconds: u64,
    memory_available: u64,
    memory_used: u64,
}

fn node_use(context: &Context) -> NodeUse {
    let read = |name: &str| {
        std::fs::read_to_string(context.config.proc_dir.join(name)).unwrap_or_default()
    };
    parse_node_use(&read("stat"), &read("meminfo"))
}

fn parse_node_use(stat: &str, meminfo: &str) -> NodeUse {
    /// A tick of the kernel's clock, as user space sees it.
    const TICK: u64 = 10_000_000;
    let ticks: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .map(|word| word.parse().unwrap_or(0))
        .collect();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    // The times of guests are counted in those of users as well.
    let all: u64 = ticks.iter().take(8).sum();
    let memory = |name: &str| {
        let line = meminfo.lines().find_map(|l| l.strip_prefix(name));
        let kib = line.and_then(|l| l.split_whitespace().next());
        kib.and_then(|k| k.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    let available = memory("MemAvailable:");
    NodeUse {
        cpu_nanoseconds: all.saturating_sub(idle) * TICK,
        memory_available: available,
        memory_used: memory("MemTotal:").saturating_sub(available),
    }
}

/// The answer of `/metrics/resource`, under upstream's names.
pub async fn resource_metrics(context: &Context) -> Result<String, tonic::Status> {
    let pods = pods(context).await?;
    let node = node_use(context);
    let mut text = String::new();
    let mut family = |name: &str, help: &str, kind: &str, samples: Vec<(String, f64)>| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let _ = writeln!(text, "{name}{labels} {value}");
        }
    };
    let cpu_seconds = |nanoseconds: u64| nanoseconds as f64 / 1e9;
    let per_container = |of: &dyn Fn(&Use) -> Option<f64>| -> Vec<(String, f64)> {
        let all = pods
            .iter()
            .flat_map(|pod| pod.containers.iter().map(move |u| (pod, u)));
        all.filter_map(|(pod, u)| {
            let labels = format!(
                "{{container=\"{}\",namespace=\"{}\",pod=\"{}\"}}",
                u.name, pod.namespace, pod.name
            );
            of(u).map(|value| (labels, value))
        })
        .collect()
    };
    let per_pod = |of: &dyn Fn(&[Use]) -> Option<f64>| -> Vec<(String, f64)> {
        pods.iter()
            .filter_map(|pod| {
                let labels = format!("{{namespace=\"{}\",pod=\"{}\"}}", pod.namespace, pod.name);
                of(&pod.containers).map(|value| (labels, value))
            })
            .collect()
    };
    family(
        "container_cpu_usage_seconds_total",
        "Cumulative cpu time consumed by the container in core-seconds",
        "counter",
        per_container(&|u| u.cpu_total.map(cpu_seconds)),
    );
    family(
        "container_memory_working_set_bytes",
        "Current working set of the container in bytes",
        "gauge",
        per_container(&|u| u.memory.map(|m| m as f64)),
    );
    family(
        "node_cpu_usage_seconds_total",
        "Cumulative cpu time consumed by the node in core-seconds",
        "counter",
        vec![(String::new(), cpu_seconds(node.cpu_nanoseconds))],
    );
    family(
        "node_memory_working_set_bytes",
        "Current working set of the node in bytes",
        "gauge",
        vec![(String::new(), node.memory_used as f64)],
    );
    family(
        "pod_cpu_usage_seconds_total",
        "Cumulative cpu time consumed by the pod in core-seconds",
        "counter",
        per_pod(&|uses| sum(uses, |u| u.cpu_total).map(cpu_seconds)),
    );
    family(
        "pod_memory_working_set_bytes",
        "Current working set of the pod in bytes",
        "gauge",
        per_pod(&|uses| sum(uses, |u| u.memory).map(|m| m as f64)),
    );
    family(
        "resource_scrape_error",
        "1 if there was an error while getting container metrics, 0 otherwise",
        "gauge",
        vec![(String::new(), 0.0)],
    );
    Ok(text)
}

/// The answer of `/metrics/cadvisor`: those of cAdvisor's names that dashboards go by.
pub async fn cadvisor_metrics(context: &Context) -> Result<String, tonic::Status> {
    let pods = pods(context).await?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let node = node_use(context);
    Ok(cadvisor_text(
        &pods,
        cores,
        node.memory_available.saturating_add(node.memory_used),
    ))
}

/// Help, type, further labels, and the sample of a container.
type Family<'a> = (
    &'a str,
    &'a str,
    &'a str,
    &'a str,
    &'a dyn Fn(&Use) -> Option<f64>,
);

fn cadvisor_text(pods: &[PodUse], cores: usize, memory: u64) -> String {
    let float = |number: u64| number as f64;
    let families: [Family; 6] = [
        (
            "container_cpu_usage_seconds_total",
            "Cumulative cpu time consumed in seconds.",
            "counter",
            "cpu=\"total\",",
            &|u| u.cpu_total.map(|n| float(n) / 1e9),
        ),
        (
            "container_memory_usage_bytes",
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
            "gauge",
            "",
            &|u| u.usage.or(u.memory).map(float),
        ),
        (
            "container_memory_working_set_bytes",
            "Current working set in bytes.",
            "gauge",
            "",
            &|u| u.memory.map(float),
        ),
        (
            "container_memory_rss",
            "Size of RSS in bytes.",
            "gauge",
            "",
            &|u| u.rss.map(float),
        ),
        (
            "container_fs_usage_bytes",
            "Number of bytes that are consumed by the container on this filesystem.",
            "gauge",
            "",
            &|u| u.disk.map(float),
        ),
        (
            "container_start_time_seconds",
            "Start time of the container since unix epoch in seconds.",
            "gauge",
            "",
            &|u| Some(float(u64::try_from(u.started).unwrap_or(0)) / 1e9),
        ),
    ];
    let mut text = String::new();
    // Writing to a string cannot fail.
    for (name, help, kind, labels, of) in families {
        let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for (pod, u) in pods
            .iter()
            .flat_map(|pod| pod.containers.iter().map(move |u| (pod, u)))
        {
            let Some(value) = of(u) else { continue };
            let (container, id, image) = (&u.name, &u.id, &u.image);
            let (namespace, pod) = (&pod.namespace, &pod.name);
            let _ = writeln!(
                text,
                "{name}{{container=\"{container}\",{labels}id=\"/kubepods/{id}\",image=\"{image}\",name=\"{id}\",namespace=\"{namespace}\",pod=\"{pod}\"}} {value}"
            );
        }
    }
    let _ = writeln!(
        text,
        "# HELP machine_cpu_cores Number of logical CPU cores.\n# TYPE machine_cpu_cores gauge\nmachine_cpu_cores {cores}"
    );
    let _ = writeln!(
        text,
        "# HELP machine_memory_bytes Amount of memory installed on the machine.\n# TYPE machine_memory_bytes gauge\nmachine_memory_bytes {memory}"
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cadvisors_names() {
        let container = Use {
            name: "c".into(),
            id: "f00".into(),
            image: "i".into(),
            cpu_total: Some(1_500_000_000),
            memory: Some(4096),
            ..Use::default()
        };
        let pod = PodUse {
            name: "p".into(),
            namespace: "n".into(),
            uid: "u".into(),
            containers: vec![container],
        };
        let text = cadvisor_text(&[pod], 2, 1024);
        for line in [
            "container_cpu_usage_seconds_total{container=\"c\",cpu=\"total\",id=\"/kubepods/f00\",image=\"i\",name=\"f00\",namespace=\"n\",pod=\"p\"} 1.5",
            "container_memory_working_set_bytes{container=\"c\",id=\"/kubepods/f00\",image=\"i\",name=\"f00\",namespace=\"n\",pod=\"p\"} 4096",
            "machine_cpu_cores 2",
            "machine_memory_bytes 1024",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in {text}");
        }
        assert!(!text.contains("container_memory_rss{"));
    }

    #[test]
    fn reads_the_nodes_use() {
        let stat = "cpu  10 0 5 100 5 0 0 0 0 0\ncpu0 1 1 1 1\n";
        let node = parse_node_use(stat, "MemTotal: 100 kB\nMemAvailable: 40 kB\n");
        assert_eq!(node.cpu_nanoseconds, 150_000_000);
        assert_eq!(node.memory_used, 60 * 1024);
    }
}
