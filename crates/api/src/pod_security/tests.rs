use super::*;
use serde_json::{Value, json};

fn judged(standard: Standard, annotations: Value, spec: Value) -> String {
    let annotations: BTreeMap<String, String> = serde_json::from_value(annotations).unwrap();
    let spec: PodSpec = serde_json::from_value(spec).unwrap();
    evaluate(standard, Some(&annotations), &spec).to_string()
}

fn at(level: Level, minor: u32) -> Standard {
    Standard {
        level,
        version: Version::Minor(minor),
    }
}

const BASELINE: Standard = Standard {
    level: Level::Baseline,
    version: Version::Latest,
};
const RESTRICTED: Standard = Standard {
    level: Level::Restricted,
    version: Version::Latest,
};

/// A pod that meets everything, with changes to its container's security context and to its spec.
fn hardened(security: Value, spec: Value) -> Value {
    let mut own = json!({"allowPrivilegeEscalation": false, "runAsNonRoot": true,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}});
    json_merge(&mut own, security);
    let mut pod = json!({"containers": [{"name": "a", "image": "i", "securityContext": own}]});
    json_merge(&mut pod, spec);
    pod
}

fn json_merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}

#[test]
fn the_restricted_level_names_every_fault_of_a_plain_pod() {
    let plain = json!({"containers": [{"name": "a"}, {"name": "b"}]});
    assert_eq!(judged(BASELINE, json!({}), plain.clone()), "");
    assert_eq!(
        judged(RESTRICTED, json!({}), plain.clone()),
        "allowPrivilegeEscalation != false (containers \"a\", \"b\" must set securityContext.allowPrivilegeEscalation=false), \
         unrestricted capabilities (containers \"a\", \"b\" must set securityContext.capabilities.drop=[\"ALL\"]), \
         runAsNonRoot != true (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true), \
         seccompProfile (pod or containers \"a\", \"b\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")"
    );
    // The older the version, the fewer the rules.
    assert_eq!(
        judged(at(Level::Restricted, 7), json!({}), plain),
        "runAsNonRoot != true (pod or containers \"a\", \"b\" must set securityContext.runAsNonRoot=true)"
    );
    assert_eq!(
        judged(RESTRICTED, json!({}), hardened(json!({}), json!({}))),
        ""
    );
}

#[test]
fn baseline_rules() {
    let security = |value: Value| json!({"containers": [{"name": "a", "securityContext": value}]});
    let table: &[(Value, &str)] = &[
        (
            json!({"containers": [{"name": "a"}], "hostNetwork": true, "hostPID": true, "hostIPC": true}),
            "host namespaces (hostNetwork=true, hostPID=true, hostIPC=true)",
        ),
        (
            security(json!({"capabilities": {"add": ["NET_ADMIN", "CHOWN", "BPF"]}})),
            "non-default capabilities (container \"a\" must not include \"BPF\", \"NET_ADMIN\" in securityContext.capabilities.add)",
        ),
        (
            json!({"containers": [], "volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
            "hostPath volumes (volume \"v\")",
        ),
        (
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 1, "hostPort": 9}, {"containerPort": 2, "hostPort": 10}]}]}),
            "hostPort (container \"a\" uses hostPorts 10, 9)",
        ),
        (
            json!({"containers": [{"name": "b", "livenessProbe": {"httpGet": {"port": 1, "host": "h"}},
                "lifecycle": {"preStop": {"tcpSocket": {"port": 1, "host": "g"}}}}],
                "initContainers": [{"name": "c", "startupProbe": {"tcpSocket": {"port": 1, "host": "h"}}}]}),
            "probe or lifecycle host (containers \"b\", \"c\" use probe or lifecycle hosts \"g\", \"h\")",
        ),
        (
            security(json!({"privileged": true})),
            "privileged (container \"a\" must not set securityContext.privileged=true)",
        ),
        (
            security(json!({"procMount": "Unmasked"})),
            "procMount (container \"a\" must not set securityContext.procMount to \"Unmasked\")",
        ),
        (
            json!({"containers": [{"name": "a", "securityContext": {"seLinuxOptions": {"type": "x", "user": "u"}}}],
                "securityContext": {"seLinuxOptions": {"role": "r"}}}),
            "seLinuxOptions (pod and container \"a\" set forbidden securityContext.seLinuxOptions: type \"x\"; user may not be set; role may not be set)",
        ),
        (
            security(json!({"seccompProfile": {"type": "Unconfined"}})),
            "seccompProfile (container \"a\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
        ),
        (
            json!({"containers": [], "securityContext": {"sysctls": [{"name": "b", "value": "1"}, {"name": "net.ipv4.tcp_wmem", "value": "1"}, {"name": "a", "value": "1"}]}}),
            "forbidden sysctls (b, a)",
        ),
        (
            json!({"containers": [{"name": "a", "securityContext": {"windowsOptions": {"hostProcess": true}}}],
                "securityContext": {"windowsOptions": {"hostProcess": true}}}),
            "hostProcess (pod and container \"a\" must not set securityContext.windowsOptions.hostProcess=true)",
        ),
        (
            json!({"containers": [{"name": "a", "securityContext": {"appArmorProfile": {"type": "Unconfined"}}}]}),
            "forbidden AppArmor profile (container \"a\" must not set AppArmor profile type to \"Unconfined\")",
        ),
    ];
    for (spec, wanted) in table {
        assert_eq!(judged(BASELINE, json!({}), spec.clone()), *wanted);
        assert_eq!(judged(Standard::PRIVILEGED, json!({}), spec.clone()), "");
    }
    let unmasked = json!({"hostUsers": false, "containers": [{"name": "a", "securityContext": {"procMount": "Unmasked"}}]});
    assert_eq!(judged(BASELINE, json!({}), unmasked.clone()), "");
    assert!(judged(RESTRICTED, json!({}), unmasked.clone()).contains("procMount"));
    assert!(judged(at(Level::Baseline, 34), json!({}), unmasked).contains("procMount"));
}

