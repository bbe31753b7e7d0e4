//! The shim as a program of its own: the tests' stand-in for `skiff shim`.

use std::process::ExitCode;

fn main() -> ExitCode {
    skiff_runtime::shim_main(std::env::args().skip(2))
}
