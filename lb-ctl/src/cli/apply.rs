//! `apply`: sends manifests to the daemon, which takes all of them or none.

use super::args::{Apply, ReportFormat};
use super::output::Output;
use super::{Failed, SUCCESS, manifests, plan};
use crate::api::{ApplyRequest, Client};

pub(super) async fn run(client: &Client, apply: &Apply, out: &mut Output) -> Result<u8, Failed> {
    if apply.plan {
        manifests::named(&apply.files)?;
        return plan::run(client, &apply.files, apply.namespace.as_deref(), ReportFormat::Text, out).await;
    }
    let namespace = apply.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let files = manifests::read(&apply.files)?;
    let answer = client.apply(&ApplyRequest { namespace, files }).await?;
    answer.warnings.iter().for_each(|warning| eprintln!("Warning: {warning}"));
    answer.skipped.iter().for_each(|skipped| eprintln!("Skipped: {skipped}: lb-ctl does not read this kind"));
    for applied in &answer.applied {
        let object = &applied.object;
        out.line(format_args!("{}/{} {}", object.kind.resource(), object.name, applied.outcome))?;
    }
    if answer.applied.is_empty() {
        eprintln!("error: no objects passed to apply");
        return Ok(super::REFUSED);
    }
    Ok(SUCCESS)
}
