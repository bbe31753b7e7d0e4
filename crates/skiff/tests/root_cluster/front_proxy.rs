//! Front proxies of others, which stand in the place of our own.

use std::path::Path;
use std::process::Command;

use skiff_testkit::TestCertificates;

use crate::cluster::{Cluster, cannot_run, run, text};

/// What the server says to somebody with a certificate and no headers.
fn said(cluster: &Cluster, certificate: &Path, key: &Path) -> String {
    let admin = cluster.data().join("admin.kubeconfig");
    let server = cluster.ask(&[
        "config",
        "view",
        "-o",
        "jsonpath={.clusters[0].cluster.server}",
    ]);
    let output = run(Command::new("kubectl")
        .args([
            "get",
            "--raw=/api/v1/namespaces",
            "--insecure-skip-tls-verify",
            "--kubeconfig=/dev/null",
        ])
        .args(["--server", &server, "--client-certificate"])
        .arg(certificate)
        .arg("--client-key")
        .arg(key)
        .env("KUBECONFIG", &admin));
    assert!(!output.status.success(), "{}", text(&output));
    text(&output)
}

#[test]
fn given_front_proxies_are_believed_instead_of_our_own() {
    if cannot_run() {
        return;
    }
    let given = TestCertificates::new().unwrap();
    let files = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = files.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    };
    let authority = file("ca.crt", given.authority_pem());
    let cluster = Cluster::start_with(
        "proxy",
        &[
            "--disable",
            "scheduler,controllers",
            "--requestheader-client-ca-file",
            authority.to_str().unwrap(),
            "--requestheader-allowed-names",
            "the-proxy",
        ],
    );
    let of = |name: &str| {
        let (certificate, key) = given.client(name, &[]).unwrap();
        let path = |kind: &str| format!("{name}.{kind}");
        (file(&path("crt"), &certificate), file(&path("key"), &key))
    };
    // A proxy that speaks for nobody is nobody; one of another name is refused.
    let (certificate, key) = of("the-proxy");
    let answer = said(&cluster, &certificate, &key);
    assert!(answer.contains("system:anonymous"), "{answer}");
    let (certificate, key) = of("front-proxy-client");
    let answer = said(&cluster, &certificate, &key);
    assert!(answer.contains("Unauthorized"), "{answer}");
    // Our own has no say any more: its authority is not known.
    let own = cluster.data().join("pki/front-proxy");
    let certificate = own.join("front-proxy-client.crt");
    let answer = said(&cluster, &certificate, &own.join("front-proxy-client.key"));
    assert!(!answer.contains("system:anonymous"), "{answer}");
    assert!(!answer.contains("Unauthorized"), "{answer}");
    // Others are told of both, since it is our own certificate that they are shown.
    let told = |key: &str| {
        let path = format!("jsonpath={{.data.{key}}}");
        let name = "extension-apiserver-authentication";
        cluster.ask(&["get", "configmap", "-n", "kube-system", name, "-o", &path])
    };
    assert_eq!(
        told("requestheader-allowed-names"),
        r#"["front-proxy-client","the-proxy"]"#
    );
    let authorities = told("requestheader-client-ca-file");
    assert!(authorities.contains(given.authority_pem().trim()));
    assert_eq!(authorities.matches("BEGIN CERTIFICATE").count(), 2);
}
