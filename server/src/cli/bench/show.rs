//! `photondb bench show`

use std::io::{Write, stdout};
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use serde::Deserialize;

use super::super::table::{Align, Table};
use crate::bench::{Figure, Machine, Outcome, Spread, Verdict, number};

/// Shows the goals of saved reports, and whether they were met, or all figures
///
/// The files are what `photondb bench ipc --json` prints, or what `make bench` leaves in target/bench.
#[derive(Debug, Args)]
pub struct Show {
    /// Reports as JSON
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Everything that was measured, as Markdown, a table a comparison: the middle of the rounds
    #[arg(long, conflicts_with = "markdown")]
    figures: bool,
    /// One table as Markdown
    #[arg(long)]
    markdown: bool,
}

/// What this reads of a report.
#[derive(Deserialize)]
struct Saved {
    machine: Machine,
    comparisons: Vec<Comparison>,
    goals: Vec<Outcome>,
}

#[derive(Deserialize)]
struct Comparison {
    title: String,
    measures: Vec<Measure>,
    skipped: Vec<Skipped>,
}

#[derive(Deserialize)]
struct Measure {
    name: String,
    unit: String,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    spread: Spread,
}

#[derive(Deserialize)]
struct Skipped {
    name: String,
    reason: String,
}

impl Show {
    /// Prints them.
    pub(super) fn run(self) -> anyhow::Result<()> {
        let reports = self.files.iter().map(|file| read(file)).collect::<anyhow::Result<Vec<_>>>()?;
        let goals: Vec<&Outcome> = reports.iter().flat_map(|report| &report.goals).collect();
        let mut output = stdout().lock();
        if let Some(report) = reports.first() {
            writeln!(output, "{}", report.machine.line())?;
        }
        if self.figures {
            for comparison in reports.iter().flat_map(|report| &report.comparisons) {
                figures(comparison, &mut output)?;
            }
        } else if self.markdown {
            markdown(&goals, &mut output)?
        } else {
            text(&goals, &mut output)?
        }
        let count = |verdict| goals.iter().filter(|goal| goal.verdict == verdict).count();
        let (met, missed, skipped) = (count(Verdict::Met), count(Verdict::Missed), count(Verdict::Skipped));
        writeln!(output, "\n{met} met, {missed} missed, {skipped} skipped")?;
        Ok(())
    }
}

fn read(file: &Path) -> anyhow::Result<Saved> {
    let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is no report of `photondb bench`", file.display()))
}

/// A table a comparison.
fn text(goals: &[&Outcome], output: &mut impl Write) -> anyhow::Result<()> {
    for goals in goals.chunk_by(|a, b| a.what == b.what) {
        let mut table = Table::new([
            ("  FIGURE", Align::Left),
            ("", Align::Right),
            ("BASELINE", Align::Left),
            ("", Align::Right),
            ("RATIO", Align::Left),
            ("GOAL", Align::Left),
            ("", Align::Left),
        ]);
        for goal in goals {
            table.row([
                format!("  {}", name(&goal.figure)),
                value(&goal.figure),
                name(&goal.baseline),
                value(&goal.baseline),
                goal.ratio.map_or_else(|| "-".into(), spread),
                goal.goal.clone(),
                verdict(goal),
            ]);
        }
        let what = goals.first().map_or("", |goal| &goal.what);
        write!(output, "\n{what}\n{table}")?;
    }
    Ok(())
}

/// The middle of the rounds of every measure, a row a case.
fn figures(comparison: &Comparison, output: &mut impl Write) -> anyhow::Result<()> {
    let Comparison { title, measures, skipped } = comparison;
    let heading = |measure: &Measure| match measure.unit.as_str() {
        "" => measure.name.clone(),
        unit => format!("{}, {unit}", measure.name),
    };
    let cases = measures.first().map_or(&[][..], |measure| &measure.cases);
    let rows = cases.iter().enumerate().map(|(at, case)| {
        let values = measures.iter().map(move |measure| measure.cases.get(at));
        let values = values.map(|case| case.map_or_else(|| "-".into(), |case| number(case.spread.median)));
        (&case.name, values.collect::<Vec<String>>())
    });
    let headings: Vec<String> = measures.iter().map(heading).collect();
    writeln!(output, "\n{title}\n\n| | {} |\n|---|{}", headings.join(" | "), "--:|".repeat(measures.len()))?;
    for (case, values) in rows {
        writeln!(output, "| {case} | {} |", values.join(" | "))?;
    }
    for Skipped { name, reason } in skipped {
        writeln!(output, "\n{name}: skipped, {reason}")?;
    }
    Ok(())
}

