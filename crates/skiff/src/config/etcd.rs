//! Settings of an etcd that holds the state, under the names of upstream's flags.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::StoreKind;

/// Where the etcd is, as a user says it: flags, and keys under `etcd` in the configuration file.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[allow(missing_docs, reason = "the names are those of upstream's flags")]
pub struct EtcdOptions {
    /// URLs of etcd's members, for the store etcd, for example https://10.0.0.5:2379 [default: none]
    #[arg(long, value_name = "URLS", value_delimiter = ',')]
    pub etcd_servers: Option<Vec<String>>,
    /// Authorities that etcd's certificates are verified with, PEM [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub etcd_cafile: Option<PathBuf>,
    /// Certificate that is shown to etcd, PEM; read anew for each connection [default: none]
    #[arg(long, value_name = "FILE")]
    pub etcd_certfile: Option<PathBuf>,
    /// Key of that certificate, PEM [default: none]
    #[arg(long, value_name = "FILE")]
    pub etcd_keyfile: Option<PathBuf>,
    /// What all keys in etcd begin with [default: /registry]
    #[arg(long, value_name = "PREFIX")]
    pub etcd_prefix: Option<String>,
}

impl EtcdOptions {
    /// Checks the settings and makes paths absolute.
    pub fn resolve(self, store: StoreKind) -> Result<Self> {
        let named = self
            .etcd_servers
            .as_ref()
            .is_some_and(|urls| !urls.is_empty());
        match (store, named) {
            (StoreKind::Etcd, false) => bail!("--store etcd needs --etcd-servers"),
            (StoreKind::Embedded | StoreKind::Memory, true) => {
                bail!("--etcd-servers is for --store etcd")
            }
            _ => {}
        }
        if self.etcd_certfile.is_some() != self.etcd_keyfile.is_some() {
            bail!("--etcd-certfile and --etcd-keyfile go together");
        }
        if self
            .etcd_prefix
            .as_ref()
            .is_some_and(|prefix| prefix.trim_matches('/').is_empty())
        {
            bail!("--etcd-prefix names nothing; it is a path such as /registry");
        }
        let absolute = |path: Option<PathBuf>| path.map(std::path::absolute).transpose();
        Ok(Self {
            etcd_cafile: absolute(self.etcd_cafile)?,
            etcd_certfile: absolute(self.etcd_certfile)?,
            etcd_keyfile: absolute(self.etcd_keyfile)?,
            ..self
        })
    }

    /// What keys begin with, in etcd.
    pub fn prefix(&self) -> String {
        let prefix = self.etcd_prefix.as_deref().unwrap_or("/registry");
        format!("/{}", prefix.trim_matches('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_do_not_fit_are_refused() {
        let servers = || EtcdOptions {
            etcd_servers: Some(vec!["http://127.0.0.1:2379".into()]),
            ..EtcdOptions::default()
        };
        assert!(servers().resolve(StoreKind::Etcd).is_ok());
        assert!(servers().resolve(StoreKind::Embedded).is_err());
        assert!(EtcdOptions::default().resolve(StoreKind::Etcd).is_err());
        assert!(EtcdOptions::default().resolve(StoreKind::Memory).is_ok());
        let alone = EtcdOptions {
            etcd_keyfile: Some("k".into()),
            ..servers()
        };
        assert!(alone.resolve(StoreKind::Etcd).is_err());
        let prefixed = |prefix: &str| EtcdOptions {
            etcd_prefix: Some(prefix.into()),
            ..servers()
        };
        assert!(prefixed("/").resolve(StoreKind::Etcd).is_err());
        assert_eq!(prefixed("k8s/").prefix(), "/k8s");
        assert_eq!(servers().prefix(), "/registry");
    }
}
