//! Figures as tables for people and as JSON for programs.

use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::{Value, json};

use super::machine::{self, Machine};
use super::rounds::{Better, Comparison, Spread};

/// Everything that a run measured.
pub struct Report {
    machine: Machine,
    comparisons: Vec<Value>,
}

impl Report {
    /// Begins a report by naming the machine.
    pub fn begin(title: &str) -> Self {
        let machine = Machine::now();
        println!("{title}\n{}", machine.line());
        println!(
            "Median [least - greatest] of several rounds that alternate between the cases; the ratio is to the first case \
             of the same round."
        );
        Self { machine, comparisons: Vec::new() }
    }

    /// Prints a comparison and keeps it.
    pub fn add(&mut self, comparison: &Comparison) {
        print(comparison);
        self.comparisons.push(to_json(comparison));
    }

    /// Ends the report, and writes it to `file` if there is one.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn end(self, file: Option<&Path>) -> anyhow::Result<()> {
        println!("\nload at the end: {}", machine::load());
        let Some(file) = file else { return Ok(()) };
        let report = json!({ "machine": self.machine.to_json(), "comparisons": self.comparisons });
        fs::write(file, format!("{report:#}\n")).with_context(|| format!("cannot write {}", file.display()))
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
            let ratio = if case == 0 {
                "baseline".into()
            } else {
                let Spread { min, median, max } = Spread::of(comparison.ratios(case, at));
                format!("{median:.3}x [{min:.3} - {max:.3}]")
            };
            println!("    {name:width$}  {value:>36}  {ratio:>26}");
        }
    }
}

fn to_json(comparison: &Comparison) -> Value {
    let spread = |values: Vec<f64>| {
        let Spread { min, median, max } = Spread::of(values);
        json!({ "min": min, "median": median, "max": max })
    };
    let measures = comparison.measures.iter().enumerate().map(|(at, measure)| {
        let cases = comparison.cases.iter().enumerate().map(|(case, name)| {
            let values = comparison.values(case, at);
            json!({
                "name": name,
                "baseline": case == 0,
                "values": values,
                "spread": spread(values.clone()),
                "ratio": spread(comparison.ratios(case, at)),
            })
        });
        json!({
            "name": measure.name,
            "unit": measure.unit,
            "better": if measure.better == Better::Less { "less" } else { "more" },
            "cases": cases.collect::<Vec<_>>(),
        })
    });
    json!({ "title": comparison.title, "measures": measures.collect::<Vec<_>>() })
}

/// With at least three digits that mean something, and thousands apart.
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
