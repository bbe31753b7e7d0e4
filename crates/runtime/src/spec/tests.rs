use super::*;

const ALL: u64 = (1 << 41) - 1;

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

fn planned(config: &cri::ContainerConfig, image: &Execution) -> Result<Planned, PlanError> {
    planned_with(config, image, None)
}

fn planned_with(
    config: &cri::ContainerConfig,
    image: &Execution,
    seccomp: Option<PathBuf>,
) -> Result<Planned, PlanError> {
    Plan {
        id: "c1",
        config,
        sandbox: &cri::PodSandboxConfig::default(),
        image,
        identity: &Identity {
            uid: 7,
            gid: 8,
            groups: vec![9],
        },
        hostname: "web-0",
        rootfs: Path::new("/run/x/rootfs"),
        cgroup: "/kubepods/c1",
        files: &PodFiles {
            hostname: "/pod/hostname".into(),
            resolv_conf: "/pod/resolv.conf".into(),
            shm: "/pod/shm".into(),
        },
        pid_namespace_of: None,
        devices: &[],
        cgroup_v1_mounts: &texts(&["memory"]),
        all_capabilities: ALL,
        seccomp,
    }
    .make()
}

fn image() -> Execution {
    Execution {
        entrypoint: texts(&["/entry"]),
        cmd: texts(&["default"]),
        env: texts(&["A=image", "PATH=/image"]),
        working_dir: "/srv".into(),
        ..Execution::default()
    }
}

#[test]
fn commands_follow_kubernetes_rules() {
    let table: [(&[&str], &[&str], &[&str]); 4] = [
        (&[], &[], &["/entry", "default"]),
        (&[], &["x"], &["/entry", "x"]),
        (&["sh"], &[], &["sh"]),
        (&["sh"], &["-c", "y"], &["sh", "-c", "y"]),
    ];
    for (command, args, expected) in table {
        let config = cri::ContainerConfig {
            command: texts(command),
            args: texts(args),
            ..Default::default()
        };
        let spec = planned(&config, &image()).unwrap().spec;
        assert_eq!(spec["process"]["args"], json!(expected));
    }
    assert_eq!(
        planned(&cri::ContainerConfig::default(), &Execution::default()),
        Err(PlanError::NoCommand)
    );
}

#[test]
fn the_pod_overrides_the_images_environment() {
    let config = cri::ContainerConfig {
        envs: vec![
            cri::KeyValue {
                key: "A".into(),
                value: b"pod".to_vec(),
            },
            cri::KeyValue {
                key: "B".into(),
                value: b"x=y".to_vec(),
            },
        ],
        ..Default::default()
    };
    let planned = planned(&config, &image()).unwrap();
    assert_eq!(
        planned.spec["process"]["env"],
        json!(["PATH=/image", "HOSTNAME=web-0", "A=pod", "B=x=y"])
    );
    assert_eq!(planned.cwd, "/srv");
    assert_eq!(
        planned.spec["process"]["user"],
        json!({"uid": 7, "gid": 8, "additionalGids": [9]})
    );
}

fn mount(container: &str, host: &str) -> cri::Mount {
    cri::Mount {
        container_path: container.into(),
        host_path: host.into(),
        ..Default::default()
    }
}

