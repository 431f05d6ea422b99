//! `photondb plugin audit`, as it is shown.

use std::io::{IsTerminal, Write, stderr};
use std::process::ExitCode;

use anyhow::Context;
use photondb_plugin_host::probe::{Outcome, Verdict};
use serde::Serialize;
use serde_json::Value;

use super::plugin::read;
use super::table::{Align, Table};
use crate::plugins::audit::{AuditItem, AuditSummary};

/// All of an audit, for scripts.
#[derive(Serialize)]
struct Audit<'a> {
    #[serde(flatten)]
    summary: &'a AuditSummary,
    outcomes: &'a [Outcome],
}

/// Shows an audit once it is complete; until then how far it is, where somebody watches.
///
/// # Errors
/// The server gave it up.
pub(super) fn show(
    items: impl Iterator<Item = anyhow::Result<Value>>,
    json: bool,
    output: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    let (mut outcomes, mut summary) = (Vec::new(), None);
    let watched = stderr().is_terminal();
    for item in items {
        match read(item?)? {
            AuditItem::Attempt(outcome) => outcomes.push(outcome),
            AuditItem::Summary(all) => summary = Some(all),
            AuditItem::Failed(message) => anyhow::bail!(message),
        }
        if watched {
            eprint!("\r{} attempts", outcomes.len());
        }
    }
    if watched {
        eprint!("\r\x1b[K");
    }
    let summary = summary.context("the server ended the audit early; see its log")?;
    if json {
        writeln!(output, "{}", serde_json::to_string(&Audit { summary: &summary, outcomes: &outcomes })?)?;
    } else {
        write!(output, "{}", table(&outcomes))?;
        write!(output, "\n{}", summed(&summary))?;
    }
    let is_tight = summary.succeeded == 0 && summary.unclear == 0;
    Ok(if is_tight { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn table(outcomes: &[Outcome]) -> Table<5> {
    let mut table = Table::new([
        ("", Align::Left),
        ("ATTEMPT", Align::Left),
        ("OUTCOME", Align::Left),
        ("BY", Align::Left),
        ("SEEN", Align::Left),
    ]);
    for outcome in outcomes {
        let verdict = match outcome.verdict {
            Verdict::Blocked => "blocked",
            Verdict::Granted => "granted",
            Verdict::Succeeded => "SUCCEEDED",
            Verdict::Unclear => "UNCLEAR",
        };
        table.row([
            outcome.id.clone(),
            outcome.name.clone(),
            verdict.into(),
            outcome.layer.map_or_else(|| "-".into(), |layer| layer.to_string()),
            outcome.detail.clone(),
        ]);
    }
    table
}

fn summed(summary: &AuditSummary) -> String {
    let mut text =
        format!("{} attempts, {} blocked, {} succeeded", summary.attempts, summary.blocked, summary.succeeded);
    if summary.granted > 0 {
        text += &format!(", {} given by its profile and permissions", summary.granted);
    }
    if summary.unclear > 0 {
        text += &format!(", {} unclear", summary.unclear);
    }
    let by: Vec<_> = summary.blocked_by.iter().map(|(layer, count)| format!("{layer} {count}")).collect();
    text += &format!("; blocked by {}\n", by.join(", "));
    text += &format!(
        "profile {}: {} calls allowed, {} of them with rules for their arguments; {} instructions\n",
        summary.profile, summary.allowed_calls, summary.conditional_calls, summary.instructions
    );
    text += &format!("grade {}\n", summary.grade);
    for reason in &summary.grade_reasons {
        text += &format!("    {reason}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(summary: AuditSummary, outcomes: &[Outcome]) -> (String, ExitCode) {
        let attempts = outcomes.iter().cloned().map(AuditItem::Attempt);
        let items = attempts.chain([AuditItem::Summary(summary)]).map(|item| Ok(serde_json::to_value(item)?));
        let mut output = Vec::new();
        let code = show(items, false, &mut output).unwrap();
        (String::from_utf8(output).unwrap(), code)
    }

    fn outcome(verdict: Verdict) -> Outcome {
        Outcome { id: "A1a".into(), name: "read".into(), verdict, layer: None, detail: "openat answered 3".into() }
    }

    #[test]
    fn what_got_through_is_shown_and_fails_the_command() {
        let summary = AuditSummary { attempts: 1, succeeded: 1, grade: "A".into(), ..AuditSummary::default() };
        let (text, code) = shown(summary, &[outcome(Verdict::Succeeded)]);
        assert!(text.contains("SUCCEEDED") && text.contains("1 attempts, 0 blocked, 1 succeeded"), "{text}");
        assert_eq!(code, ExitCode::FAILURE);
    }

    #[test]
    fn an_attempt_that_told_nothing_does_not_pass() {
        let summary = AuditSummary { attempts: 1, unclear: 1, ..AuditSummary::default() };
        assert_eq!(shown(summary, &[outcome(Verdict::Unclear)]).1, ExitCode::FAILURE);
        let summary = AuditSummary { attempts: 1, blocked: 1, ..AuditSummary::default() };
        assert_eq!(shown(summary, &[outcome(Verdict::Blocked)]).1, ExitCode::SUCCESS);
    }

    #[test]
    fn an_audit_without_an_end_is_none() {
        let items = [Ok(serde_json::to_value(AuditItem::Attempt(outcome(Verdict::Blocked))).unwrap())];
        assert!(show(items.into_iter(), true, &mut Vec::new()).is_err());
    }
}
