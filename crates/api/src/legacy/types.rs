//! The types of old versions: those of the stored versions in another package, with changes.

use std::collections::BTreeMap;

use schemars::SchemaGenerator;
use serde_json::{Value, json};

use super::LazyLock;
use crate::schema::table::{TYPES, openapi_name};

/// Packages that have the types of another: (new, of which it is a copy, the kinds that are taken with all that they
/// consist of).
pub(super) const COPIES: &[(&str, &str, &[&str])] = &[
    (
        "extensions.v1beta1",
        "apps.v1",
        &["Deployment", "DaemonSet", "ReplicaSet"],
    ),
    (
        "extensions.v1beta1",
        "networking.v1",
        &["Ingress", "NetworkPolicy"],
    ),
    (
        "apps.v1beta1",
        "apps.v1",
        &["Deployment", "StatefulSet", "ControllerRevision"],
    ),
    (
        "apps.v1beta2",
        "apps.v1",
        &[
            "Deployment",
            "DaemonSet",
            "ReplicaSet",
            "StatefulSet",
            "ControllerRevision",
        ],
    ),
    ("batch.v1beta1", "batch.v1", &["CronJob"]),
    ("batch.v2alpha1", "batch.v1", &["CronJob"]),
    ("policy.v1beta1", "policy.v1", &["PodDisruptionBudget"]),
    (
        "networking.v1beta1",
        "networking.v1",
        &["Ingress", "IngressClass", "IPAddress", "ServiceCIDR"],
    ),
    (
        "autoscaling.v2beta1",
        "autoscaling.v2",
        &["HorizontalPodAutoscaler"],
    ),
    (
        "autoscaling.v2beta2",
        "autoscaling.v2",
        &["HorizontalPodAutoscaler"],
    ),
    (
        "rbac.v1beta1",
        "rbac.v1",
        &["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"],
    ),
    (
        "rbac.v1alpha1",
        "rbac.v1",
        &["ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"],
    ),
    (
        "storage.v1beta1",
        "storage.v1",
        &[
            "CSIDriver",
            "CSINode",
            "CSIStorageCapacity",
            "StorageClass",
            "VolumeAttachment",
            "VolumeAttributesClass",
        ],
    ),
    ("scheduling.v1beta1", "scheduling.v1", &["PriorityClass"]),
    ("scheduling.v1alpha1", "scheduling.v1", &["PriorityClass"]),
    ("coordination.v1beta1", "coordination.v1", &["Lease"]),
    ("node.v1beta1", "node.v1", &["RuntimeClass"]),
    ("discovery.v1beta1", "discovery.v1", &["EndpointSlice"]),
    (
        "admissionregistration.v1beta1",
        "admissionregistration.v1",
        &[
            "MutatingAdmissionPolicy",
            "MutatingAdmissionPolicyBinding",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionPolicyBinding",
        ],
    ),
    (
        "admissionregistration.v1alpha1",
        "admissionregistration.v1",
        &["MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"],
    ),
    (
        "resource.v1beta2",
        "resource.v1",
        &[
            "DeviceClass",
            "ResourceClaim",
            "ResourceClaimTemplate",
            "ResourceSlice",
        ],
    ),
];

