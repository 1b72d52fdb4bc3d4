//! Services whose pods are still only a template: Deployments and their kin are not read, and nobody here makes pods of them.

use crate::manifest::{Diagnostic, Located, Parsed, Skipped};
use crate::objects::{Labels, Object, Objects, SERVICE_NAME_LABEL, Service};

/// A warning for each Service of `parsed` whose selector matches no pod, but a skipped workload's template.
pub(super) fn warnings(parsed: &Parsed, objects: &Objects) -> Vec<Diagnostic> {
    let workloads: Vec<&Skipped> = parsed.skipped.iter().filter(|skipped| !skipped.pod_labels.is_empty()).collect();
    if workloads.is_empty() {
        return Vec::new();
    }
    parsed.objects.iter().filter_map(|located| warning(located, &workloads, objects)).collect()
}

fn warning(located: &Located, workloads: &[&Skipped], objects: &Objects) -> Option<Diagnostic> {
    let Object::Service(service) = &located.object else { return None };
    let selector = service.spec.selector.as_ref().filter(|selector| !selector.is_empty())?;
    let namespace = &service.metadata.namespace;
    let is_meant = |skipped: &&&Skipped| skipped.namespace == *namespace && matches(selector, &skipped.pod_labels);
    let workload = workloads.iter().find(is_meant)?;
    if has_endpoints(service, selector, objects) {
        return None;
    }
    let selector: Vec<String> = selector.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let selector = selector.join(",");
    let Skipped { origin, line, kind, name, .. } = workload;
    let message = format!(
        "{selector} matches no Pod, only the template of {}/{name} ({origin}:{line}), of which nobody makes pods here: \
         apply the pods themselves, as `kubectl get pods -n {namespace} -l {selector} -o yaml` prints them",
        kind.to_lowercase()
    );
    Some(located.diagnostic("spec.selector", message))
}

fn has_endpoints(service: &Service, selector: &Labels, objects: &Objects) -> bool {
    let namespace = &service.metadata.namespace;
    let is_slice_of_it = |slice: &crate::objects::Metadata| {
        slice.namespace == *namespace && slice.labels.get(SERVICE_NAME_LABEL) == Some(&service.metadata.name)
    };
    objects.pods.values().any(|pod| pod.metadata.namespace == *namespace && matches(selector, pod.labels()))
        || objects.endpoint_slices.values().any(|slice| is_slice_of_it(&slice.metadata))
}

fn matches(selector: &Labels, labels: &Labels) -> bool {
    selector.iter().all(|(name, value)| labels.get(name) == Some(value))
}
