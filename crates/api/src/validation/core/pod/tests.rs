//! Tables over whole pods: what is said, where, and in which order.

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::*;

fn pod(spec: Value) -> Pod {
    with_meta(json!({"name": "web", "namespace": "default"}), spec)
}

fn with_meta(metadata: Value, spec: Value) -> Pod {
    let document = json!({"metadata": metadata, "spec": spec});
    let mut pod: Pod = serde_json::from_value(document).unwrap_or_default();
    crate::defaults::core::default_pod(&mut pod);
    pod
}

fn texts(errors: &ErrorList) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

fn container(more: Value) -> Value {
    let mut container = json!({"name": "web", "image": "web:1"});
    if let (Some(container), Value::Object(more)) = (container.as_object_mut(), more) {
        container.extend(more);
    }
    container
}

fn spec(more: Value) -> Value {
    let mut spec = json!({"containers": [container(json!({}))]});
    if let (Some(spec), Value::Object(more)) = (spec.as_object_mut(), more) {
        spec.extend(more);
    }
    spec
}

fn check(table: &[(Value, &[&str])]) {
    for (spec, expected) in table {
        assert_eq!(
            texts(&validate_pod(&pod(spec.clone()))),
            *expected,
            "{spec}"
        );
    }
}

fn check_containers(table: &[(Value, &[&str])]) {
    for (more, expected) in table {
        let spec = json!({"containers": [container(more.clone())]});
        assert_eq!(texts(&validate_pod(&pod(spec))), *expected, "{more}");
    }
}

#[test]
fn containers() {
    check(&[
        (spec(json!({})), &[]),
        (json!({}), &["spec.containers: Required value"]),
        (
            json!({"containers": [{"name": "Web"}, {"image": "x"}]}),
            &[
                "spec.containers[0].name: Invalid value: \"Web\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                "spec.containers[0].image: Required value",
                "spec.containers[1].name: Required value",
            ],
        ),
        (
            json!({"containers": [container(json!({})), container(json!({}))]}),
            &["spec.containers[1].name: Duplicate value: \"web\""],
        ),
        (
            spec(
                json!({"initContainers": [{"name": "init", "image": "x", "readinessProbe": {"exec": {"command": ["true"]}}}]}),
            ),
            &[
                "spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
            ],
        ),
    ]);
    check_containers(&[
        (
            json!({"image": " web:1"}),
            &[
                "spec.containers[0].image: Invalid value: \" web:1\": must not have leading or trailing whitespace",
            ],
        ),
        (
            json!({"imagePullPolicy": "Sometimes"}),
            &[
                "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
            ],
        ),
        (
            json!({"ports": [{"containerPort": 0}, {"containerPort": 70000, "protocol": "HTTP", "name": "UP"}]}),
            &[
                "spec.containers[0].ports[0].containerPort: Required value",
                "spec.containers[0].ports[1].name: Invalid value: \"UP\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                "spec.containers[0].ports[1].name: Invalid value: \"UP\": must contain at least one letter (a-z)",
                "spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
                "spec.containers[0].ports[1].protocol: Unsupported value: \"HTTP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
            ],
        ),
        (
            json!({"ports": [{"containerPort": 80, "hostPort": 80}, {"containerPort": 81, "hostPort": 80}]}),
            &["spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//80\""],
        ),
    ]);
}

