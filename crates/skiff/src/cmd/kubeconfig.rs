//! `skiff kubeconfig`.

use std::path::Path;

use anyhow::{Result, bail};
use skiff_base::SystemClock;

use crate::cli::DataDir;
use crate::config::{Config, PARTS};
use crate::instance::Instance;
use crate::pki::{Pki, Subject};
use crate::say::say;
use crate::{kubeconfig, wiring};

/// Whose kubeconfig.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    pub data: DataDir,
    /// Print the kubeconfig of a part that runs alone, with no more rights than it needs: scheduler, controllers, kubelet, proxy or
    /// dns [default: the administrator's]
    #[arg(long, value_name = "PART", value_parser = PARTS)]
    pub part: Option<String>,
    /// The node that the kubelet is for [default: this cluster's own node]
    #[arg(long, value_name = "NAME", requires = "part")]
    pub node_name: Option<String>,
    /// How the part reaches the API server [default: as on this machine]
    #[arg(long, value_name = "URL", requires = "part")]
    pub server: Option<String>,
}

/// Prints it.
pub fn run(arguments: &Arguments) -> Result<()> {
    let data_dir = &arguments.data.data_dir;
    let nothing = || {
        format!(
            "there is no cluster in {}; start one with `skiff up`",
            data_dir.display()
        )
    };
    if let Some(part) = &arguments.part {
        let Some(instance) = Instance::read(data_dir)?.filter(|it| it.server.is_none()) else {
            bail!(nothing());
        };
        return print_part(arguments, part, &instance.config);
    }
    let path = data_dir.join("admin.kubeconfig");
    match std::fs::read_to_string(&path) {
        Ok(text) => {
            say!("{}", text.trim_end());
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(nothing()),
        Err(error) => bail!("reading {}: {error}", path.display()),
    }
}

/// With a certificate that is made when it is first asked for, and anew when a third of its life is left.
fn print_part(arguments: &Arguments, part: &str, config: &Config) -> Result<()> {
    let node = arguments.node_name.as_deref().unwrap_or(&config.node_name);
    let user = wiring::part_user(part, node);
    let subject = Subject {
        common_name: user.name,
        organizations: user.groups,
        client: true,
        ..Subject::default()
    };
    let name = match part {
        "kubelet" => format!("part-kubelet-{node}"),
        part => format!("part-{part}"),
    };
    let now = SystemClock::shared().now();
    let pki = Pki::open(Path::new(&config.data_dir).join("pki").as_path(), now)?;
    let leaf = pki.leaf(&name, &subject, now)?;
    let server = arguments
        .server
        .clone()
        .unwrap_or_else(|| config.local_server());
    let document = kubeconfig::document(&config.cluster_name, &server, &pki.authority_pem, &leaf);
    say!("{}", serde_saphyr::to_string(&document)?.trim_end());
    Ok(())
}
