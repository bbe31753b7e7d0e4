//! Tables of environments.

use super::*;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    ConfigMapEnvSource, ConfigMapKeySelector, EnvFromSource, EnvVar, SecretKeySelector,
    ServicePort, ServiceSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

fn objects() -> Objects {
    let meta = |name: &str| ObjectMeta {
        name: Some(name.into()),
        ..Default::default()
    };
    let map = ConfigMap {
        data: Some([("k".into(), "map".into()), ("other".into(), "o".into())].into()),
        ..Default::default()
    };
    let secret = Secret {
        data: Some([("k".into(), ByteString(b"hush".to_vec()))].into()),
        ..Default::default()
    };
    let service = Service {
        metadata: meta("web"),
        spec: Some(ServiceSpec {
            cluster_ip: Some("10.96.0.9".into()),
            ports: Some(vec![ServicePort {
                port: 80,
                ..Default::default()
            }]),
            ..Default::default()
        }),
        ..Default::default()
    };
    Objects {
        config_maps: [("m".to_owned(), Arc::new(map))].into(),
        secrets: [("s".to_owned(), Arc::new(secret))].into(),
        services: vec![Arc::new(service)],
    }
}

fn literal(name: &str, value: &str) -> EnvVar {
    EnvVar {
        name: name.into(),
        value: Some(value.into()),
        value_from: None,
    }
}

fn from_map(name: &str, map: &str, key: &str, optional: bool) -> EnvVar {
    EnvVar {
        name: name.into(),
        value: None,
        value_from: Some(EnvVarSource {
            config_map_key_ref: Some(ConfigMapKeySelector {
                name: map.into(),
                key: key.into(),
                optional: Some(optional),
            }),
            ..Default::default()
        }),
    }
}

fn made(container: &Container) -> Result<BTreeMap<String, String>, EnvError> {
    let list = environment(&Source {
        pod: &Pod::default(),
        container,
        objects: &objects(),
        facts: &Facts::default(),
        files: &|_, _, _| Ok(None),
    })?;
    Ok(list.into_iter().collect())
}

fn with_env(env: Vec<EnvVar>) -> Container {
    Container {
        env: Some(env),
        ..Default::default()
    }
}

#[test]
fn values_expand_what_came_before() {
    let env = made(&with_env(vec![
        literal("A", "1"),
        literal("B", "$(A)-$(C)-$(WEB_SERVICE_HOST)"),
        literal("C", "3"),
        literal("WEB_SERVICE_PORT", "mine"),
    ]))
    .unwrap();
    assert_eq!(env["B"], "1-$(C)-10.96.0.9");
    assert_eq!(env["WEB_SERVICE_PORT"], "mine");
    assert_eq!(env["WEB_SERVICE_HOST"], "10.96.0.9");
}

#[test]
fn references_to_objects() {
    let secret = EnvVar {
        name: "S".into(),
        value: None,
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector {
                name: "s".into(),
                key: "k".into(),
                optional: None,
            }),
            ..Default::default()
        }),
    };
    let env = made(&with_env(vec![
        from_map("A", "m", "k", false),
        secret,
        from_map("NONE", "m", "x", true),
        from_map("NONE2", "nope", "x", true),
    ]))
    .unwrap();
    assert_eq!(env["A"], "map");
    assert_eq!(env["S"], "hush");
    assert!(!env.contains_key("NONE") && !env.contains_key("NONE2"));
}

#[test]
fn what_is_missing_is_said_as_upstream_says_it() {
    for (entry, message) in [
        (
            from_map("A", "nope", "k", false),
            "configmap \"nope\" not found",
        ),
        (
            from_map("A", "m", "x", false),
            "couldn't find key x in ConfigMap default/m",
        ),
    ] {
        let error = made(&with_env(vec![entry])).unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn whole_objects_with_a_prefix() {
    let container = Container {
        env_from: Some(vec![EnvFromSource {
            prefix: Some("P_".into()),
            config_map_ref: Some(ConfigMapEnvSource {
                name: "m".into(),
                optional: None,
            }),
            secret_ref: None,
        }]),
        env: Some(vec![literal("P_k", "own"), literal("X", "$(P_other)")]),
        ..Default::default()
    };
    let env = made(&container).unwrap();
    assert_eq!(env["P_k"], "own");
    assert_eq!(env["X"], "o");
}