#[test]
fn environment() {
    check_containers(&[
        (
            json!({"env": [{"name": ""}, {"name": "A=B"}, {"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}),
            &[
                "spec.containers[0].env[0].name: Required value",
                "spec.containers[0].env[1].name: Invalid value: \"A=B\": a valid environment variable name must consist only of printable ASCII characters other than '='",
                "spec.containers[0].env[2].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
            ],
        ),
        (
            json!({"env": [
                {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.odd"}}},
                {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}},
                {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}}},
                {"name": "D", "valueFrom": {}}
            ]}),
            &[
                "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"spec.odd\": error converting fieldPath: field label not supported: spec.odd",
                "spec.containers[0].env[1].valueFrom.fieldRef.fieldPath: Unsupported value: \"status.phase\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
                "spec.containers[0].env[2].valueFrom.resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the cpu resource",
                "spec.containers[0].env[3].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
            ],
        ),
    ]);
}

#[test]
fn probes_and_hooks() {
    check_containers(&[
        (
            json!({"livenessProbe": {"successThreshold": 2, "exec": {}}}),
            &[
                "spec.containers[0].livenessProbe.exec.command: Required value",
                "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
            ],
        ),
        (
            json!({"readinessProbe": {"httpGet": {"port": "http-port-name-long", "scheme": "FTP"}, "tcpSocket": {"port": 80}, "periodSeconds": -1}}),
            &[
                "spec.containers[0].readinessProbe.httpGet.port: Invalid value: \"http-port-name-long\": must be no more than 15 characters",
                "spec.containers[0].readinessProbe.httpGet.scheme: Unsupported value: \"FTP\": supported values: \"HTTP\", \"HTTPS\"",
                "spec.containers[0].readinessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
                "spec.containers[0].readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
            ],
        ),
        (
            json!({"startupProbe": {}}),
            &["spec.containers[0].startupProbe: Required value: must specify a handler type"],
        ),
        (
            json!({"lifecycle": {"preStop": {"sleep": {"seconds": 60}}}}),
            &[
                "spec.containers[0].lifecycle.preStop.sleep: Invalid value: 60: must be non-negative and less than terminationGracePeriodSeconds (30)",
            ],
        ),
    ]);
}

#[test]
fn resources() {
    check_containers(&[
        (
            json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2", "memory": "-1"}}}),
            &[
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
                "spec.containers[0].resources.requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0",
            ],
        ),
        (
            json!({"resources": {"requests": {"example.com/gpu": "1", "storage": "1Gi"}}}),
            &[
                "spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources",
                "spec.containers[0].resources.requests[storage]: Invalid value: \"storage\": must be a standard resource for containers",
            ],
        ),
        (
            json!({"resources": {"limits": {"hugepages-2Mi": "3Mi"}}}),
            &[
                "spec.containers[0].resources.limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
                "spec.containers[0].resources.requests[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
                "spec.containers[0].resources: Forbidden: HugePages require cpu or memory",
            ],
        ),
    ]);
}

#[test]
fn volumes() {
    check(&[
        (
            spec(json!({"volumes": [
                {"name": "a", "emptyDir": {}, "hostPath": {"path": "/x"}},
                {"name": "b", "configMap": {"items": [{"key": "k", "path": "../k"}]}},
                {"name": "c", "secret": {"secretName": "s", "defaultMode": 512}},
                {"name": "d", "hostPath": {"path": "/a/../b", "type": "Odd"}}
            ]})),
            &[
                "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
                "spec.volumes[1].configMap.name: Required value",
                "spec.volumes[1].configMap.items[0].path: Invalid value: \"../k\": must not contain '..'",
                "spec.volumes[2].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
                "spec.volumes[3].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
                "spec.volumes[3].hostPath.type: Unsupported value: \"Odd\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
            ],
        ),
        (
            json!({"containers": [container(json!({"volumeMounts": [
                {"name": "data", "mountPath": "/data"},
                {"name": "none", "mountPath": "/data"},
                {"name": "data", "mountPath": "/more", "mountPropagation": "Bidirectional", "subPath": "/x"}
            ]}))], "volumes": [{"name": "data"}]}),
            &[
                "spec.containers[0].volumeMounts[1].name: Not found: \"none\"",
                "spec.containers[0].volumeMounts[1].mountPath: Invalid value: \"/data\": must be unique",
                "spec.containers[0].volumeMounts.subPath: Invalid value: \"/x\": must be a relative path",
                "spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
            ],
        ),
        (
            spec(
                json!({"serviceAccountName": "robot", "volumes": [{"name": "t", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": 60}},
                    {"secret": {"name": "s", "items": [{"key": "a", "path": "p"}, {"key": "b", "path": "p"}]}}
                ]}}]}),
            ),
            &[
                "spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 60: may not specify a duration less than 10 minutes",
                "spec.volumes[0].projected: Invalid value: \"s\": conflicting duplicate paths",
            ],
        ),
        (
            spec(
                json!({"volumes": [{"name": "e", "ephemeral": {"volumeClaimTemplate": {"metadata": {"name": "x"}, "spec": {}}}}]}),
            ),
            &[
                "spec.volumes[0].ephemeral.volumeClaimTemplate.metadata.name: Forbidden: cannot be set",
                "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.accessModes: Required value: at least 1 access mode is required",
                "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.resources[storage]: Required value",
            ],
        ),
    ]);
}

