//! What a figure is to be, beside another one of the same run.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::rounds::{Comparison, Spread};

/// What is to be reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// The figure is at most so many times the baseline.
    AtMost(f64),
    /// The figure is at least so many times the baseline: for calls a second.
    AtLeast(f64),
    /// The baseline is at least so many times the figure: for times.
    Faster(f64),
}

impl Bound {
    /// What this bound is about, of two figures.
    fn ratio(self, figure: f64, baseline: f64) -> f64 {
        match self {
            Self::AtMost(_) | Self::AtLeast(_) => figure / baseline,
            Self::Faster(_) => baseline / figure,
        }
    }

    fn is_met_by(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(bound) => ratio <= bound,
            Self::AtLeast(bound) | Self::Faster(bound) => ratio >= bound,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "<= {bound}x"),
            Self::AtLeast(bound) => write!(f, ">= {bound}x"),
            Self::Faster(bound) => write!(f, ">= {bound}x faster"),
        }
    }
}

/// One figure of a case is to be this many times another one.
#[derive(Clone, Debug)]
pub struct Goal {
    /// `(case, measure)`.
    figure: (String, String),
    bound: Bound,
    /// `(case, measure)`.
    baseline: (String, String),
}

impl Goal {
    /// `figure` and `baseline` are a case and one of its measures. It is the median of the rounds' ratios that has to reach
    /// the bound.
    ///
    /// ```
    /// # use photondb_server::bench::{Bound, Goal};
    /// Goal::new(("confined", "p50"), Bound::AtMost(1.3), ("raw ping-pong", "p50"));
    /// Goal::new(("confined", "p99"), Bound::AtMost(2.0), ("confined", "p50"));
    /// ```
    #[must_use]
    pub fn new(figure: (&str, &str), bound: Bound, baseline: (&str, &str)) -> Self {
        let owned = |(case, measure): (&str, &str)| (case.to_owned(), measure.to_owned());
        Self { figure: owned(figure), bound, baseline: owned(baseline) }
    }

    /// Whether the comparison reached it.
    #[must_use]
    pub fn judge(&self, comparison: &Comparison) -> Outcome {
        let mut outcome = Outcome {
            what: comparison.title.clone(),
            figure: Figure::named(&self.figure),
            baseline: Figure::named(&self.baseline),
            goal: self.bound.to_string(),
            ratio: None,
            verdict: Verdict::Skipped,
            reason: None,
        };
        let measured = (|| {
            let figures = outcome.figure.measured(comparison)?;
            let baselines = outcome.baseline.measured(comparison)?;
            Ok(figures.iter().zip(baselines).map(|(&figure, baseline)| self.bound.ratio(figure, baseline)).collect())
        })();
        match measured {
            Ok(ratios) => {
                let ratio = Spread::of(ratios);
                outcome.ratio = Some(ratio);
                outcome.verdict = if self.bound.is_met_by(ratio.median) { Verdict::Met } else { Verdict::Missed };
            }
            Err(reason) => outcome.reason = Some(reason),
        }
        outcome
    }
}

/// What became of a goal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The comparison's title.
    pub what: String,
    /// What was to be good.
    pub figure: Figure,
    /// Beside which.
    pub baseline: Figure,
    /// As `<= 1.3x`.
    pub goal: String,
    /// What the goal speaks of, over the rounds; none where one of both was not measured.
    pub ratio: Option<Spread>,
    /// Whether the median reached it.
    pub verdict: Verdict,
    /// Why it was skipped.
    pub reason: Option<String>,
}

/// One measure of one case.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// Its name.
    pub case: String,
    /// Its name.
    pub measure: String,
    /// Its unit.
    pub unit: String,
    /// Over the rounds; none where it was not measured.
    pub value: Option<Spread>,
}

impl Figure {
    fn named((case, measure): &(String, String)) -> Self {
        Self { case: case.clone(), measure: measure.clone(), unit: String::new(), value: None }
    }

