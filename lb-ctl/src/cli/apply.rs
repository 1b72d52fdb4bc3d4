//! `apply`: sends manifests to the daemon, which takes all of them or none.

use super::args::{Apply, ApplyFormat, DryRun, Files, ReportFormat};
use super::output::Output;
use super::{Failed, REFUSED, SUCCESS, manifests, plan};
use crate::api::catalogue::Selection;
use crate::api::{Applied, ApplyAnswer, ApplyRequest, Client, ObjectName, Outcome};
use crate::manifest::{self, Parsed, Skipped};
use crate::objects::ObjectId;

pub(super) async fn run(client: &Client, apply: &Apply, out: &mut Output) -> Result<u8, Failed> {
    let namespace = apply.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let prune = if apply.prune { Some(set(&apply.files)?) } else { None };
    let files = manifests::read(&apply.files)?;
    let validate = apply.validate.into();
    if apply.plan {
        let request = ApplyRequest { namespace, files, validate, dry_run: true, prune };
        return plan::run(client, &request, ReportFormat::Text, out).await;
    }
    let (answer, how) = match apply.dry_run {
        DryRun::Client => {
            let mut parsed = Parsed::default();
            for file in &files {
                parsed.extend(manifest::read(&file.text, &file.origin, &namespace, validate));
            }
            match parsed.sound() {
                Ok(parsed) => (look(client, &parsed).await, " (dry run)"),
                Err(errors) => {
                    for error in errors {
                        eprintln!("{error}");
                    }
                    return Ok(REFUSED);
                }
            }
        }
        how => {
            let dry_run = how == DryRun::Server;
            let request = ApplyRequest { namespace, files, validate, dry_run, prune };
            (client.apply(&request).await?, if dry_run { " (server dry run)" } else { "" })
        }
    };
    tell(&answer);
    match apply.output {
        ApplyFormat::Text => {
            for Applied { object, outcome } in &answer.applied {
                out.line(format_args!("{}/{} {outcome}{how}", object.kind.resource(), object.name))?;
            }
            for object in &answer.pruned {
                out.line(format_args!("{}/{} pruned{how}", object.kind.resource(), object.name))?;
            }
        }
        ApplyFormat::Name => {
            for Applied { object, .. } in &answer.applied {
                out.line(format_args!("{}/{}", object.kind.resource(), object.name))?;
            }
        }
        ApplyFormat::Json => out.json(&answer)?,
        ApplyFormat::Yaml => out.yaml(&answer)?,
    }
    if answer.applied.is_empty() && answer.pruned.is_empty() {
        eprintln!("error: no objects passed to apply");
        return Ok(REFUSED);
    }
    Ok(SUCCESS)
}

/// Says beside the result what else there is to say.
pub(super) fn tell(answer: &ApplyAnswer) {
    answer.warnings.iter().for_each(|warning| eprintln!("Warning: {warning}"));
    answer.skipped.iter().for_each(|skipped| eprintln!("Skipped: {skipped}"));
}

/// The name of the set that directories make: where they are.
pub(super) fn set(files: &Files) -> Result<String, Failed> {
    let mut names = Vec::new();
    for path in &files.filename {
        let whole = path.canonicalize().ok().filter(|path| path.is_dir()).ok_or_else(|| {
            let message = "--prune takes directories: what is no more in them is deleted";
            Failed::Usage(format!("{}: {message}", path.display()))
        })?;
        names.push(whole.display().to_string());
    }
    names.sort();
    names.dedup();
    Ok(names.join(","))
}

/// What manifests would do as far as can be told from here: an object that is there is configured, any other created.
async fn look(client: &Client, parsed: &Parsed) -> ApplyAnswer {
    let mut answer = ApplyAnswer::default();
    for located in &parsed.objects {
        let id = located.object.id();
        let outcome = if exists(client, &id).await { Outcome::Configured } else { Outcome::Created };
        answer.applied.push(Applied { object: ObjectName::from(id), outcome });
    }
    answer.warnings = parsed.warnings.iter().map(ToString::to_string).collect();
    let why = |of: &Skipped| format!("{}/{}: {}", of.kind.to_lowercase(), of.name, of.why());
    answer.skipped = parsed.skipped.iter().map(why).collect();
    answer
}

/// Without a daemon there is nothing.
async fn exists(client: &Client, id: &ObjectId) -> bool {
    let namespace = id.kind.is_namespaced().then(|| id.key.namespace.clone());
    let selection = Selection { resource: id.kind.into(), namespace, name: Some(id.key.name.clone()) };
    client.list(&selection).await.is_ok_and(|items| !items.is_empty())
}