#[test]
fn security() {
    check(&[
        (
            spec(
                json!({"securityContext": {"runAsUser": -1, "sysctls": [{"name": "Net", "value": "1"}, {"name": "net.core.x", "value": "1"}]}, "hostNetwork": true}),
            ),
            &[
                "spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                "spec.securityContext.sysctls[0].name: Invalid value: \"Net\": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
                "spec.securityContext.sysctls[1].name: Invalid value: \"net.core.x\": may not be specified when 'hostNetwork' is true",
            ],
        ),
        (
            spec(
                json!({"securityContext": {"seccompProfile": {"type": "Localhost"}}, "hostUsers": false, "hostPID": true}),
            ),
            &[
                "spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
                "spec.HostPID: Forbidden: when `hostUsers` is false",
            ],
        ),
    ]);
    check_containers(&[(
        json!({"securityContext": {"allowPrivilegeEscalation": false, "privileged": true}}),
        &[
            "spec.containers[0].securityContext: Invalid value: {\"Capabilities\":null,\"Privileged\":true,\"SELinuxOptions\":null,\"WindowsOptions\":null,\"RunAsUser\":null,\"RunAsGroup\":null,\"RunAsNonRoot\":null,\"ReadOnlyRootFilesystem\":null,\"AllowPrivilegeEscalation\":false,\"ProcMount\":null,\"SeccompProfile\":null,\"AppArmorProfile\":null}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        ],
    )]);
}

#[test]
fn scheduling() {
    check(&[
        (
            spec(
                json!({"tolerations": [{"operator": "Equal"}, {"key": "a", "operator": "Exists", "value": "x", "tolerationSeconds": 1, "effect": "NoSchedule"}]}),
            ),
            &[
                "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
                "spec.tolerations[1].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when `tolerationSeconds` is set",
                "spec.tolerations[1].operator: Invalid value: \"x\": value must be empty when `operator` is 'Exists'",
            ],
        ),
        (
            spec(
                json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}},
                "podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 101, "podAffinityTerm": {"topologyKey": "zone"}}]}}}),
            ),
            &[
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term",
                "spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101: must be in the range 1-100",
            ],
        ),
        (
            spec(json!({"topologySpreadConstraints": [
                {"maxSkew": 0, "topologyKey": "", "whenUnsatisfiable": "Maybe"},
                {"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "ScheduleAnyway", "minDomains": 1}
            ]})),
            &[
                "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
                "spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty",
                "spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: \"Maybe\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
                "spec.topologySpreadConstraints[1].minDomains: Invalid value: 1: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
            ],
        ),
        (
            spec(json!({"schedulingGates": [{"name": "a"}, {"name": "a"}], "nodeName": "n"})),
            &[
                "spec.schedulingGates[1]: Duplicate value: \"a\"",
                "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
            ],
        ),
    ]);
}

