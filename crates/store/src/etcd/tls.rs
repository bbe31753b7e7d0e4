//! The way to an etcd: TCP, and TLS over it where the address says https.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Whom we trust and what we show. The files are read for each connection, so that they can be renewed.
#[derive(Clone, Debug, Default)]
pub struct EtcdTls {
    /// The authority that signed etcd's certificates; `None`: those that the system trusts.
    pub authority: Option<PathBuf>,
    /// Our certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A connection could not be made: what was to be asked over it never left.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{address}: {reason}")]
pub(super) struct Unreached {
    address: String,
    reason: String,
}

/// Where one etcd listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub host: String,
    pub port: u16,
    pub encrypted: bool,
}

impl Address {
    /// Reads `http://host:port`, `https://host:port`, or `host:port`.
    pub fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let encrypted = match scheme {
            "http" => false,
            "https" => true,
            other => return Err(format!("{url}: the scheme {other} is not served")),
        };
        let authority: http::uri::Authority = rest
            .trim_end_matches('/')
            .parse()
            .map_err(|error| format!("{url}: {error}"))?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if host.is_empty() {
            return Err(format!("{url}: it names no host"));
        }
        Ok(Self {
            host,
            port: authority.port_u16().unwrap_or(2379),
            encrypted,
        })
    }

    /// As it stands in a URL.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }
}

/// What a connection is made of.
pub(super) trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

/// Connects.
pub(super) async fn connect(
    address: Address,
    tls: Arc<EtcdTls>,
) -> Result<TokioIo<Box<dyn Wire>>, Unreached> {
    let unreached = |reason: String| Unreached {
        address: address.authority(),
        reason,
    };
    let wire = TcpStream::connect((address.host.as_str(), address.port))
        .await
        .map_err(|error| unreached(error.to_string()))?;
    let _ = wire.set_nodelay(true);
    if !address.encrypted {
        return Ok(TokioIo::new(Box::new(wire)));
    }
    let config = client_config(&tls).map_err(unreached)?;
    let name =
        ServerName::try_from(address.host.clone()).map_err(|error| unreached(error.to_string()))?;
    let wire = tokio_rustls::TlsConnector::from(Arc::new(config))
        .connect(name, wire)
        .await
        .map_err(|error| unreached(error.to_string()))?;
    Ok(TokioIo::new(Box::new(wire)))
}

fn client_config(tls: &EtcdTls) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    match &tls.authority {
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        Some(path) => {
            for certificate in certificates(path)? {
                roots
                    .add(certificate)
                    .map_err(|error| named(path, &error))?;
            }
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let mut config = match &tls.identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| named(key, &error))?;
            builder
                .with_client_auth_cert(certificates(chain)?, secret)
                .map_err(|error| named(chain, &error))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// What is wrong with the files, before anyone connects.
pub(super) fn check(tls: &EtcdTls) -> Result<(), String> {
    client_config(tls).map(drop)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| named(path, &error))?;
    match found.is_empty() {
        true => Err(named(path, &"it holds no certificate")),
        false => Ok(found),
    }
}

fn named(path: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let address = |host: &str, port, encrypted| {
            Ok(Address {
                host: host.into(),
                port,
                encrypted,
            })
        };
        for (url, expected) in [
            ("http://127.0.0.1:2379", address("127.0.0.1", 2379, false)),
            ("https://etcd.example/", address("etcd.example", 2379, true)),
            ("etcd-0:1234", address("etcd-0", 1234, false)),
            ("https://[::1]:99", address("::1", 99, true)),
        ] {
            assert_eq!(Address::parse(url), expected, "{url}");
        }
        for bad in ["", "ftp://a", "http://", "http://a b", "unix:///x"] {
            assert!(Address::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(
            Address::parse("https://[::1]:99").unwrap().authority(),
            "[::1]:99"
        );
    }
}
