//! APIServices.

use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;

use super::absent::{items, set, text};
use super::names;
use super::values::{all_invalid, one_of, required};
use crate::field::{ErrorList, FieldError, Path};

/// What is wrong with an APIService, its metadata aside but for the name, which follows from the rest.
#[must_use]
pub fn validate_api_service(service: &APIService) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let spec = service.spec.clone().unwrap_or_default();
    let (group, version) = (text(&spec.group), text(&spec.version));
    let (name, wanted) = (text(&service.metadata.name), format!("{version}.{group}"));
    if name != wanted && !name.is_empty() && names::path_segment(name).is_empty() {
        let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
        let path = Path::new("metadata").child("name");
        errors.push(FieldError::invalid(&path, name, &detail));
    }
    if group.is_empty() && version != "v1" {
        errors.push(FieldError::required(
            &path.child("group"),
            "only v1 may have an empty group and it better be legacy kube",
        ));
    }
    if !group.is_empty() {
        all_invalid(
            &mut errors,
            &path.child("group"),
            group,
            names::dns_subdomain(group),
        );
    }
    all_invalid(
        &mut errors,
        &path.child("version"),
        version,
        names::dns_1035_label(version),
    );
    for (field, value, most) in [
        ("groupPriorityMinimum", spec.group_priority_minimum, 20000),
        ("versionPriority", spec.version_priority, 1000),
    ] {
        if value <= 0 || value > most {
            let detail = format!("must be positive and less than {most}");
            errors.push(FieldError::invalid(&path.child(field), value, &detail));
        }
    }
    let bundle = spec.ca_bundle.as_ref().map_or(0, |bundle| bundle.0.len());
    let skips = set(spec.insecure_skip_tls_verify);
    let skip_path = path.child("insecureSkipTLSVerify");
    let Some(backend) = &spec.service else {
        if bundle > 0 {
            let shown = format!("{bundle} bytes");
            let detail = "local APIServices may not have a caBundle";
            errors.push(FieldError::invalid(&path.child("caBundle"), shown, detail));
        }
        if skips {
            let detail = "local APIServices may not have insecureSkipTLSVerify";
            errors.push(FieldError::invalid(&skip_path, true, detail));
        }
        return errors;
    };
    let service_path = path.child("service");
    for (field, value) in [("namespace", &backend.namespace), ("name", &backend.name)] {
        required(&mut errors, &service_path.child(field), text(value));
    }
    let port = backend.port.unwrap_or(443);
    let wrong = names::port_number(port);
    if !wrong.is_empty() {
        let detail = format!("port is not valid: {}", wrong.join(", "));
        errors.push(FieldError::invalid(
            &service_path.child("port"),
            port,
            &detail,
        ));
    }
    if skips && bundle > 0 {
        let detail = "may not be true if caBundle is present";
        errors.push(FieldError::invalid(&skip_path, true, detail));
    }
    errors
}

/// What is wrong with the new status of an APIService.
#[must_use]
pub fn validate_api_service_status(service: &APIService) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status").child("conditions");
    let conditions = service
        .status
        .as_ref()
        .map_or(&[][..], |status| items(&status.conditions));
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index).child("status");
        one_of(
            &mut errors,
            &path,
            &condition.status,
            &["True", "False", "Unknown"],
        );
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn services_of_apis() {
        let errors = |name: &str, spec: Value| -> Vec<String> {
            let mut whole = json!({"group": "g.example.org", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10,
                "service": {"namespace": "n", "name": "s"}});
            whole
                .as_object_mut()
                .unwrap()
                .extend(spec.as_object().unwrap().clone());
            let service =
                serde_json::from_value(json!({"metadata": {"name": name}, "spec": whole})).unwrap();
            validate_api_service(&service)
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(errors("v1.g.example.org", json!({})), [""; 0]);
        assert_eq!(
            errors("v2.g.example.org", json!({"versionPriority": 1001})),
            [
                "metadata.name: Invalid value: \"v2.g.example.org\": must be `spec.version+\".\"+spec.group`: \"v1.g.example.org\"",
                "spec.versionPriority: Invalid value: 1001: must be positive and less than 1000",
            ]
        );
        assert_eq!(
            errors(
                "v1.g.example.org",
                json!({"service": null, "caBundle": "AAAA"})
            ),
            [
                "spec.caBundle: Invalid value: \"3 bytes\": local APIServices may not have a caBundle"
            ]
        );
        assert_eq!(
            errors(
                "v1.g.example.org",
                json!({"service": {"name": "s", "port": 0}, "insecureSkipTLSVerify": true, "caBundle": "AAAA"})
            ),
            [
                "spec.service.namespace: Required value",
                "spec.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
                "spec.insecureSkipTLSVerify: Invalid value: true: may not be true if caBundle is present",
            ]
        );
    }
}