#[test]
fn names_and_dns() {
    check(&[
        (
            spec(json!({"dnsPolicy": "None"})),
            &["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
        ),
        (
            spec(
                json!({"dnsConfig": {"nameservers": ["1.2.3"], "searches": ["ok_here.", "Bad"]}, "hostname": "a.b", "restartPolicy": "Maybe"}),
            ),
            &[
                "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"OnFailure\", \"Never\"",
                "spec.dnsConfig.nameservers[0]: Invalid value: \"1.2.3\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                "spec.dnsConfig.searches[1]: Invalid value: \"Bad\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')",
                "spec.hostname: Invalid value: \"a.b\": must not contain dots",
            ],
        ),
    ]);
}

#[test]
fn updates() {
    let old = pod(spec(
        json!({"tolerations": [{"key": "a", "operator": "Exists"}]}),
    ));
    let mut new = old.clone();
    if let Some(spec) = new.spec.as_mut() {
        spec.containers[0].image = Some("web:2".into());
    }
    assert!(
        validate_pod_update(&new, &old).is_empty(),
        "images may change"
    );
    if let Some(spec) = new.spec.as_mut() {
        spec.tolerations = None;
    }
    assert_eq!(
        texts(&validate_pod_update(&new, &old)),
        [
            "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"
        ]
    );
    let mut new = old.clone();
    if let Some(spec) = new.spec.as_mut() {
        spec.hostname = Some("other".into());
    }
    let errors = texts(&validate_pod_update(&new, &old));
    assert_eq!(errors.len(), 1);
    assert!(
        errors[0].starts_with("spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n"),
        "{}",
        errors[0]
    );
    assert!(
        errors[0].contains("+  \"hostname\": \"other\""),
        "{}",
        errors[0]
    );
}

#[test]
fn statuses() {
    let of = |state: Value| -> Pod {
        let document = json!({"metadata": {"name": "web", "namespace": "default"},
            "spec": {"restartPolicy": "Never", "containers": [container(json!({}))]},
            "status": {"containerStatuses": [{"name": "web", "image": "", "imageID": "", "ready": false, "restartCount": 0, "state": state}]}});
        let mut pod: Pod = serde_json::from_value(document).unwrap_or_default();
        crate::defaults::core::default_pod(&mut pod);
        pod
    };
    let ended = of(json!({"terminated": {"exitCode": 1}}));
    let running = of(json!({"running": {}}));
    assert_eq!(
        texts(&validate_pod_status_update(&running, &ended)),
        [
            "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"
        ]
    );
    assert!(validate_pod_status_update(&ended, &running).is_empty());
}

#[test]
fn resizes() {
    let of = |cpu: &str, image: &str| {
        pod(
            json!({"containers": [{"name": "web", "image": image, "resources": {"requests": {"cpu": cpu}}}]}),
        )
    };
    assert!(validate_pod_resize(&of("2", "web:1"), &of("1", "web:1")).is_empty());
    assert_eq!(
        texts(&validate_pod_resize(&of("2", "web:2"), &of("1", "web:1"))),
        ["spec: Forbidden: only cpu and memory resources are mutable"]
    );
    let none = pod(json!({"containers": [container(json!({}))]}));
    assert_eq!(
        texts(&validate_pod_resize(&none, &of("1", "web:1"))),
        [
            "spec: Invalid value: \"\": Pod QOS Class may not change as a result of resizing",
            "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
        ]
    );
}

#[test]
fn quality_of_service() {
    for (resources, class) in [
        (json!({}), "BestEffort"),
        (json!({"requests": {"cpu": "1"}}), "Burstable"),
        (
            json!({"limits": {"cpu": "1", "memory": "1Gi"}}),
            "Guaranteed",
        ),
        (json!({"limits": {"cpu": "1"}}), "Burstable"),
    ] {
        let pod = pod(json!({"containers": [container(json!({"resources": resources}))]}));
        let spec = pod.spec.unwrap_or_default();
        assert_eq!(qos_class(&spec), class, "{resources}");
    }
}

#[test]
fn warnings() {
    let pod = with_meta(
        json!({"name": "a.b", "namespace": "default"}),
        json!({"terminationGracePeriodSeconds": -1, "nodeSelector": {"beta.kubernetes.io/os": "linux"},
        "containers": [container(json!({
            "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}, {"name": "B", "value": "x"}, {"name": "B", "value": "$(B):y"}],
            "ports": [{"containerPort": 80, "name": "http"}, {"containerPort": 80, "name": "http"}]
        }))]}),
    );
    assert_eq!(
        warnings_pod(&pod, None),
        [
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]",
            "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
            "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
            "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
            "spec.containers[0].ports[1]: duplicate port name \"http\" with spec.containers[0].ports[0], services and probes that select ports by name will use spec.containers[0].ports[0]",
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
        ]
    );
    assert!(warnings_pod(&pod, Some(&pod)).is_empty());
}
