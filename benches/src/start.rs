//! How long a start takes, and how big the program is.

use std::path::Path;
use std::time::Instant;

use anyhow::Result;

use crate::cluster::Cluster;
use crate::figures::Figures;

/// `skiff up` on a fresh and on a used data directory, and the control plane alone.
pub fn measure(skiff: &Path, figures: &mut Figures) -> Result<()> {
    let size = std::fs::metadata(skiff)?.len() as f64 / f64::from(1 << 20);
    figures.add("size of the program", format!("{size:.1} MiB"), "60 MiB");
    let cluster = Cluster::prepare(skiff)?;
    let labels = ["`skiff up`, fresh data", "`skiff up`, second start"];
    for (round, label) in labels.into_iter().enumerate() {
        let started = Instant::now();
        let text = cluster.up()?;
        let elapsed = started.elapsed().as_secs_f64();
        if round == 0 {
            eprintln!("{text}");
        }
        figures.add(label, format!("{elapsed:.2} s"), "1.5 s");
        cluster.down()?;
    }
    drop(cluster);
    let runtime = tokio::runtime::Runtime::new()?;
    for label in ["control plane until /readyz, fresh data", "again"] {
        let mut cluster = Cluster::prepare(skiff)?;
        let time = runtime.block_on(cluster.serve(&["--disable", "kubelet,proxy,dns"]))?;
        figures.add(label, format!("{:.2} s", time.as_secs_f64()), "0.5 s");
    }
    Ok(())
}