/// Fields that differ from those of the copied types: the lines of the type table that come (`+`, in place of a field of
/// that name if there is one), and the names of those that go (`-`).
const CHANGES: &[(&str, &[&str])] = &[
    (
        "extensions.v1beta1.DeploymentSpec",
        &[
            "+rollbackTo &extensions.v1beta1.RollbackConfig p",
            "+selector &meta.v1.LabelSelector p",
        ],
    ),
    ("extensions.v1beta1.RollbackConfig", &["+revision l"]),
    (
        "extensions.v1beta1.DaemonSetSpec",
        &[
            "+templateGeneration l",
            "+selector &meta.v1.LabelSelector p",
        ],
    ),
    (
        "extensions.v1beta1.ReplicaSetSpec",
        &["+selector &meta.v1.LabelSelector p"],
    ),
    (
        "apps.v1beta1.DeploymentSpec",
        &[
            "+rollbackTo &apps.v1beta1.RollbackConfig p",
            "+selector &meta.v1.LabelSelector p",
        ],
    ),
    ("apps.v1beta1.RollbackConfig", &["+revision l"]),
    (
        "apps.v1beta1.StatefulSetSpec",
        &["+selector &meta.v1.LabelSelector p"],
    ),
    (
        "extensions.v1beta1.IngressSpec",
        &[
            "-defaultBackend",
            "+backend &extensions.v1beta1.IngressBackend p",
        ],
    ),
    (
        "extensions.v1beta1.IngressBackend",
        &["-service", "+serviceName s", "+servicePort o"],
    ),
    (
        "extensions.v1beta1.HTTPIngressPath",
        &["+pathType s go=v1beta1.PathType p enum=Exact,ImplementationSpecific,Prefix"],
    ),
    (
        "networking.v1beta1.IngressSpec",
        &[
            "-defaultBackend",
            "+backend &networking.v1beta1.IngressBackend p",
        ],
    ),
    (
        "networking.v1beta1.IngressBackend",
        &["-service", "+serviceName s", "+servicePort o"],
    ),
    (
        "networking.v1beta1.HTTPIngressPath",
        &["+pathType s go=v1beta1.PathType p enum=Exact,ImplementationSpecific,Prefix"],
    ),
    ("rbac.v1alpha1.Subject", &["-apiGroup", "+apiVersion s"]),
    (
        "discovery.v1beta1.Endpoint",
        &["-deprecatedTopology", "-zone", "+topology {s"],
    ),
    (
        "autoscaling.v2beta1.ResourceMetricSource",
        &[
            "-target",
            "+targetAverageUtilization i p",
            "+targetAverageValue q p",
        ],
    ),
    (
        "autoscaling.v2beta1.ContainerResourceMetricSource",
        &[
            "-target",
            "+targetAverageUtilization i p",
            "+targetAverageValue q p",
        ],
    ),
    (
        "autoscaling.v2beta1.PodsMetricSource",
        &[
            "-metric",
            "-target",
            "+metricName s z r",
            "+selector &meta.v1.LabelSelector p",
            "+targetAverageValue q z r",
        ],
    ),
    (
        "autoscaling.v2beta1.ObjectMetricSource",
        &[
            "-metric",
            "-describedObject",
            "+target &autoscaling.v2beta1.CrossVersionObjectReference z v r",
            "+metricName s z r",
            "+selector &meta.v1.LabelSelector p",
            "+targetValue q z r",
            "+averageValue q p",
        ],
    ),
    (
        "autoscaling.v2beta1.ExternalMetricSource",
        &[
            "-metric",
            "-target",
            "+metricName s z r",
            "+metricSelector &meta.v1.LabelSelector p",
            "+targetValue q p",
            "+targetAverageValue q p",
        ],
    ),
    (
        "autoscaling.v2beta1.ResourceMetricStatus",
        &[
            "-current",
            "+currentAverageUtilization i p",
            "+currentAverageValue q z r",
        ],
    ),
    (
        "autoscaling.v2beta1.ContainerResourceMetricStatus",
        &[
            "-current",
            "+currentAverageUtilization i p",
            "+currentAverageValue q z r",
        ],
    ),
    (
        "autoscaling.v2beta1.PodsMetricStatus",
        &[
            "-metric",
            "-current",
            "+metricName s z r",
            "+selector &meta.v1.LabelSelector p",
            "+currentAverageValue q z r",
        ],
    ),
    (
        "autoscaling.v2beta1.ObjectMetricStatus",
        &[
            "-metric",
            "-describedObject",
            "-current",
            "+target &autoscaling.v2beta1.CrossVersionObjectReference z v r",
            "+metricName s z r",
            "+selector &meta.v1.LabelSelector p",
            "+currentValue q z r",
            "+averageValue q p",
        ],
    ),
    (
        "autoscaling.v2beta1.ExternalMetricStatus",
        &[
            "-metric",
            "-current",
            "+metricName s z r",
            "+metricSelector &meta.v1.LabelSelector p",
            "+currentValue q z r",
            "+currentAverageValue q p",
        ],
    ),
    (
        "autoscaling.v2beta1.HorizontalPodAutoscalerSpec",
        &["-behavior"],
    ),
];

/// The fields of a type: a line each, by name.
type Fields = BTreeMap<String, String>;

/// The types of a package that `roots` consist of, those included, as they are in the table.
fn reachable(roots: &[&str], package: &str) -> Vec<(String, Vec<&'static str>)> {
    let mut wanted: Vec<String> = roots
        .iter()
        .map(|root| format!("{package}.{root}"))
        .collect();
    let mut next = 0;
    let mut found = Vec::new();
    while let Some(name) = wanted.get(next).cloned() {
        next += 1;
        let head = format!("@{name}");
        let mut lines = TYPES
            .lines()
            .skip_while(|line| line.split(' ').next() != Some(head.as_str()));
        let Some(first) = lines.next() else { continue };
        let mut all = vec![first];
        all.extend(lines.take_while(|line| !line.starts_with('@')));
        for line in all.iter().skip(1) {
            let inner = line.split(' ').nth(1).and_then(|code| code.split_once('&'));
            if let Some((_, inner)) = inner
                && inner
                    .strip_prefix(package)
                    .is_some_and(|rest| rest.starts_with('.'))
                && !wanted.iter().any(|known| known == inner)
            {
                wanted.push(inner.to_owned());
            }
        }
        found.push((name, all));
    }
    found
}