    /// Its value in each round, or why there is none.
    fn measured(&mut self, comparison: &Comparison) -> Result<Vec<f64>, String> {
        let Some(case) = comparison.case(&self.case) else {
            let skipped = comparison.skipped.iter().find(|(name, _)| *name == self.case);
            let reason = skipped.map_or("not measured", |(_, reason)| reason);
            return Err(format!("{}: {reason}", self.case));
        };
        let measure = comparison.measures.iter().position(|measure| measure.name == self.measure);
        let measure = measure.ok_or_else(|| format!("{}: no measure {}", self.case, self.measure))?;
        comparison.measures[measure].unit.clone_into(&mut self.unit);
        let values = comparison.values(case, measure);
        self.value = Some(Spread::of(values.clone()));
        Ok(values)
    }
}

/// Whether a goal was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It was.
    Met,
    /// It was not.
    Missed,
    /// One of both figures could not be taken here.
    Skipped,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Met => "met",
            Self::Missed => "MISSED",
            Self::Skipped => "skipped",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::rounds::{less, more};
    use super::*;

    fn comparison() -> Comparison {
        Comparison {
            title: "calls".into(),
            measures: vec![less("p50", "ns"), more("calls", "per second")],
            cases: vec!["raw".into(), "ours".into()],
            rounds: vec![
                vec![vec![100.0, 10.0], vec![120.0, 9.0]],
                vec![vec![100.0, 10.0], vec![150.0, 8.0]],
                vec![vec![50.0, 20.0], vec![60.0, 18.0]],
            ],
            skipped: vec![("peer".into(), "not installed".into())],
            goals: Vec::new(),
        }
    }

    fn verdict(figure: (&str, &str), bound: Bound, baseline: (&str, &str)) -> Verdict {
        Goal::new(figure, bound, baseline).judge(&comparison()).verdict
    }

    #[test]
    fn the_median_of_the_ratios_decides() {
        assert_eq!(verdict(("ours", "p50"), Bound::AtMost(1.2), ("raw", "p50")), Verdict::Met);
        assert_eq!(verdict(("ours", "p50"), Bound::AtMost(1.1), ("raw", "p50")), Verdict::Missed);
        assert_eq!(verdict(("ours", "calls"), Bound::AtLeast(0.9), ("raw", "calls")), Verdict::Met);
        assert_eq!(verdict(("ours", "calls"), Bound::AtLeast(0.95), ("raw", "calls")), Verdict::Missed);
        assert_eq!(verdict(("raw", "p50"), Bound::Faster(1.2), ("ours", "p50")), Verdict::Met);
        assert_eq!(verdict(("raw", "p50"), Bound::Faster(1.3), ("ours", "p50")), Verdict::Missed);
    }

    #[test]
    fn a_goal_tells_both_figures_and_their_ratio() {
        let outcome = Goal::new(("ours", "p50"), Bound::AtMost(1.3), ("raw", "p50")).judge(&comparison());
        assert_eq!(outcome.figure.value, Some(Spread { min: 60.0, median: 120.0, max: 150.0 }));
        assert_eq!(outcome.baseline.value.map(|value| value.median), Some(100.0));
        assert_eq!(outcome.ratio, Some(Spread { min: 1.2, median: 1.2, max: 1.5 }));
        assert_eq!((outcome.goal.as_str(), outcome.figure.unit.as_str()), ("<= 1.3x", "ns"));
    }

    #[test]
    fn a_goal_beside_a_missing_peer_is_skipped_by_name() {
        let outcome = Goal::new(("ours", "p50"), Bound::Faster(5.0), ("peer", "p50")).judge(&comparison());
        assert_eq!(outcome.verdict, Verdict::Skipped);
        assert_eq!(outcome.reason.as_deref(), Some("peer: not installed"));
        assert_eq!(outcome.goal, ">= 5x faster");
    }

    #[test]
    fn nothing_measured_reaches_no_goal() {
        assert!(!Bound::AtMost(1.0).is_met_by(f64::NAN) && !Bound::Faster(1.0).is_met_by(f64::NAN));
    }
}
