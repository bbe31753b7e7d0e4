//! Measurements that cost an addition each, and the text that Prometheus reads them as.

use std::fmt::{Display, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bounds of buckets, each `factor` times the one before.
#[must_use]
pub const fn exponential<const N: usize>(first: f64, factor: f64) -> [f64; N] {
    let mut bounds = [first; N];
    let mut at = 1;
    while at < N {
        bounds[at] = bounds[at - 1] * factor;
        at += 1;
    }
    bounds
}

/// How many measurements lie between bounds, and their sum.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [f64],
    /// One more than bounds: what lies above all of them.
    counts: Box<[AtomicU64]>,
    /// In thousand millionths.
    sum: AtomicU64,
}

impl Histogram {
    /// Has measured nothing yet.
    #[must_use]
    pub fn new(bounds: &'static [f64]) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            sum: AtomicU64::new(0),
        }
    }

    /// Takes in a time, in seconds.
    pub fn took(&self, time: Duration) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.observe(time.as_secs_f64(), nanos);
    }

    /// Takes in a number.
    pub fn counted(&self, number: u32) {
        self.observe(f64::from(number), u64::from(number) * 1_000_000_000);
    }

    fn observe(&self, value: f64, nanos: u64) {
        let at = self.bounds.iter().position(|bound| value <= *bound);
        if let Some(count) = self.counts.get(at.unwrap_or(self.bounds.len())) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Takes in what another with the same bounds has measured.
    pub fn add(&self, other: &Self) {
        for (count, more) in self.counts.iter().zip(&other.counts) {
            count.fetch_add(more.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        let sum = other.sum.load(Ordering::Relaxed);
        self.sum.fetch_add(sum, Ordering::Relaxed);
    }

    /// How many measurements there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        let counts = self.counts.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Writes its samples; `labels` as they stand between the braces.
    pub fn write(&self, text: &mut String, name: &str, labels: &str) {
        let more = if labels.is_empty() { "" } else { "," };
        let mut count = 0;
        for (at, observed) in self.counts.iter().enumerate() {
            count += observed.load(Ordering::Relaxed);
            let bound = self.bounds.get(at).copied().unwrap_or(f64::INFINITY);
            let bound = number(bound);
            let _ = writeln!(
                text,
                "{name}_bucket{{{labels}{more}le=\"{bound}\"}} {count}"
            );
        }
        #[allow(clippy::cast_precision_loss, reason = "a sum for a graph")]
        let sum = self.sum.load(Ordering::Relaxed) as f64 / 1e9;
        sample(text, &format!("{name}_sum"), labels, number(sum));
        sample(text, &format!("{name}_count"), labels, count);
    }
}

/// Begins the samples of one name: its kind (`counter`, `gauge`, `histogram`) and what it says.
pub fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// Writes one sample; `labels` as they stand between the braces.
pub fn sample(text: &mut String, name: &str, labels: &str, value: impl Display) {
    let _ = if labels.is_empty() {
        writeln!(text, "{name} {value}")
    } else {
        writeln!(text, "{name}{{{labels}}} {value}")
    };
}

/// As programs in Go write it, so that labels are those that people know.
fn number(value: f64) -> String {
    if value.is_infinite() {
        return "+Inf".to_owned();
    }
    if value == 0.0 || (1e-4..1e21).contains(&value) {
        return value.to_string();
    }
    let written = format!("{value:e}");
    match written.split_once("e-") {
        Some((digits, exponent)) => format!("{digits}e-{exponent:0>2}"),
        None => written.replace('e', "e+"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static BOUNDS: [f64; 3] = exponential(0.001, 10.0);

    #[test]
    fn a_histogram_adds_up() {
        let histogram = Histogram::new(&BOUNDS);
        for micros in [500, 1000, 1001, 5_000_000] {
            histogram.took(Duration::from_micros(micros));
        }
        let mut text = String::new();
        head(&mut text, "a", "histogram", "Of a test.");
        histogram.write(&mut text, "a", "b=\"c\"");
        let expected = "# HELP a Of a test.\n# TYPE a histogram\n\
            a_bucket{b=\"c\",le=\"0.001\"} 2\na_bucket{b=\"c\",le=\"0.01\"} 3\na_bucket{b=\"c\",le=\"0.1\"} 3\n\
            a_bucket{b=\"c\",le=\"+Inf\"} 4\na_sum{b=\"c\"} 5.002501\na_count{b=\"c\"} 4\n";
        assert_eq!(text, expected);
        let histogram = Histogram::new(&BOUNDS);
        histogram.counted(7);
        let mut text = String::new();
        histogram.write(&mut text, "a", "");
        assert!(text.ends_with("a_bucket{le=\"+Inf\"} 1\na_sum 7\na_count 1\n"));
    }

    #[test]
    fn numbers_are_written_as_in_go() {
        let bounds: [f64; 10] = exponential(10e-9, 10.0);
        assert_eq!(
            bounds.map(number).join(" "),
            "1e-08 1e-07 1e-06 9.999999999999999e-06 9.999999999999999e-05 0.001 0.01 0.1 1 10"
        );
        assert_eq!(number(f64::INFINITY), "+Inf");
        assert_eq!(number(0.0), "0");
    }
}
