//! TLS of our servers, with certificates that are renewed while they run.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use skiff_base::{SharedClock, Shutdown};

use crate::pki::{Leaf, Pki, Subject};

/// How often certificates are looked at; they are renewed months before they end.
const RENEWAL_CHECK: Duration = Duration::from_secs(12 * 60 * 60);

/// Makes ring the process's cryptography.
pub fn use_ring() {
    // An error says that it was installed before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A server's configuration: shows `leaf`, asks clients for certificates of `authority`, takes those without one too.
pub fn server(leaf: &Leaf, authority: &str) -> Result<rustls::ServerConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate?)?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
        .allow_unauthenticated()
        .build()?;
    let chain = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes())?;
    let mut config = rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .context("the server's certificate")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// A client's configuration: trusts `authority` and shows `leaf`.
pub fn client(leaf: &Leaf, authority: &str) -> Result<rustls::ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate?)?;
    }
    let chain = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes())?;
    Ok(rustls::ClientConfig::builder()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?)
}

/// Looks at a leaf twice a day and calls `renewed` with it when it was made anew.
pub async fn renew(
    pki: Arc<Pki>,
    name: &'static str,
    subject: Subject,
    clock: SharedClock,
    shutdown: Shutdown,
    renewed: impl Fn(&Leaf) -> Result<()> + Send,
) {
    let mut shown = pki
        .leaf(name, &subject, clock.now())
        .map(|leaf| leaf.certificate)
        .unwrap_or_default();
    loop {
        tokio::select! {
            () = clock.sleep(RENEWAL_CHECK) => {}
            () = shutdown.triggered() => return,
        }
        match pki.leaf(name, &subject, clock.now()) {
            Ok(leaf) if leaf.certificate != shown => match renewed(&leaf) {
                Ok(()) => {
                    tracing::info!(certificate = name, "renewed");
                    shown = leaf.certificate;
                }
                Err(error) => {
                    tracing::error!(certificate = name, %error, "the renewed certificate cannot be used")
                }
            },
            Ok(_) => {}
            Err(error) => tracing::error!(certificate = name, %error, "cannot be renewed"),
        }
    }
}

/// A configuration that renewal can swap.
pub fn shared(config: rustls::ServerConfig) -> Arc<ArcSwap<rustls::ServerConfig>> {
    Arc::new(ArcSwap::from_pointee(config))
}
