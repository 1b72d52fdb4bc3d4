//! `describe service`.

use super::args::{Describe, ReportFormat};
use super::output::{Output, Table, list};
use super::tables::selector;
use super::{Failed, REFUSED, SUCCESS, query};
use crate::api::catalogue::Selection;
use crate::api::description::{Counters, EndpointDescription};
use crate::api::{Client, ClientError, FailureReason, Resource, ServiceDescription};
use crate::objects::{Kind, Labels};
use std::fmt::Write as _;
use std::net::SocketAddr;

pub(super) async fn run(client: &Client, describe: &Describe, out: &mut Output) -> Result<u8, Failed> {
    let namespace = describe.namespace.as_deref().unwrap_or("default");
    let service = Resource::Kind(Kind::Service);
    let mut names = Vec::new();
    for target in query::targets(&describe.objects)? {
        if target.resource != service {
            return Err(Failed::Usage(format!(
                "only services are described; see `lb-ctl get {} -o yaml`",
                target.resource
            )));
        }
        names.extend(target.names);
    }
    let one = names.len() == 1;
    if names.is_empty() {
        let all = Selection { resource: service, namespace: Some(namespace.to_owned()), name: None };
        let items = client.list(&all).await?;
        names.extend(items.iter().filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned)));
        if names.is_empty() {
            eprintln!("No resources found in {namespace} namespace.");
        }
    }
    let mut found = Vec::new();
    let mut code = SUCCESS;
    for name in &names {
        match client.describe(namespace, name).await {
            Ok(description) => found.push(description),
            Err(ClientError::Refused(failure)) if failure.reason == FailureReason::NotFound => {
                Failed::Client(ClientError::Refused(failure)).report();
                code = REFUSED;
            }
            Err(error) => return Err(error.into()),
        }
    }
    match (describe.output, found.as_slice()) {
        (ReportFormat::Text, _) => {
            let texts: Vec<String> = found.iter().map(text).collect();
            out.text(&texts.join("\n\n"))?;
        }
        (_, []) if one => {}
        (ReportFormat::Json, [description]) if one => out.json(description)?,
        (ReportFormat::Json, all) => out.json(&all)?,
        (ReportFormat::Yaml, [description]) if one => out.yaml(description)?,
        (ReportFormat::Yaml, all) => out.yaml(&all)?,
    }
    Ok(code)
}

/// Lines of `Name:   value`, as kubectl describes, with the values in line.
#[derive(Default)]
struct Report(String);

impl Report {
    fn line(&mut self, name: &str, value: impl std::fmt::Display) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{:<26}{value}", format!("{name}:"));
    }

    fn lines(&mut self, name: &str, values: impl IntoIterator<Item = String>) {
        let mut name = format!("{name}:");
        for value in values {
            let _ = writeln!(self.0, "{name:<26}{value}");
            name.clear();
        }
        if !name.is_empty() {
            let _ = writeln!(self.0, "{name:<26}<none>");
        }
    }

    fn table(&mut self, title: &str, table: &Table) {
        let _ = writeln!(self.0, "{title}:");
        for line in table.to_string().lines() {
            let _ = writeln!(self.0, "  {line}");
        }
    }
}

