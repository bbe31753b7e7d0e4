//! What can be seen of priority and fairness: metrics and debug endpoints under upstream's names.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::level::{BUCKETS, Histogram, SchemaCounters};
use super::{Digest, Flow};

const PREFIX: &str = "apiserver_flowcontrol";

/// A metric of each flow schema: name, type, help, and the value.
type OfSchema = (
    &'static str,
    &'static str,
    &'static str,
    fn(&SchemaCounters) -> u64,
);

const OF_SCHEMAS: [OfSchema; 4] = [
    (
        "dispatched_requests_total",
        "counter",
        "Number of requests executed by API Priority and Fairness subsystem",
        |counters| counters.dispatched(),
    ),
    (
        "current_inqueue_requests",
        "gauge",
        "Number of requests currently pending in queues of the API Priority and Fairness subsystem",
        |counters| counters.waiting.load(Ordering::Relaxed) as u64,
    ),
    (
        "current_executing_requests",
        "gauge",
        "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem",
        |counters| counters.executing.load(Ordering::Relaxed) as u64,
    ),
    (
        "current_executing_seats",
        "gauge",
        "Concurrency (number of seats) occupied by the currently executing (initial stage for a WATCH, any stage otherwise) requests in the API Priority and Fairness subsystem",
        |counters| counters.executing_seats.load(Ordering::Relaxed) as u64,
    ),
];

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(
        text,
        "# HELP {PREFIX}_{name} [BETA] {help}\n# TYPE {PREFIX}_{name} {kind}"
    );
}

fn histogram(text: &mut String, name: &str, labels: &str, histogram: &Histogram) {
    let mut count = 0;
    for (at, observed) in histogram.counts.iter().enumerate() {
        count += observed.load(Ordering::Relaxed);
        let bound = BUCKETS
            .get(at)
            .map_or("+Inf".to_owned(), ToString::to_string);
        let _ = writeln!(
            text,
            "{PREFIX}_{name}_bucket{{{labels},le=\"{bound}\"}} {count}"
        );
    }
    #[allow(clippy::cast_precision_loss, reason = "a sum of times for a graph")]
    let sum = histogram.micros.load(Ordering::Relaxed) as f64 / 1e6;
    let _ = writeln!(text, "{PREFIX}_{name}_sum{{{labels}}} {sum}");
    let _ = writeln!(text, "{PREFIX}_{name}_count{{{labels}}} {count}");
}

fn rejections(schemas: &[(String, &Arc<SchemaCounters>)], text: &mut String) {
    head(
        text,
        "rejected_requests_total",
        "counter",
        "Number of requests rejected by API Priority and Fairness subsystem",
    );
    for (labels, counters) in schemas {
        for (reason, counter) in [
            ("cancelled", &counters.cancelled),
            ("concurrency-limit", &counters.concurrency_limit),
            ("queue-full", &counters.queue_full),
            ("time-out", &counters.time_out),
        ] {
            let count = counter.load(Ordering::Relaxed);
            if count > 0 {
                let _ = writeln!(
                    text,
                    "{PREFIX}_rejected_requests_total{{{labels},reason=\"{reason}\"}} {count}"
                );
            }
        }
    }
}

impl Flow {
    /// The metrics in Prometheus' text form.
    pub fn metrics(&self, text: &mut String) {
        let digest = self.digest.load_full();
        self.level_metrics(&digest, text);
        let schemas: Vec<_> = digest
            .schemas
            .iter()
            .map(|schema| {
                let labels = format!(
                    "flow_schema={:?},priority_level={:?}",
                    schema.name, schema.level
                );
                (labels, &schema.counters)
            })
            .collect();
        for (name, kind, help, value) in OF_SCHEMAS {
            head(text, name, kind, help);
            for (labels, counters) in &schemas {
                let _ = writeln!(text, "{PREFIX}_{name}{{{labels}}} {}", value(counters));
            }
        }
        rejections(&schemas, text);
        head(
            text,
            "request_wait_duration_seconds",
            "histogram",
            "Length of time a request spent waiting in its queue",
        );
        for (labels, counters) in &schemas {
            histogram(
                text,
                "request_wait_duration_seconds",
                &format!("execute=\"true\",{labels}"),
                &counters.waited,
            );
            histogram(
                text,
                "request_wait_duration_seconds",
                &format!("execute=\"false\",{labels}"),
                &counters.waited_in_vain,
            );
        }
        head(
            text,
            "request_execution_seconds",
            "histogram",
            "Duration of initial stage (for a WATCH) or any (for a non-WATCH) stage of request execution in the API Priority and Fairness subsystem",
        );
        for (labels, counters) in &schemas {
            histogram(
                text,
                "request_execution_seconds",
                &format!("{labels},type=\"regular\""),
                &counters.executed,
            );
        }
    }

