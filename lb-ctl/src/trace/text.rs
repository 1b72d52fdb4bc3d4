//! A trace as people read it: a block for each hook, a line for each step.

use crate::api::trace::{Choice, TraceAnswer, TracedStep};
use std::fmt::Write as _;
use std::net::SocketAddr;

/// Backends of a pick that the text lists.
const LISTED: usize = 20;
/// Columns of the word that begins a step.
const WORD: usize = 9;

/// The whole answer: the packet, what each hook told, and what became of it.
pub fn text(answer: &TraceAnswer) -> String {
    let mut text = format!("{}\n", answer.packet);
    // Writing to a string does not fail.
    for note in &answer.notes {
        let _ = writeln!(text, "Note: {note}.");
    }
    for (index, hook) in answer.hooks.iter().enumerate() {
        let next = answer.hooks.get(index + 1).filter(|_| hook.deferred);
        let program = if hook.program.is_empty() {
            String::new()
        } else {
            format!(" (the program attached, tag {})", hook.program)
        };
        let _ = writeln!(text, "\n{} of {}{program}", hook.hook, hook.interface);
        let mut last = "";
        // What XDP leaves to TCX ingress is decided there once more, and told there.
        let is_told_again = |step: &TracedStep| next.is_some_and(|next| next.steps.contains(step));
        for step in hook.steps.iter().filter(|step| !is_told_again(step)) {
            let word = if step.step == last { "" } else { &step.step };
            let _ = writeln!(text, "  {word:<WORD$} {}", step.says);
            last = &step.step;
            choices(&mut text, step);
        }
    }
    let outcome = match answer.reason.as_str() {
        "echo-replied" => "Answered",
        "delivered" => "Delivered",
        _ if answer.forwarded => "Forwarded",
        "not-ours" => "Left to the host",
        _ => "Not forwarded",
    };
    let _ = writeln!(text, "\n{outcome} ({}): {}", answer.reason, answer.sentence);
    if !answer.remedy.is_empty() {
        let _ = writeln!(text, "Remedy: {}", answer.remedy);
    }
    text
}

fn choices(text: &mut String, step: &TracedStep) {
    let width = step.choices.iter().map(|choice| address(choice).len()).max().unwrap_or_default();
    // What was picked is listed in any case.
    let listed = step.choices.iter().enumerate().filter(|(index, choice)| *index < LISTED || choice.picked);
    for (_, choice) in listed.clone() {
        let mark = if choice.picked { '>' } else { ' ' };
        let pod = choice.pod.as_deref().unwrap_or("-");
        let odds = choice.odds * 100.0;
        let _ = writeln!(text, "  {:<WORD$} {mark} {:<width$}  {odds:>5.1}%  {pod}", "", address(choice));
    }
    let left_out = step.choices.len() - listed.count();
    if left_out > 0 {
        let _ = writeln!(text, "  {:<WORD$}   and {left_out} more (-o json lists all)", "");
    }
}

fn address(choice: &Choice) -> String {
    SocketAddr::new(choice.address, choice.port).to_string()
}
