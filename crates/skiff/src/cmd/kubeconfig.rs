//! `skiff kubeconfig`.

use std::path::Path;

use anyhow::{Result, bail};

/// Prints the administrator's kubeconfig.
pub fn run(data_dir: &Path) -> Result<()> {
    let path = data_dir.join("admin.kubeconfig");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            print!("{text}");
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
            "there is no cluster in {}; start one with `skiff up`",
            data_dir.display()
        ),
        Err(error) => bail!("reading {}: {error}", path.display()),
    }
}