    fn level_metrics(&self, digest: &Digest, text: &mut String) {
        type Read = fn(&super::level::Level) -> f64;
        let gauges: [(&str, &str, Read); 8] = [
            (
                "nominal_limit_seats",
                "Nominal number of execution seats configured for each priority level",
                |level| f64::from(level.bounds.read().nominal),
            ),
            (
                "lower_limit_seats",
                "Configured lower bound on number of execution seats available to each priority level",
                |level| f64::from(level.bounds.read().least),
            ),
            (
                "upper_limit_seats",
                "Configured upper bound on number of execution seats available to each priority level",
                |level| f64::from(level.bounds.read().most),
            ),
            (
                "current_limit_seats",
                "current derived number of execution seats available to each priority level",
                |level| f64::from(level.limit()),
            ),
            (
                "demand_seats_high_watermark",
                "High watermark, over last adjustment period, of demand_seats",
                |level| level.demand().high_watermark,
            ),
            (
                "demand_seats_average",
                "Time-weighted average, over last adjustment period, of demand_seats",
                |level| level.demand().average,
            ),
            (
                "demand_seats_stdev",
                "Time-weighted standard deviation, over last adjustment period, of demand_seats",
                |level| level.demand().deviation,
            ),
            ("demand_seats_smoothed", "Smoothed seat demands", |level| {
                level.demand().smoothed
            }),
        ];
        for (name, help, read) in gauges {
            head(text, name, "gauge", help);
            for (spec, level) in &digest.levels {
                let _ = writeln!(
                    text,
                    "{PREFIX}_{name}{{priority_level={:?}}} {}",
                    spec.name,
                    read(level)
                );
            }
        }
    }

    /// The page of a debug endpoint; `None`: there is no such.
    pub fn dump(&self, page: &str) -> Option<String> {
        match page {
            "dump_priority_levels" => Some(self.dump_levels()),
            "dump_queues" => Some(self.dump_queues()),
            "dump_requests" => Some(self.dump_requests()),
            _ => None,
        }
    }

    fn dump_levels(&self) -> String {
        let digest = self.digest.load_full();
        let mut rows = vec![row(&[
            "PriorityLevelName",
            "ActiveQueues",
            "IsIdle",
            "IsQuiescing",
            "WaitingRequests",
            "ExecutingRequests",
            "DispatchedRequests",
            "RejectedRequests",
            "TimedoutRequests",
            "CancelledRequests",
        ])];
        for (spec, level) in &digest.levels {
            let (waiting, taken, active) = level.look(|queues| {
                queues
                    .states()
                    .iter()
                    .filter(|queue| queue.pending > 0)
                    .count()
            });
            let mut sums = [0u64; 5];
            for schema in digest
                .schemas
                .iter()
                .filter(|schema| schema.level == spec.name)
            {
                let counters = &schema.counters;
                let counts = [
                    u64::from(counters.executing.load(Ordering::Relaxed)),
                    counters.dispatched(),
                    counters.queue_full.load(Ordering::Relaxed)
                        + counters.concurrency_limit.load(Ordering::Relaxed),
                    counters.time_out.load(Ordering::Relaxed),
                    counters.cancelled.load(Ordering::Relaxed),
                ];
                sums.iter_mut()
                    .zip(counts)
                    .for_each(|(sum, count)| *sum += count);
            }
            let mut cells = vec![
                spec.name.clone(),
                active.to_string(),
                (waiting == 0 && taken == 0).to_string(),
                false.to_string(),
                waiting.to_string(),
            ];
            cells.extend(sums.map(|sum| sum.to_string()));
            rows.push(cells);
        }
        table(&rows)
    }

