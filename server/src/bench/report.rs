//! Figures as tables for people and as JSON for programs.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use super::goal::{Outcome, Verdict};
use super::machine::Machine;
use super::rounds::{Better, Comparison, Spread};

/// Everything that a run measured.
pub struct Report {
    title: String,
    machine: Machine,
    comparisons: Vec<Value>,
    outcomes: Vec<Outcome>,
    /// Whether people read it as it grows.
    prints: bool,
}

impl Report {
    /// Begins a report that is printed as it grows, with the name of the machine.
    #[must_use]
    pub fn begin(title: &str) -> Self {
        let report = Self { prints: true, ..Self::silent(title) };
        println!("{title}\n{}", report.machine.line());
        println!(
            "Median [least - greatest] of several rounds that alternate between the cases; the ratio is to the first case \
             of the same round."
        );
        report
    }

    /// Begins a report that prints nothing.
    #[must_use]
    pub fn silent(title: &str) -> Self {
        let (comparisons, outcomes) = (Vec::new(), Vec::new());
        Self { title: title.into(), machine: Machine::now(), comparisons, outcomes, prints: false }
    }

    /// Keeps a comparison, and judges its goals.
    pub fn add(&mut self, comparison: &Comparison) {
        let outcomes: Vec<Outcome> = comparison.goals.iter().map(|goal| goal.judge(comparison)).collect();
        if self.prints {
            print(comparison);
            outcomes.iter().for_each(|outcome| println!("  {}", line(outcome)));
        }
        self.comparisons.push(to_json(comparison));
        self.outcomes.extend(outcomes);
    }

    /// What became of the goals so far.
    #[must_use]
    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    /// All of it, for programs.
    ///
    /// `comparisons[].measures[].cases[]` has each case's `values`, one a round, their `spread`, and the spread of their
    /// `ratio` to the first case, which is the `baseline`. `goals[]` has what was to be reached: a `figure` and its
    /// `baseline`, the `goal` in words, the `ratio` that it speaks of, and the `verdict`: `met`, `missed` or `skipped`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "title": self.title,
            "machine": self.machine.afterwards(),
            "comparisons": self.comparisons,
            "goals": self.outcomes,
        })
    }

    /// Ends the report, and writes it to `file` if there is one.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn end(self, file: Option<&Path>) -> anyhow::Result<()> {
        if self.prints {
            println!("\nload at the end: {}", self.machine.afterwards().load_after());
        }
        let Some(file) = file else { return Ok(()) };
        let text = format!("{:#}\n", self.to_json());
        fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }
}

fn print(comparison: &Comparison) {
    println!("\n{} ({} rounds)", comparison.title, comparison.rounds.len());
    let width = comparison.cases.iter().map(|case| case.chars().count()).max().unwrap_or(0);
    for (at, measure) in comparison.measures.iter().enumerate() {
        let direction = match measure.better {
            Better::Less => "less is better",
            Better::More => "more is better",
        };
        let unit = if measure.unit.is_empty() { String::new() } else { format!("{}, ", measure.unit) };
        println!("  {}: {unit}{direction}", measure.name);
        for (case, name) in comparison.cases.iter().enumerate() {
            let Spread { min, median, max } = Spread::of(comparison.values(case, at));
            let value = format!("{} [{} - {}]", number(median), number(min), number(max));
            let ratio = if case == 0 { "baseline".into() } else { times(Spread::of(comparison.ratios(case, at))) };
            println!("    {name:width$}  {value:>36}  {ratio:>26}");
        }
    }
    for (case, reason) in &comparison.skipped {
        println!("  SKIPPED: {case}: {reason}");
    }
}

fn times(Spread { min, median, max }: Spread) -> String {
    format!("{median:.3}x [{min:.3} - {max:.3}]")
}

