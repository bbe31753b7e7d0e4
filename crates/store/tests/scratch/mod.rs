//! Directories for tests.

use std::path::Path;

/// A directory in memory where there is one: most tests are not about the disk, and sync often.
pub fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let builder = &mut tempfile::Builder::new();
    let builder = builder.prefix("skiff-store-");
    match memory.is_dir() {
        true => builder.tempdir_in(memory),
        false => builder.tempdir(),
    }
    .unwrap()
}
