//! Who users are, what they may do, and how they get certificates and tokens, with the kubectl of three versions.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;

use crate::cluster::{Cluster, cannot_run, eventually, run, text};

const VERSIONS: [&str; 3] = ["kubectl", "kubectl.1.28", "kubectl.1.33"];
const LIVE_ONLY: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\nanonymous:\n  enabled: true\n  conditions: [{path: /livez}, {path: /readyz}]\n";
const EVERYWHERE: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\nanonymous: {enabled: true}\n";

/// A cluster, and a user of it who shows something else than the administrator's certificate.
struct Users {
    cluster: Cluster,
    files: tempfile::TempDir,
    server: String,
}

impl Users {
    fn start() -> Self {
        let files = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = files.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let tokens = file("tokens.csv", "jane-s3cret,jane,7,\"dev,ops\"\n");
        let anonymous = file("authentication.yaml", LIVE_ONLY);
        let flags = [
            "--token-auth-file",
            &tokens,
            "--authentication-config",
            &anonymous,
        ];
        let cluster = Cluster::start_with("who", &flags);
        let path = "jsonpath={.clusters[0].cluster.server}";
        let server = cluster.ask(&["config", "view", "--raw", "-o", path]);
        Self {
            cluster,
            files,
            server,
        }
    }

    /// kubectl's output, its errors included, without the administrator's kubeconfig.
    fn as_user(&self, kubectl: &str, credentials: &[&str], arguments: &[&str]) -> String {
        let authority = self.cluster.data().join("pki/ca.crt");
        let output = run(
            Command::new(format!("/usr/lib/google-cloud-sdk/bin/{kubectl}"))
                .args(["--kubeconfig", "/dev/null", "--server", &self.server])
                .arg("--certificate-authority")
                .arg(authority)
                .args(credentials)
                .args(arguments),
        );
        text(&output)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The HTTP code of a request without credentials.
    fn code(&self, path: &str) -> String {
        let url = format!("{}{path}", self.server);
        let format = ["-sk", "-o", "/dev/null", "-w", "%{http_code}"];
        text(&run(Command::new("curl").args(format).arg(url)))
    }
}

#[test]
fn users_have_tokens_certificates_and_rights() {
    if cannot_run() {
        return;
    }
    let users = Users::start();
    tokens_of_a_file(&users);
    certificates(&users);
    tokens_of_accounts(&users);
    rights(&users);
    without_credentials(&users);
}

fn tokens_of_a_file(users: &Users) {
    for kubectl in VERSIONS {
        let jane = ["--token", "jane-s3cret"];
        let who = users.as_user(kubectl, &jane, &["auth", "whoami"]);
        assert!(
            who.contains("jane") && who.contains("[dev ops system:authenticated]"),
            "{kubectl}: {who}"
        );
        let refused = users.as_user(kubectl, &jane, &["get", "nodes"]);
        let why = "nodes is forbidden: User \"jane\" cannot list resource \"nodes\" in API group \"\" at the cluster scope";
        assert!(refused.contains(why), "{refused}");
        let unknown = users.as_user(kubectl, &["--token", "other"], &["get", "nodes"]);
        assert!(
            unknown.contains("You must be logged in to the server"),
            "{unknown}"
        );
    }
}

fn request(name: &str, group: &str) -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    let subject = &mut params.distinguished_name;
    subject.push(rcgen::DnType::CommonName, name);
    subject.push(rcgen::DnType::OrganizationName, group);
    let pem = params.serialize_request(&key).unwrap().pem().unwrap();
    let encoded = base64::engine::general_purpose::STANDARD.encode(pem);
    (encoded, key.serialize_pem())
}

fn certificates(users: &Users) {
    let cluster = &users.cluster;
    let manifest = |name: &str, request: &str, signer: &str| {
        format!(
            "apiVersion: certificates.k8s.io/v1\nkind: CertificateSigningRequest\nmetadata: {{name: {name}}}\nspec:\n  request: {request}\n  signerName: kubernetes.io/{signer}\n  expirationSeconds: 3600\n  usages: [digital signature, client auth]\n"
        )
    };
    let (asked, key) = request("mary", "dev");
    cluster.apply(&manifest("mary", &asked, "kube-apiserver-client"));
    let shown = cluster.ask(&["get", "csr", "mary"]);
    assert!(shown.contains("Pending"), "{shown}");
    cluster.ask(&["certificate", "approve", "mary"]);
    let issued = || cluster.ask(&["get", "csr", "mary", "-o", "jsonpath={.status.certificate}"]);
    eventually("mary's certificate", || !issued().is_empty());
    let pem = base64::engine::general_purpose::STANDARD
        .decode(issued())
        .unwrap();
    let certificate = users.file("mary.crt", &String::from_utf8(pem).unwrap());
    let key = users.file("mary.key", &key);
    let path = |path: &Path| path.display().to_string();
    let (certificate, key) = (path(&certificate), path(&key));
    let mary = [
        "--client-certificate",
        certificate.as_str(),
        "--client-key",
        &key,
    ];
    for kubectl in VERSIONS {
        let who = users.as_user(kubectl, &mary, &["auth", "whoami"]);
        assert!(
            who.contains("mary") && who.contains("[dev system:authenticated]"),
            "{who}"
        );
    }
    let (asked, _) = request("joe", "dev");
    cluster.apply(&manifest("joe", &asked, "kube-apiserver-client"));
    cluster.ask(&["certificate", "deny", "joe"]);
    let shown = cluster.ask(&["get", "csr", "joe"]);
    assert!(shown.contains("Denied"), "{shown}");
    // What the signer does not sign fails, however much it is approved.
    cluster.apply(&manifest("odd", &asked, "kube-apiserver-client-kubelet"));
    cluster.ask(&["certificate", "approve", "odd"]);
    let shown = || cluster.ask(&["get", "csr", "odd"]);
    eventually("the failure", || shown().contains("Approved,Failed"));
    let role = "--clusterrole=system:certificates.k8s.io:certificatesigningrequests:selfnodeclient";
    let rotation = [
        "create",
        "clusterrolebinding",
        "rotation",
        role,
        "--group=system:nodes",
    ];
    cluster.ask(&rotation);
    // A kubelet's request is approved without anybody asking, when it asks for itself.
    let (asked, _) = request("system:node:n9", "system:nodes");
    let file = users.file(
        "node.yaml",
        &manifest("node", &asked, "kube-apiserver-client-kubelet"),
    );
    let file = path(&file);
    let own = [
        "create",
        "-f",
        &file,
        "--as",
        "system:node:n9",
        "--as-group",
        "system:nodes",
    ];
    cluster.ask(&own);
    let shown = || cluster.ask(&["get", "csr", "node"]);
    eventually("the kubelet's certificate", || {
        shown().contains("Approved,Issued")
    });
}