/// A goal and what became of it, in one line.
fn line(outcome: &Outcome) -> String {
    let Outcome { figure, baseline, goal, verdict, .. } = outcome;
    let both = format!("{}, {}, beside {}, {}", figure.case, figure.measure, baseline.case, baseline.measure);
    match (verdict, outcome.ratio) {
        (Verdict::Skipped, _) | (_, None) => {
            format!("goal {verdict}: {both}: {goal} ({})", outcome.reason.as_deref().unwrap_or("not measured"))
        }
        (_, Some(ratio)) => format!("goal {verdict}: {both}: {goal}, is {}", times(ratio)),
    }
}

fn to_json(comparison: &Comparison) -> Value {
    let measures = comparison.measures.iter().enumerate().map(|(at, measure)| {
        let cases = comparison.cases.iter().enumerate().map(|(case, name)| {
            let values = comparison.values(case, at);
            json!({
                "name": name,
                "baseline": case == 0,
                "values": values,
                "spread": Spread::of(values.clone()),
                "ratio": Spread::of(comparison.ratios(case, at)),
            })
        });
        json!({
            "name": measure.name,
            "unit": measure.unit,
            "better": measure.better,
            "cases": cases.collect::<Vec<_>>(),
        })
    });
    let skipped = comparison.skipped.iter().map(|(name, reason)| json!({ "name": name, "reason": reason }));
    json!({
        "title": comparison.title,
        "measures": measures.collect::<Vec<_>>(),
        "skipped": skipped.collect::<Vec<_>>(),
    })
}

/// With at least three digits that mean something, and thousands apart.
#[must_use]
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size < 10.0 => format!("{value:.3}"),
        size if size < 100.0 => format!("{value:.1}"),
        _ => {
            let digits = format!("{value:.0}");
            let mut apart = String::new();
            for (at, digit) in digits.chars().enumerate() {
                if at > 0 && (digits.len() - at).is_multiple_of(3) {
                    apart.push(',');
                }
                apart.push(digit);
            }
            apart
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::goal::{Bound, Goal};
    use super::super::rounds::less;
    use super::*;

    #[test]
    fn the_json_has_every_round_and_every_goal() {
        let comparison = Comparison {
            title: "calls".into(),
            measures: vec![less("p50", "ns")],
            cases: vec!["raw".into(), "ours".into()],
            rounds: vec![vec![vec![100.0], vec![125.0]], vec![vec![50.0], vec![87.5]]],
            skipped: vec![("peer".into(), "not installed".into())],
            goals: vec![
                Goal::new(("ours", "p50"), Bound::AtMost(1.3), ("raw", "p50")),
                Goal::new(("ours", "p50"), Bound::Faster(5.0), ("peer", "p50")),
            ],
        };
        let mut report = Report::silent("plugins");
        report.add(&comparison);
        let json = report.to_json();
        assert_eq!(json["title"], "plugins");
        assert!(json["machine"]["kernel"].is_string());
        let ours = &json["comparisons"][0]["measures"][0]["cases"][1];
        assert_eq!(
            *ours,
            json!({
                "name": "ours",
                "baseline": false,
                "values": [125.0, 87.5],
                "spread": { "min": 87.5, "median": 106.25, "max": 125.0 },
                "ratio": { "min": 1.25, "median": 1.5, "max": 1.75 },
            })
        );
        assert_eq!(json["comparisons"][0]["skipped"], json!([{ "name": "peer", "reason": "not installed" }]));
        assert_eq!(json["goals"][0]["verdict"], "missed");
        assert_eq!(json["goals"][0]["goal"], "<= 1.3x");
        assert_eq!(json["goals"][1]["verdict"], "skipped");
        assert_eq!(json["goals"][1]["reason"], "peer: not installed");
        let again: Vec<Outcome> = serde_json::from_value(json["goals"].clone()).unwrap();
        assert_eq!(again[0].ratio, report.outcomes()[0].ratio);
    }

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!(["0.123", "12.3", "123", "1,234,567"], [0.1234, 12.34, 123.4, 1_234_567.0].map(number)[..]);
        assert_eq!(number(-1234.0), "-1,234");
    }
}
