//! What can go wrong: an expression that does not compile, and one that fails when it runs.

use std::fmt::Write as _;
use std::sync::Arc;

/// One fault found while an expression was parsed or checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    /// The line, counted from 1. Zero where the fault has no place.
    pub line: u32,
    /// The column in code points, counted from 0.
    pub column: u32,
    /// What is wrong, in cel-go's words.
    pub message: String,
}

/// Everything that is wrong with an expression, shown as cel-go shows it: a line per fault, the source, and a caret below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileErrors {
    /// The faults in the order of their places.
    pub issues: Vec<Issue>,
    source: Arc<str>,
}

const MAX_REPORTED: usize = 100;
const MAX_SNIPPET: usize = 16_384;

impl CompileErrors {
    pub(crate) fn new(source: &str, mut issues: Vec<Issue>) -> Self {
        issues.sort_by_key(|issue| (issue.line, issue.column));
        Self {
            issues,
            source: Arc::from(source),
        }
    }
}

impl std::error::Error for CompileErrors {}

impl std::fmt::Display for CompileErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, issue) in self.issues.iter().take(MAX_REPORTED).enumerate() {
            if index > 0 {
                f.write_char('\n')?;
            }
            show(f, issue, &self.source)?;
        }
        if self.issues.len() > MAX_REPORTED {
            write!(
                f,
                "\n{} more errors were truncated",
                self.issues.len() - MAX_REPORTED
            )?;
        }
        Ok(())
    }
}

fn show(f: &mut std::fmt::Formatter<'_>, issue: &Issue, source: &str) -> std::fmt::Result {
    if issue.line == 0 {
        return write!(f, "ERROR: <input>:-1:0: {}", issue.message);
    }
    write!(
        f,
        "ERROR: <input>:{}:{}: {}",
        issue.line,
        issue.column + 1,
        issue.message
    )?;
    let Some(line) = source.split('\n').nth(issue.line as usize - 1) else {
        return Ok(());
    };
    if line.len() > MAX_SNIPPET {
        return Ok(());
    }
    f.write_str("\n | ")?;
    for c in line.chars() {
        f.write_char(if c == '\t' { ' ' } else { c })?;
    }
    f.write_str("\n | ")?;
    let mut rest = line.chars();
    for c in rest.by_ref().take(issue.column as usize) {
        f.write_char(if c.len_utf8() > 1 { '\u{ff0e}' } else { '.' })?;
    }
    let wide = rest.next().is_some_and(|c| c.len_utf8() > 1);
    f.write_char(if wide { '\u{ff3e}' } else { '^' })
}

/// Why an evaluation has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The expression ran into a fault: a missing key, an overflow, a conversion that does not work. `&&` and `||` can
    /// make up for it.
    #[error("{0}")]
    Fault(Arc<str>),
    /// The cost went over the budget; nothing makes up for it.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostExceeded,
}

impl EvalError {
    /// A fault with this text.
    pub fn fault(message: impl Into<Arc<str>>) -> Self {
        Self::Fault(message.into())
    }

    /// cel-go's text for a function that has no variant for the values it got.
    pub(crate) fn no_such_overload() -> Self {
        Self::fault("no such overload")
    }

    pub(crate) fn no_such_key(key: impl std::fmt::Display) -> Self {
        Self::fault(format!("no such key: {key}"))
    }
}
