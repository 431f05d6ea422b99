//! Other ways to ask another process, from `tests/peers`: a program that measures one of them and prints what it took.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use serde::Deserialize;

use super::rounds::Case;

/// Where the program is looked for first.
const VARIABLE: &str = "PHOTONDB_BENCH_PEERS";

/// The program, if it was built, and what it knows.
pub struct Peers {
    program: PathBuf,
    known: Vec<String>,
}

/// What one round trip took, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
pub struct Timing {
    /// Half of them took no longer.
    pub p50: f64,
    /// Ninety-nine in a hundred took no longer.
    pub p99: f64,
    /// The mean.
    pub mean: f64,
}

impl Peers {
    /// Looks for the program as `make bench` builds it.
    #[must_use]
    pub fn find() -> Self {
        let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers/release/photondb-bench-peers");
        let program = std::env::var_os(VARIABLE).map_or(built, PathBuf::from);
        // Without arguments it lists what it knows; where it is missing, it knows nothing.
        let listed = Command::new(&program).output().map(|output| output.stdout).unwrap_or_default();
        let known = String::from_utf8_lossy(&listed).lines().map(str::to_owned).collect();
        Self { program, known }
    }

    /// One of them as a case; skipped, and why, where it was not built.
    ///
    /// `arguments`: the name of a peer and options, as `futex --cores same`. `figures` makes the figures of the case.
    pub fn case<'a>(
        &'a self,
        name: impl Into<String>,
        arguments: &'a str,
        figures: impl Fn(Timing) -> Vec<f64> + 'a,
    ) -> Case<'a> {
        let peer = arguments.split(' ').next().unwrap_or_default();
        if self.known.is_empty() {
            return Case::skipped(name, "tests/peers was not built");
        }
        if !self.known.iter().any(|known| known == peer) {
            return Case::skipped(name, format!("tests/peers was built without {peer}; see the output of its build"));
        }
        Case::new(name, move || Ok(figures(self.measure(arguments)?)))
    }

    fn measure(&self, arguments: &str) -> anyhow::Result<Timing> {
        let output = Command::new(&self.program).args(arguments.split(' ')).output();
        let output = output.with_context(|| format!("cannot run {}", self.program.display()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "the peer `{arguments}` failed, {}: {}", output.status, said.trim());
        let line = String::from_utf8(output.stdout)?;
        serde_json::from_str(&line).with_context(|| format!("the peer `{arguments}` printed no timing: {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::rounds::{Comparison, less};
    use super::*;

    #[test]
    fn a_timing_is_a_line_of_json() {
        let timing: Timing = serde_json::from_str("{\"mean\":380.0,\"p50\":330.0,\"p99\":530.0}\n").unwrap();
        assert_eq!(timing, Timing { p50: 330.0, p99: 530.0, mean: 380.0 });
    }

    #[test]
    fn peers_that_were_not_built_are_skipped_by_name() {
        let none = Peers { program: "/nowhere".into(), known: Vec::new() };
        let some = Peers { program: "/nowhere".into(), known: vec!["spin".into()] };
        let figures = |timing: Timing| vec![timing.p50];
        let cases = vec![none.case("a", "spin", figures), some.case("b", "tonic --cores same", figures)];
        let comparison = Comparison::measure("t", &[less("p50", "ns")], 1, cases).unwrap();
        assert!(comparison.cases.is_empty());
        assert_eq!(comparison.skipped[0], ("a".into(), "tests/peers was not built".into()));
        assert!(comparison.skipped[1].1.contains("without tonic"));
    }
}