fn text(service: &ServiceDescription) -> String {
    let mut report = Report::default();
    let pairs = |labels: &Labels| labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>();
    report.line("Name", &service.name);
    report.line("Namespace", &service.namespace);
    report.lines("Labels", pairs(&service.labels));
    report.lines("Annotations", pairs(&service.annotations));
    report.line("Selector", selector(service.selector.as_ref()));
    report.line("Type", service.r#type);
    report.line("IP Family Policy", &service.ip_family_policy);
    report.line("IP Families", list(service.ip_families.iter().map(|family| format!("{family:?}"))));
    report.line("IPs", list(&service.cluster_ips));
    if !service.external_ips.is_empty() {
        report.line("External IPs", list(&service.external_ips));
    }
    if !service.load_balancer_addresses.is_empty() {
        report.line("LoadBalancer Ingress", list(&service.load_balancer_addresses));
    }
    if service.load_balancer_pending {
        report.line("LoadBalancer Ingress", "<pending>");
    }
    if !service.load_balancer_source_ranges.is_empty() {
        report.line("LoadBalancer Sources", list(&service.load_balancer_source_ranges));
    }
    if service.ports.iter().any(|port| port.node_port.is_some()) {
        report.line("Node Addresses", list(&service.node_addresses));
    }
    report.line("Algorithm", service.algorithm);
    match service.affinity_seconds {
        Some(seconds) => report.line("Session Affinity", format!("{}, {seconds} s", service.session_affinity)),
        None => report.line("Session Affinity", &service.session_affinity),
    }
    if let Some(policy) = &service.external_traffic_policy {
        report.line("External Traffic Policy", policy);
    }
    if let Some(port) = service.health_check_node_port {
        report.line("HealthCheck NodePort", port);
    }
    report.line("Internal Traffic Policy", &service.internal_traffic_policy);
    report.line("Manifest From", &service.source);
    report.line("Endpoints From", &service.endpoints_from);
    for port in &service.ports {
        let name = if port.name.is_empty() { "<unset>" } else { &port.name };
        report.line("Port", format_args!("{name}  {}/{}", port.port, port.protocol));
        report.line("TargetPort", format_args!("{}/{}", port.target_port, port.protocol));
        if let Some(node_port) = port.node_port {
            report.line("NodePort", format_args!("{name}  {node_port}/{}", port.protocol));
        }
        report.line("Traffic", traffic(&port.traffic));
        if port.endpoints.is_empty() {
            report.line("Endpoints", "<none>");
        } else {
            report.table("Endpoints", &endpoints(port));
        }
        let reasons: Vec<String> = port.endpoints.iter().filter_map(why_not_ready).collect();
        if !reasons.is_empty() {
            report.lines("Not Ready", reasons);
        }
    }
    report.lines("Events", service.events.iter().map(|event| format!("{}  {}", event.time, event.message)));
    report.lines("Problems", service.problems.iter().map(|problem| problem.message.clone()));
    report.0
}

fn traffic(counters: &Counters) -> String {
    let Counters { connections, packets, bytes, reply_packets, reply_bytes } = counters;
    format!(
        "{connections} connections, {packets} packets ({bytes} bytes) in, {reply_packets} packets ({reply_bytes} bytes) out"
    )
}

fn why_not_ready(endpoint: &EndpointDescription) -> Option<String> {
    let why = endpoint.why_not_ready.as_ref()?;
    Some(format!("{}  {why}", SocketAddr::new(endpoint.address, endpoint.port)))
}

fn endpoints(port: &crate::api::PortDescription) -> Table {
    let mut table = Table::new(vec![
        "ADDRESS",
        "POD/SLICE",
        "NODE",
        "READY",
        "WEIGHT",
        "LOCAL",
        "CHOSEN FOR",
        "ADDRESS CONNECTIONS",
        "PACKETS",
        "BYTES",
    ]);
    for endpoint in &port.endpoints {
        let behind = match (&endpoint.pod, &endpoint.slice) {
            (Some(pod), Some(slice)) => format!("pod/{pod} (slice/{slice})"),
            (Some(pod), None) => format!("pod/{pod}"),
            (None, Some(slice)) => format!("slice/{slice}"),
            (None, None) => "<none>".to_owned(),
        };
        let yes = |value: bool| if value { "yes" } else { "no" }.to_owned();
        let counters = &endpoint.traffic;
        table.push(vec![
            SocketAddr::new(endpoint.address, endpoint.port).to_string(),
            behind,
            endpoint.node.clone().unwrap_or_else(|| "<unknown>".to_owned()),
            yes(endpoint.ready),
            endpoint.weight.to_string(),
            yes(endpoint.local),
            list(endpoint.chosen_for.iter().map(|policy| format!("{policy:?}"))),
            counters.connections.to_string(),
            (counters.packets + counters.reply_packets).to_string(),
            (counters.bytes + counters.reply_bytes).to_string(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_service_is_described_as_kubectl_would_with_counters() {
        let counters = json!({"connections": 3, "packets": 12, "bytes": 900, "replyPackets": 9, "replyBytes": 1200});
        let with = |fields: serde_json::Value| {
            let mut all = counters.clone();
            all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            all
        };
        let description = json!({
            "name": "web", "namespace": "default", "labels": {"app": "web", "tier": "front"}, "annotations": {},
            "selector": {"app": "web"}, "type": "LoadBalancer", "ipFamilyPolicy": "PreferDualStack",
            "ipFamilies": ["IPv4", "IPv6"], "clusterIPs": ["10.96.0.1", "fd00::1"], "externalIPs": [],
            "nodeAddresses": ["192.0.2.10"],
            "loadBalancerAddresses": ["203.0.113.1"], "loadBalancerSourceRanges": ["198.51.100.0/24"], "sessionAffinity": "None", "externalTrafficPolicy": "Cluster",
            "internalTrafficPolicy": "Cluster", "source": "file:/etc/lb-ctl/manifests/web.yaml",
            "endpointsFrom": "Pods",
            "ports": [
                with(json!({"name": "http", "protocol": "TCP", "port": 80, "targetPort": "web", "nodePort": 30080,
                    "endpoints": [
                        with(json!({"address": "10.244.0.5", "port": 8080, "ready": true, "pod": "a", "node": "n1", "local": true, "chosenFor": ["Cluster", "Local"]})),
                        with(json!({"address": "fd00::5", "port": 8080, "ready": false, "whyNotReady": "finished", "slice": "web-1", "local": false}))]})),
                with(json!({"name": "", "protocol": "UDP", "port": 53, "targetPort": "53", "endpoints": []}))],
            "problems": [{"subject": "service default/web", "message": "no pod is ready"}],
            "events": [{"time": "2024-02-01T00:00:00Z", "message": "created"}]});
        let description: ServiceDescription = serde_json::from_value(description).unwrap();
        insta::assert_snapshot!(text(&description), @r#"
        Name:                     web
        Namespace:                default
        Labels:                   app=web
                                  tier=front
        Annotations:              <none>
        Selector:                 app=web
        Type:                     LoadBalancer
        IP Family Policy:         PreferDualStack
        IP Families:              IPv4,IPv6
        IPs:                      10.96.0.1,fd00::1
        LoadBalancer Ingress:     203.0.113.1
        LoadBalancer Sources:     198.51.100.0/24
        Node Addresses:           192.0.2.10
        Algorithm:                random
        Session Affinity:         None
        External Traffic Policy:  Cluster
        Internal Traffic Policy:  Cluster
        Manifest From:            file:/etc/lb-ctl/manifests/web.yaml
        Endpoints From:           Pods
        Port:                     http  80/TCP
        TargetPort:               web/TCP
        NodePort:                 http  30080/TCP
        Traffic:                  3 connections, 12 packets (900 bytes) in, 9 packets (1200 bytes) out
        Endpoints:
          ADDRESS           POD/SLICE     NODE        READY   WEIGHT   LOCAL   CHOSEN FOR      ADDRESS CONNECTIONS   PACKETS   BYTES
          10.244.0.5:8080   pod/a         n1          yes     1        yes     Cluster,Local   3                     21        2100
          [fd00::5]:8080    slice/web-1   <unknown>   no      1        no      <none>          3                     21        2100
        Not Ready:                [fd00::5]:8080  finished
        Port:                     <unset>  53/UDP
        TargetPort:               53/UDP
        Traffic:                  3 connections, 12 packets (900 bytes) in, 9 packets (1200 bytes) out
        Endpoints:                <none>
        Events:                   2024-02-01T00:00:00Z  created
        Problems:                 no pod is ready
        "#);
    }
}
