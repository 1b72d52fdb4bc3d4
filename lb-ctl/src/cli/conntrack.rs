//! `conntrack list`.

use super::args::{ConntrackList, ReportFormat};
use super::output::Output;
use super::{Failed, SUCCESS};
use crate::api::{Client, FlowLine};
use std::io;

pub(super) async fn run(client: &Client, list: &ConntrackList, out: &mut Output) -> Result<u8, Failed> {
    let mut flows = client.flows().await?;
    if list.output == ReportFormat::Text && !list.no_headers {
        out.line(format_args!(
            "{}",
            row(["PROTO", "STATE", "CLIENT", "FRONTEND", "BACKEND", "SOURCE", "IDLE", "EXPIRES"])
        ))?;
    }
    while let Some(flow) = flows.next().await? {
        match list.output {
            ReportFormat::Text => out.one_of_many(format_args!("{}", line(&flow)))?,
            ReportFormat::Json => {
                out.one_of_many(format_args!("{}", serde_json::to_string(&flow).map_err(io::Error::other)?))?;
            }
            ReportFormat::Yaml => {
                out.line(format_args!("---"))?;
                out.yaml(&flow)?;
            }
        }
    }
    out.flush()?;
    Ok(SUCCESS)
}

fn line(flow: &FlowLine) -> String {
    row([
        &flow.protocol,
        &flow.state,
        &flow.client,
        &flow.frontend,
        &flow.backend,
        flow.source_nat.as_deref().unwrap_or("-"),
        &format!("{}s", flow.idle_seconds),
        &format!("{}s", flow.expires_seconds),
    ])
}

/// There may be millions of lines, so the widths are fixed: room for IPv4, more where IPv6 needs it.
fn row(cells: [&str; 8]) -> String {
    let [protocol, state, client, frontend, backend, source, idle, expires] = cells;
    format!("{protocol:<6} {state:<12} {client:<22} {frontend:<22} {backend:<22} {source:<22} {idle:<7} {expires}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_one_line() {
        let flow = FlowLine {
            protocol: "TCP".to_owned(),
            state: "ESTABLISHED".to_owned(),
            client: "192.0.2.1:40000".to_owned(),
            frontend: "10.96.0.1:80".to_owned(),
            backend: "10.244.0.5:8080".to_owned(),
            source_nat: None,
            idle_seconds: 3,
            expires_seconds: 21597,
        };
        insta::assert_snapshot!(line(&flow), @"TCP    ESTABLISHED  192.0.2.1:40000        10.96.0.1:80           10.244.0.5:8080        -                      3s      21597s");
    }
}