    fn dump_queues(&self) -> String {
        let digest = self.digest.load_full();
        let mut rows = vec![row(&[
            "PriorityLevelName",
            "Index",
            "PendingRequests",
            "ExecutingRequests",
            "SeatsInUse",
            "NextDispatchR",
            "InitialSeatsSum",
            "MaxSeatsSum",
            "TotalWorkSum",
        ])];
        for (spec, level) in &digest.levels {
            let (.., queues) = level.look(super::queues::Queues::states);
            for (at, queue) in queues.iter().enumerate() {
                rows.push(vec![
                    spec.name.clone(),
                    at.to_string(),
                    queue.pending.to_string(),
                    queue.executing.to_string(),
                    queue.executing.to_string(),
                    format!("{:.8}ss", queue.next_start),
                    queue.seats_waiting.to_string(),
                    queue.seats_waiting.to_string(),
                    format!("{:.8}ss", 0.003 * f64::from(queue.seats_waiting)),
                ]);
            }
        }
        table(&rows)
    }

    fn dump_requests(&self) -> String {
        let digest = self.digest.load_full();
        let mut rows = vec![row(&[
            "PriorityLevelName",
            "FlowSchemaName",
            "QueueIndex",
            "RequestIndexInQueue",
            "FlowDistingsher",
            "ArriveTime",
            "InitialSeats",
            "FinalSeats",
            "AdditionalLatency",
            "StartTime",
        ])];
        let (monotonic, now) = (self.clock.monotonic(), self.clock.now());
        for (spec, level) in &digest.levels {
            let (.., waiting) = level.look(super::queues::Queues::waiting);
            for (queue, place, since) in waiting {
                let arrived = jiff::Timestamp::try_from(now - monotonic.saturating_sub(since))
                    .unwrap_or_default();
                rows.push(vec![
                    spec.name.clone(),
                    String::new(),
                    queue.to_string(),
                    place.to_string(),
                    String::new(),
                    arrived.to_string(),
                    "1".to_owned(),
                    "0".to_owned(),
                    "0s".to_owned(),
                    "0001-01-01T00:00:00Z".to_owned(),
                ]);
            }
        }
        table(&rows)
    }
}

fn row(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

/// Columns as upstream's tab writer lays them out: cells end with a comma, but for the last, and are padded.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |at: usize| {
        let longest = rows
            .iter()
            .filter_map(|row| row.get(at))
            .map(|cell| cell.len() + 1)
            .max();
        longest.unwrap_or(0).max(7) + 1
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        for (at, cell) in row.iter().enumerate() {
            if at + 1 == columns {
                text.push_str(cell);
            } else {
                let _ = write!(text, "{:width$}", format!("{cell},"), width = widths[at]);
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Limits;
    use skiff_base::SystemClock;

    #[test]
    fn pages_and_metrics_show_every_level() {
        let flow = Flow::new(&Limits::default(), SystemClock::shared());
        let levels = flow.dump("dump_priority_levels").unwrap();
        assert!(
            levels.starts_with("PriorityLevelName, ActiveQueues, IsIdle, "),
            "{levels}"
        );
        assert_eq!(levels.lines().count(), 9);
        assert_eq!(
            flow.dump("dump_queues").unwrap().lines().count(),
            1 + 128 * 3 + 64 * 2 + 16
        );
        assert_eq!(flow.dump("dump_requests").unwrap().lines().count(), 1);
        assert!(flow.dump("other").is_none());
        let mut text = String::new();
        flow.metrics(&mut text);
        for line in [
            "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"workload-low\"} 245",
            "apiserver_flowcontrol_dispatched_requests_total{flow_schema=\"exempt\",priority_level=\"exempt\"} 0",
            "apiserver_flowcontrol_current_limit_seats{priority_level=\"catch-all\"} 13",
        ] {
            assert!(text.contains(line), "{line}");
        }
    }
}
