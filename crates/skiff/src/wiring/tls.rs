//! TLS of our servers, with certificates that are renewed while they run.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use skiff_base::{SharedClock, Shutdown};

use crate::pki::{Leaf, Pki, Subject};

/// How often certificates are looked at; they are renewed months before they end.
const RENEWAL_CHECK: Duration = Duration::from_secs(12 * 60 * 60);

/// Makes ring the process's cryptography.
pub fn use_ring() {
    // An error says that it was installed before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// A server's certificate that renewal swaps while connections come in.
#[derive(Debug)]
pub struct Renewable(ArcSwap<CertifiedKey>);

impl Renewable {
    /// Shows another certificate from now on.
    pub fn show(&self, leaf: &Leaf) -> Result<()> {
        self.0.store(Arc::new(certified(leaf)?));
        Ok(())
    }
}

impl ResolvesServerCert for Renewable {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

fn certified(leaf: &Leaf) -> Result<CertifiedKey> {
    let chain = CertificateDer::pem_slice_iter(leaf.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(leaf.key.as_bytes())?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key)?;
    Ok(CertifiedKey::new(chain, key))
}

/// A server's configuration: shows `leaf` until it is renewed, asks clients for certificates of `authority`, takes those
/// without one too.
pub fn server(leaf: &Leaf, authority: &str) -> Result<(Arc<rustls::ServerConfig>, Arc<Renewable>)> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(authority.as_bytes()) {
        roots.add(certificate?)?;
    }
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots))
        .allow_unauthenticated()
        .build()?;
    let certificate = certified(leaf).context("the server's certificate")?;
    let shown = Arc::new(Renewable(ArcSwap::from_pointee(certificate)));
    let mut config = rustls::ServerConfig::builder()
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(shown.clone());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((Arc::new(config), shown))
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

/// Whether two PEM texts begin with the same certificate.
#[must_use]
pub fn same_authority(one: &str, other: &str) -> bool {
    let first = |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).next();
    matches!((first(one), first(other)), (Some(Ok(one)), Some(Ok(other))) if one == other)
}

/// DER as PEM.
pub fn pem(label: &str, der: &[u8]) -> String {
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
    let lines: Vec<&str> = encoded
        .as_bytes()
        .chunks(64)
        .filter_map(|line| std::str::from_utf8(line).ok())
        .collect();
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        lines.join("\n")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use skiff_base::{Clock as _, SimulatedClock};

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[tokio::test]
    async fn a_server_shows_a_renewed_certificate_without_a_restart() {
        use_ring();
        let folder = tempfile::tempdir().unwrap();
        let clock = SimulatedClock::new(std::time::SystemTime::UNIX_EPOCH + 20_000 * DAY);
        let pki = Arc::new(Pki::open(folder.path(), clock.now()).unwrap());
        let subject = Subject {
            common_name: "kube-apiserver".into(),
            names: vec!["localhost".into()],
            ..Subject::default()
        };
        let leaf = pki.leaf("apiserver", &subject, clock.now()).unwrap();
        let (_, shown) = server(&leaf, &pki.authority_pem).unwrap();
        let first = shown.0.load_full();
        let (told, mut renewals) = tokio::sync::mpsc::unbounded_channel();
        let (swapped, shutdown) = (shown.clone(), Shutdown::new());
        let task = tokio::spawn(renew(
            pki,
            "apiserver",
            subject,
            clock.clone(),
            shutdown.clone(),
            move |leaf| {
                swapped.show(leaf)?;
                Ok(told.send(())?)
            },
        ));
        let mut days = 0;
        while renewals.try_recv().is_err() {
            assert!(days < 365, "the certificate ran out");
            clock.advance(DAY);
            days += 1;
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
        }
        assert!(days > 180, "renewed after {days} days already");
        assert_ne!(shown.0.load_full().cert, first.cert);
        shutdown.trigger();
        task.await.unwrap();
    }
}