fn destinations(spec: &Value) -> Vec<String> {
    spec["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| mount["destination"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn mounts_are_ordered_and_replaced() {
    let config = cri::ContainerConfig {
        mounts: vec![
            mount("/data/inner/deep", "/v/1"),
            mount("/data", "/v/2"),
            mount("/etc/hostname", "/v/3"),
            mount("etc/relative", "/v/4"),
        ],
        ..Default::default()
    };
    let spec = planned(&config, &image()).unwrap().spec;
    let all = destinations(&spec);
    let at = |path: &str| all.iter().position(|p| p == path).unwrap();
    assert!(at("/data") < at("/data/inner/deep"));
    assert!(at("/dev") < at("/dev/shm"));
    assert!(at("/sys") < at("/sys/fs/cgroup"));
    assert_eq!(all.iter().filter(|p| *p == "/etc/hostname").count(), 1);
    assert!(all.contains(&"/etc/relative".to_owned()));
    let hostname = &spec["mounts"][at("/etc/hostname")];
    assert_eq!(hostname["source"], "/v/3");
}

#[test]
fn bad_mounts_are_refused() {
    for (container, host) in [
        ("/a/../b", "/v"),
        ("", "/v"),
        ("/", "/v"),
        ("/a", "relative"),
    ] {
        let config = cri::ContainerConfig {
            mounts: vec![mount(container, host)],
            ..Default::default()
        };
        assert!(
            matches!(planned(&config, &image()), Err(PlanError::Mount { .. })),
            "{container} {host}"
        );
    }
}

#[test]
fn propagation_is_as_wide_as_asked() {
    let mut config = cri::ContainerConfig {
        mounts: vec![mount("/a", "/v")],
        ..Default::default()
    };
    let of = |config: &cri::ContainerConfig| {
        planned(config, &image()).unwrap().spec["linux"]["rootfsPropagation"].clone()
    };
    assert_eq!(of(&config), "private");
    config.mounts[0].set_propagation(cri::MountPropagation::PropagationHostToContainer);
    assert_eq!(of(&config), "slave");
    config.mounts[0].set_propagation(cri::MountPropagation::PropagationBidirectional);
    assert_eq!(of(&config), "shared");
}

fn secured(security: cri::LinuxContainerSecurityContext) -> cri::ContainerConfig {
    cri::ContainerConfig {
        linux: Some(cri::LinuxContainerConfig {
            resources: None,
            security_context: Some(security),
        }),
        ..Default::default()
    }
}

#[test]
fn privileged_containers_see_everything() {
    let config = secured(cri::LinuxContainerSecurityContext {
        privileged: true,
        masked_paths: texts(&["/proc/kcore"]),
        ..Default::default()
    });
    let spec = planned(&config, &image()).unwrap().spec;
    assert_eq!(
        spec["process"]["capabilities"]["effective"]
            .as_array()
            .unwrap()
            .len(),
        41
    );
    assert_eq!(spec["linux"]["maskedPaths"], json!([]));
    assert_eq!(
        spec["linux"]["resources"]["devices"],
        json!([{"allow": true, "access": "rwm"}])
    );
    let types: Vec<_> = spec["linux"]["namespaces"].as_array().unwrap().clone();
    assert!(!types.contains(&json!({"type": "cgroup"})));
}

#[test]
fn limits_of_a_v1_container_are_out_of_its_reach() {
    let config = secured(cri::LinuxContainerSecurityContext {
        readonly_paths: texts(&["/proc/sys"]),
        ..Default::default()
    });
    let spec = planned(&config, &image()).unwrap().spec;
    assert_eq!(
        spec["linux"]["readonlyPaths"],
        json!(["/proc/sys", "/sys/fs/cgroup/memory"])
    );
}

#[test]
fn seccomp_needs_a_capability_for_a_moment() {
    let finish = |no_new_privs| {
        let config = secured(cri::LinuxContainerSecurityContext {
            no_new_privs,
            ..Default::default()
        });
        planned_with(&config, &image(), Some("/bpf".into())).unwrap()
    };
    let with_sys_admin = |planned: &Planned| {
        planned.spec["process"]["capabilities"]["permitted"]
            .as_array()
            .unwrap()
            .contains(&json!("CAP_SYS_ADMIN"))
    };
    let plain = finish(false);
    assert!(with_sys_admin(&plain));
    let masks = plain.finish.capabilities.unwrap();
    assert_eq!(masks.permitted & capabilities::SYS_ADMIN, 0);
    let strict = finish(true);
    assert!(!with_sys_admin(&strict));
    assert_eq!(strict.finish.capabilities, None);
}

#[test]
fn resources_are_passed_on() {
    let config = cri::ContainerConfig {
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(cri::LinuxContainerResources {
                cpu_shares: 512,
                cpu_quota: 50_000,
                cpu_period: 100_000,
                memory_limit_in_bytes: 1 << 20,
                oom_score_adj: 999,
                ..Default::default()
            }),
            security_context: None,
        }),
        ..Default::default()
    };
    let spec = planned(&config, &image()).unwrap().spec;
    assert_eq!(spec["process"]["oomScoreAdj"], 999);
    assert_eq!(
        spec["linux"]["resources"]["cpu"],
        json!({"shares": 512, "quota": 50_000, "period": 100_000})
    );
    assert_eq!(
        spec["linux"]["resources"]["memory"],
        json!({"limit": 1 << 20})
    );
}
