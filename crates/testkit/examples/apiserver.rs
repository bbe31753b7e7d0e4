//! An API server on a memory store, for trying things with `kubectl`: prints the path of a kubeconfig and serves until
//! its standard input ends.

use skiff_testkit::TestCluster;
use tokio::io::AsyncReadExt;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cluster = TestCluster::start().await?;
    println!("{}", cluster.kubeconfig().display());
    let mut rest = Vec::new();
    tokio::io::stdin().read_to_end(&mut rest).await?;
    Ok(())
}
