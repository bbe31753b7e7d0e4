//! The steps of a start, with the time that each took.

use std::io::Write as _;
use std::time::Instant;

use parking_lot::Mutex;

/// The line that says that all steps are done.
pub const READY: &str = "ready";

/// Reports steps on standard output as `<milliseconds> <text>`, or to the log alone.
#[derive(Debug)]
pub struct Progress {
    print: bool,
    last: Mutex<Instant>,
}

impl Progress {
    /// `print`: on standard output, for `skiff up`.
    #[must_use]
    pub fn new(print: bool) -> Self {
        Self {
            print,
            last: Mutex::new(Instant::now()),
        }
    }

    /// A step has ended.
    pub fn done(&self, what: &str) {
        let mut last = self.last.lock();
        let took = last.elapsed().as_millis();
        *last = Instant::now();
        tracing::debug!(step = what, milliseconds = took, "start");
        if self.print {
            let mut out = std::io::stdout().lock();
            // Nobody may be listening any more; that is no reason not to start.
            let _ = writeln!(out, "{took} {what}").and_then(|()| out.flush());
        }
    }

    /// All steps are done.
    pub fn ready(&self) {
        if self.print {
            let mut out = std::io::stdout().lock();
            let _ = writeln!(out, "{READY}").and_then(|()| out.flush());
        }
    }
}
