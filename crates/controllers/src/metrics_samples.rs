//! What a kubelet's `/metrics/resource` says, and what two of its answers say together. Pure.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;

/// CPU time so far and memory now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Counters {
    /// Seconds of CPU since the start.
    cpu: f64,
    /// Bytes.
    memory: u64,
}

/// What is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub nano_cores: u64,
    /// Bytes.
    pub memory: u64,
}

/// The containers of a pod, by name.
type Containers = BTreeMap<String, Counters>;

/// One measurement of a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NodeSample {
    pub at: Timestamp,
    pub node: Option<Counters>,
    /// By namespace and name.
    pub pods: HashMap<(String, String), Containers>,
}

impl NodeSample {
    /// The time from `before` to this.
    pub fn since(&self, before: &Self) -> Duration {
        Duration::try_from(self.at.duration_since(before.at)).unwrap_or_default()
    }
}

/// What was used between two measurements; none if the counter began anew in between.
pub(crate) fn usage(before: Counters, now: Counters, window: Duration) -> Option<Usage> {
    if now.cpu < before.cpu || window.is_zero() {
        return None;
    }
    let nano_cores = ((now.cpu - before.cpu) / window.as_secs_f64() * 1e9).round() as u64;
    Some(Usage {
        nano_cores,
        memory: now.memory,
    })
}

/// Reads the text of an answer that came at `now`.
pub(crate) fn read(text: &str, now: Timestamp) -> NodeSample {
    let mut sample = NodeSample {
        at: now,
        node: None,
        pods: HashMap::new(),
    };
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, labels, value)) = parts(line) else {
            continue;
        };
        let counters = match name {
            "node_cpu_usage_seconds_total" | "node_memory_working_set_bytes" => {
                sample.node.get_or_insert_default()
            }
            "container_cpu_usage_seconds_total" | "container_memory_working_set_bytes" => {
                let label = |name: &str| labels.get(name).map(|value| (*value).to_owned());
                let (Some(namespace), Some(pod), Some(container)) =
                    (label("namespace"), label("pod"), label("container"))
                else {
                    continue;
                };
                let containers = sample.pods.entry((namespace, pod)).or_default();
                containers.entry(container).or_default()
            }
            _ => continue,
        };
        if name.contains("_cpu_") {
            counters.cpu = value;
        } else {
            let bytes = value as u64;
            counters.memory = bytes;
        }
    }
    sample
}

/// Name, labels and value of a line: `name{label="value"} 1.5 [time]`. Labels of these metrics are names: they
/// hold no quotes.
fn parts(line: &str) -> Option<(&str, BTreeMap<&str, &str>, f64)> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => rest.split_once('}')?,
        None => ("", rest),
    };
    let labels = labels.split(',').filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        Some((name.trim(), value.trim_matches('"')))
    });
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((name, labels.collect(), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FIRST: &str = "# HELP x y\n# TYPE x counter\n\
        container_cpu_usage_seconds_total{container=\"c\",namespace=\"n\",pod=\"p\"} 1.5 1395066363000\n\
        container_memory_working_set_bytes{container=\"c\",namespace=\"n\",pod=\"p\"} 1.048576e+06 1395066363000\n\
        node_cpu_usage_seconds_total 100\nnode_memory_working_set_bytes 2048\nresource_scrape_error 0\n";
    const SECOND: &str = "container_cpu_usage_seconds_total{container=\"c\",namespace=\"n\",pod=\"p\"} 2\n\
        container_memory_working_set_bytes{container=\"c\",namespace=\"n\",pod=\"p\"} 4096\nnode_cpu_usage_seconds_total 104\n";

    #[test]
    fn two_answers_say_what_is_used() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let (before, now) = (read(FIRST, at(0)), read(SECOND, at(2)));
        let window = now.since(&before);
        assert_eq!(window, Duration::from_secs(2));
        let key = ("n".to_owned(), "p".to_owned());
        let used = usage(before.pods[&key]["c"], now.pods[&key]["c"], window);
        let expected = Usage {
            nano_cores: 250_000_000,
            memory: 4096,
        };
        assert_eq!(used, Some(expected));
        let node = usage(before.node.unwrap(), now.node.unwrap(), window).unwrap();
        assert_eq!(node.nano_cores, 2_000_000_000);
        assert_eq!(before.pods[&key]["c"].memory, 1 << 20);
        // Started again.
        assert_eq!(
            usage(now.pods[&key]["c"], before.pods[&key]["c"], window),
            None
        );
        assert_eq!(
            usage(before.node.unwrap(), now.node.unwrap(), Duration::ZERO),
            None
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "[a-z_{}\",= 0-9.e+\n#]{0,200}") {
            read(&text, Timestamp::UNIX_EPOCH);
        }
    }
}
