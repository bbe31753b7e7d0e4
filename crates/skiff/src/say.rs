//! What commands tell their user on standard output.

use std::io::Write as _;

/// Prints a line like `println!`, but a reader that has gone away (`| head`) or a full disk is no reason to stop or to panic.
macro_rules! say {
    ($($words:tt)*) => { $crate::say::line(format_args!($($words)*)) };
}

pub(crate) use say;

/// Prints a line.
pub fn line(words: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    // Whoever does not listen misses nothing else.
    let _ = writeln!(out, "{words}").and_then(|()| out.flush());
}