fn tokens_of_accounts(users: &Users) {
    let cluster = &users.cluster;
    for kubectl in VERSIONS {
        let token = cluster.ask(&["create", "token", "default", "--duration", "10m"]);
        let shown = users.as_user(kubectl, &["--token", token.trim()], &["auth", "whoami"]);
        assert!(
            shown.contains("system:serviceaccount:default:default"),
            "{shown}"
        );
    }
    let token = cluster.ask(&["create", "token", "default"]);
    let bearer = ["--token", token.trim()];
    for (path, part) in [
        (
            "/.well-known/openid-configuration",
            "\"issuer\":\"https://kubernetes.default.svc.cluster.local\"",
        ),
        ("/openid/v1/jwks", "\"alg\":\"ES256\""),
    ] {
        let found = users.as_user("kubectl", &bearer, &["get", "--raw", path]);
        assert!(found.contains(part), "{found}");
    }
    cluster.apply("apiVersion: v1\nkind: Secret\ntype: kubernetes.io/service-account-token\nmetadata:\n  name: old\n  annotations: {kubernetes.io/service-account.name: default}\n");
    let path = ["get", "secret", "old", "-o", "jsonpath={.data.token}"];
    eventually("the token in the secret", || !cluster.ask(&path).is_empty());
    let token = base64::engine::general_purpose::STANDARD
        .decode(cluster.ask(&path))
        .unwrap();
    let token = String::from_utf8(token).unwrap();
    let shown = users.as_user("kubectl", &["--token", &token], &["auth", "whoami"]);
    assert!(
        shown.contains("system:serviceaccount:default:default"),
        "{shown}"
    );
    let labels = ["get", "secret", "old", "-o", "jsonpath={.metadata.labels}"];
    eventually("the day of its last use", || {
        cluster
            .ask(&labels)
            .contains("kubernetes.io/legacy-token-last-used")
    });
}

fn rights(users: &Users) {
    let cluster = &users.cluster;
    let rules = "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\nmetadata: {name: reader, namespace: default}\nrules:\n- {apiGroups: [''], resources: [pods], verbs: [get, list]}\n---\napiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: reader, namespace: default}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}\nsubjects:\n- {apiGroup: rbac.authorization.k8s.io, kind: Group, name: dev}\n";
    let file = users.file("rbac.yaml", rules).display().to_string();
    let jane = ["--token", "jane-s3cret"];
    for kubectl in VERSIONS {
        let admin = cluster
            .data()
            .join("admin.kubeconfig")
            .display()
            .to_string();
        let output = run(
            Command::new(format!("/usr/lib/google-cloud-sdk/bin/{kubectl}")).args([
                "--kubeconfig",
                &admin,
                "auth",
                "reconcile",
                "-f",
                &file,
            ]),
        );
        let said = text(&output);
        assert!(
            said.contains("role.rbac.authorization.k8s.io/reader reconciled"),
            "{said}"
        );
        let may = |arguments: &[&str]| users.as_user(kubectl, &jane, arguments);
        eventually("jane's right", || {
            may(&["auth", "can-i", "list", "pods"]).starts_with("yes")
        });
        assert!(may(&["auth", "can-i", "delete", "pods"]).starts_with("no"));
        let list = may(&["auth", "can-i", "--list"]);
        assert!(
            list.contains("pods")
                && list.contains("[get list]")
                && list.contains("selfsubjectreviews"),
            "{list}"
        );
        let acting = [
            "auth",
            "can-i",
            "list",
            "pods",
            "--as",
            "jane",
            "--as-group",
            "dev",
        ];
        assert!(cluster.ask(&acting).starts_with("yes"));
        let refused = may(&["get", "pods", "--as", "system:admin"]);
        let why = "pods is forbidden: User \"jane\" cannot impersonate-on:user-info:list resource \"pods\" in API group \"\" in the namespace \"default\"";
        assert!(refused.contains(why), "{refused}");
    }
}

fn without_credentials(users: &Users) {
    assert_eq!(users.code("/livez"), "200");
    assert_eq!(users.code("/version"), "401");
    users.file("authentication.yaml", EVERYWHERE);
    eventually("the new configuration", || users.code("/version") == "200");
    // One with mistakes changes nothing.
    users.file("authentication.yaml", "kind: Nonsense\n");
    let log = users.cluster.data().join("server.log");
    eventually("the complaint", || {
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        log.contains("the new authentication configuration is not used")
    });
    assert_eq!(users.code("/version"), "200");
    assert_eq!(users.code("/api/v1/nodes"), "403");
    let log = std::fs::read_to_string(&log).unwrap();
    assert!(!log.contains("jane-s3cret"), "a token was logged");
}