fn markdown(goals: &[&Outcome], output: &mut impl Write) -> anyhow::Result<()> {
    writeln!(output, "\n| | figure | baseline in the same run | ratio | goal | |\n|---|---|---|--:|--:|---|")?;
    let mut last = "";
    for goal in goals {
        let Outcome { what, figure, baseline, ratio, goal: bound, .. } = goal;
        // Once is enough for the rows of a comparison.
        let what = if *what == std::mem::replace(&mut last, what) { "" } else { what };
        let ratio = ratio.map_or_else(|| "-".into(), spread);
        let (ours, theirs) = (value(figure), value(baseline));
        let (figure, baseline, verdict) = (name(figure), name(baseline), verdict(goal));
        writeln!(output, "| {what} | {figure}: {ours} | {baseline}: {theirs} | {ratio} | {bound} | {verdict} |")?;
    }
    Ok(())
}

fn name(figure: &Figure) -> String {
    format!("{}, {}", figure.case, figure.measure)
}

fn value(figure: &Figure) -> String {
    figure.value.map_or_else(|| "-".into(), |value| format!("{} {}", number(value.median), figure.unit))
}

fn spread(Spread { min, median, max }: Spread) -> String {
    format!("{median:.2}x [{min:.2} - {max:.2}]")
}

fn verdict(goal: &Outcome) -> String {
    match &goal.reason {
        Some(reason) => format!("{} ({reason})", goal.verdict),
        None => goal.verdict.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{self, Bound, Goal, Report, less};

    fn saved() -> Saved {
        let mut report = Report::silent("r");
        report.add(&bench::Comparison {
            title: "calls".into(),
            measures: vec![less("p50", "ns")],
            cases: vec!["raw".into(), "ours".into()],
            rounds: vec![vec![vec![100.0], vec![120.0]]],
            skipped: vec![("peer".into(), "not installed".into())],
            goals: vec![
                Goal::new(("ours", "p50"), Bound::AtMost(1.3), ("raw", "p50")),
                Goal::new(("ours", "p50"), Bound::Faster(5.0), ("peer", "p50")),
            ],
        });
        serde_json::from_value(report.to_json()).unwrap()
    }

    #[test]
    fn goals_are_shown_beside_their_baseline() {
        let (saved, mut output) = (saved(), Vec::new());
        text(&saved.goals.iter().collect::<Vec<_>>(), &mut output).unwrap();
        let text = String::from_utf8(output).unwrap();
        assert!(text.contains("calls\n  FIGURE"), "{text}");
        let line = text.lines().find(|line| line.contains("raw")).unwrap();
        for part in ["ours, p50", "120 ns", "raw, p50", "100 ns", "1.20x [1.20 - 1.20]", "<= 1.3x", "met"] {
            assert!(line.contains(part), "{line}");
        }
        assert!(text.contains("skipped (peer: not installed)"), "{text}");
    }

    #[test]
    fn every_figure_is_shown_also_of_what_has_no_goal() {
        let mut output = Vec::new();
        figures(&saved().comparisons[0], &mut output).unwrap();
        let expected =
            "\ncalls\n\n| | p50, ns |\n|---|--:|\n| raw | 100 |\n| ours | 120 |\n\npeer: skipped, not installed\n";
        assert_eq!(String::from_utf8(output).unwrap(), expected);
    }

    #[test]
    fn markdown_has_a_row_a_goal() {
        let (saved, mut output) = (saved(), Vec::new());
        markdown(&saved.goals.iter().collect::<Vec<_>>(), &mut output).unwrap();
        let text = String::from_utf8(output).unwrap();
        let row = "| calls | ours, p50: 120 ns | raw, p50: 100 ns | 1.20x [1.20 - 1.20] | <= 1.3x | met |";
        assert!(text.contains(row), "{text}");
    }
}