#[test]
fn annotations_of_old_profiles() {
    let pod = json!({"containers": [{"name": "a"}]});
    let app_armor = "container.apparmor.security.beta.kubernetes.io/a";
    assert_eq!(
        judged(BASELINE, json!({app_armor: "unconfined"}), pod.clone()),
        "forbidden AppArmor profile (annotation must not set AppArmor profile type to \"container.apparmor.security.beta.kubernetes.io/a=\"unconfined\"\")"
    );
    assert_eq!(
        judged(BASELINE, json!({app_armor: "localhost/x"}), pod.clone()),
        ""
    );
    let seccomp = json!({"seccomp.security.alpha.kubernetes.io/pod": "unconfined",
        "container.seccomp.security.alpha.kubernetes.io/a": "docker/default"});
    assert_eq!(
        judged(at(Level::Baseline, 18), seccomp.clone(), pod.clone()),
        "seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod=\"unconfined\")"
    );
    assert_eq!(judged(at(Level::Baseline, 19), seccomp, pod), "");
}

#[test]
fn restricted_rules() {
    let table: &[(Value, Value, &str)] = &[
        (
            json!({"capabilities": {"drop": ["ALL"], "add": ["CHOWN", "NET_BIND_SERVICE"]}}),
            json!({}),
            "unrestricted capabilities (container \"a\" must not include \"CHOWN\" in securityContext.capabilities.add)",
        ),
        (
            json!({"runAsNonRoot": false}),
            json!({"securityContext": {"runAsNonRoot": true}}),
            "runAsNonRoot != true (container \"a\" must not set securityContext.runAsNonRoot=false)",
        ),
        (
            json!({"runAsUser": 0}),
            json!({"securityContext": {"runAsUser": 0}}),
            "runAsUser=0 (pod and container \"a\" must not set runAsUser=0)",
        ),
        (
            json!({"seccompProfile": null}),
            json!({"securityContext": {"seccompProfile": {"type": "Localhost"}}}),
            "",
        ),
        (
            json!({}),
            json!({"volumes": [{"name": "x", "nfs": {"server": "s", "path": "/"}}, {"name": "y", "hostPath": {"path": "/"}},
                {"name": "z", "emptyDir": {}}]}),
            "restricted volume types (volumes \"x\", \"y\" use restricted volume types \"hostPath\", \"nfs\")",
        ),
        (
            json!({"runAsUser": 0, "runAsNonRoot": null}),
            json!({"hostUsers": false}),
            "",
        ),
        (
            json!({"allowPrivilegeEscalation": null, "capabilities": null, "seccompProfile": null}),
            json!({"os": {"name": "windows"}}),
            "",
        ),
    ];
    for (security, spec, wanted) in table {
        let pod = hardened(security.clone(), spec.clone());
        assert_eq!(judged(RESTRICTED, json!({}), pod), *wanted);
    }
}

#[test]
fn labels_make_a_policy() {
    let of = |pairs: &[(&str, &str)]| {
        let labels = pairs
            .iter()
            .map(|(name, value)| (format!("{PREFIX}{name}"), (*value).to_owned()))
            .collect();
        let (policy, errors) = Policy::of_labels(&labels, Policy::default());
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let Policy {
            enforce,
            audit,
            warn,
        } = policy;
        (format!("{enforce} {audit} {warn}"), errors)
    };
    let plain = |text: &str| (text.to_owned(), Vec::new());
    assert_eq!(
        of(&[]),
        plain("privileged:latest privileged:latest privileged:latest")
    );
    assert_eq!(
        of(&[("enforce", "baseline"), ("enforce-version", "v1.20")]),
        plain("baseline:v1.20 privileged:latest baseline:v1.20")
    );
    assert_eq!(
        of(&[
            ("enforce", "restricted"),
            ("warn", "privileged"),
            ("audit", "baseline")
        ]),
        plain("restricted:latest baseline:latest privileged:latest")
    );
    let (policy, errors) = of(&[
        ("enforce", "x"),
        ("warn-version", "1.2"),
        ("audit-version", "v1.02"),
    ]);
    assert_eq!(
        policy,
        "restricted:latest privileged:latest privileged:latest"
    );
    assert_eq!(
        errors,
        [
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"x\": must be one of privileged, baseline, restricted",
            "metadata.labels[pod-security.kubernetes.io/audit-version]: Invalid value: \"v1.02\": must be \"latest\" or \"v1.x\"",
            "metadata.labels[pod-security.kubernetes.io/warn-version]: Invalid value: \"1.2\": must be \"latest\" or \"v1.x\"",
        ]
    );
}

#[test]
fn pods_that_a_new_standard_refuses_are_told_in_groups() {
    let broken = |reason: &'static str| {
        Violations(vec![Violation {
            reason,
            detail: "where".into(),
        }])
    };
    let pods = [
        ("web-2".to_owned(), broken("privileged")),
        ("web-1".to_owned(), broken("privileged")),
        ("good".to_owned(), Violations::default()),
        ("one".to_owned(), broken("hostPort")),
    ];
    assert_eq!(
        warnings_of_pods("n", BASELINE, &pods, 3),
        [
            "new PodSecurity enforce level only checked against the first 4 of 7 existing pods",
            "existing pods in namespace \"n\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "one: hostPort",
            "web-1 (and 1 other pod): privileged",
        ]
    );
    assert!(warnings_of_pods("n", BASELINE, &pods[2..3], 0).is_empty());
}
