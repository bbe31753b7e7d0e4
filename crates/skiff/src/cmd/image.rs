//! `skiff image`.
/// x
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {}
/// x
pub fn run(_: Arguments) -> anyhow::Result<()> {
    anyhow::bail!("TODO")
}