/// The types of all old versions, in the form of the type table.
static OLD: LazyLock<BTreeMap<String, (String, Fields)>> = LazyLock::new(|| {
    let mut types: BTreeMap<String, (String, Fields)> = BTreeMap::new();
    for (package, of, kinds) in COPIES {
        let moved = |text: &str| {
            text.replace(&format!("@{of}."), &format!("@{package}."))
                .replace(&format!("&{of}."), &format!("&{package}."))
        };
        for (name, lines) in reachable(kinds, of) {
            let head = moved(lines.first().unwrap_or(&""));
            let fields = lines.iter().skip(1).map(|line| {
                let line = moved(line);
                (line.split(' ').next().unwrap_or_default().to_owned(), line)
            });
            let name = format!("{package}{}", name.strip_prefix(of).unwrap_or_default());
            types.insert(name, (head, fields.collect()));
        }
    }
    for (name, changes) in CHANGES {
        let (_, fields) = types
            .entry((*name).to_owned())
            .or_insert_with(|| (format!("@{name}"), Fields::new()));
        for change in *changes {
            let (sign, line) = change.split_at(1);
            let field = line.split(' ').next().unwrap_or_default().to_owned();
            match sign {
                "-" => fields.remove(&field),
                _ => fields.insert(field, line.to_owned()),
            };
        }
    }
    types
});

/// The lines of the table of the types that old versions have.
pub(crate) static TEXT: LazyLock<String> = LazyLock::new(|| {
    let mut text = crate::settings::pod_preset::TYPES.to_owned();
    for (head, fields) in OLD.values() {
        for line in std::iter::once(head).chain(fields.values()) {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
});

/// The schema of a field by its code in the table.
fn field_schema(code: &str) -> Value {
    match code.split_at_checked(1) {
        Some(("b", _)) => json!({"type": "boolean"}),
        Some(("i", _)) => json!({"type": "integer", "format": "int32"}),
        Some(("l", _)) => json!({"type": "integer", "format": "int64"}),
        Some(("q", _)) => reference("apimachinery.api.resource.Quantity"),
        Some(("o", _)) => reference("apimachinery.util.intstr.IntOrString"),
        Some(("&", name)) => reference(name),
        Some(("[", inner)) => json!({"type": "array", "items": field_schema(inner)}),
        Some(("{", inner)) => {
            json!({"type": "object", "additionalProperties": field_schema(inner)})
        }
        _ => json!({"type": "string"}),
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/$defs/{}", openapi_name(name))})
}

/// References to types of one package that lead to another.
fn redirect(value: &mut Value, from: &str, to: &str) {
    match value {
        Value::String(text) => {
            if let Some(at) = text.find(from).filter(|_| text.starts_with('#')) {
                text.replace_range(at..at + from.len(), to);
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|inner| redirect(inner, from, to)),
        Value::Object(map) => map.values_mut().for_each(|inner| redirect(inner, from, to)),
        _ => {}
    }
}

/// Adds the schemas of a package's types, made of those of the package that it copies, which the generator has.
pub(crate) fn add_schemas(generator: &mut SchemaGenerator, (package, of): (&str, &str)) {
    let (to, from) = (
        openapi_name(&format!("{package}.")),
        openapi_name(&format!("{of}.")),
    );
    let known = generator.definitions().clone();
    for (short, (_, fields)) in OLD.iter() {
        let Some(name) = short
            .strip_prefix(package)
            .and_then(|rest| rest.strip_prefix('.'))
        else {
            continue;
        };
        let copied = known.get(&format!("{from}{name}"));
        let is_new = !TYPES
            .lines()
            .any(|line| line.starts_with('@') && line.ends_with(&format!(".{name}")));
        let mut schema = match copied {
            Some(schema) => schema.clone(),
            None if is_new => json!({"type": "object", "properties": {}}),
            // Of another kind of the package.
            None => continue,
        };
        redirect(&mut schema, &from, &to);
        if let Some(Value::Object(properties)) = schema.get_mut("properties") {
            properties.retain(|field, _| fields.contains_key(field));
            for (field, line) in fields {
                let code = line.split(' ').nth(1).unwrap_or_default();
                if !properties.contains_key(field) {
                    properties.insert(field.clone(), field_schema(code));
                }
            }
        }
        generator
            .definitions_mut()
            .insert(format!("{to}{name}"), schema);
    }
}
