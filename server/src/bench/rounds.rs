//! Cases measured against each other: in turns, so that whatever else the machine does meets all of them alike.

use std::io::{IsTerminal, stderr};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::goal::Goal;

/// How many times each case is measured, beside one time that does not count.
pub const ROUNDS: usize = 7;

/// One figure of a case.
#[derive(Clone, Copy, Debug)]
pub struct Measure {
    /// As `p50`.
    pub name: &'static str,
    /// As `ns`; empty where there is none.
    pub unit: &'static str,
    /// Which way is good.
    pub better: Better,
}

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Times, bytes.
    Less,
    /// Calls a second, recall.
    More,
}

/// A figure of which less is better.
#[must_use]
pub const fn less(name: &'static str, unit: &'static str) -> Measure {
    Measure { name, unit, better: Better::Less }
}

/// A figure of which more is better.
#[must_use]
pub const fn more(name: &'static str, unit: &'static str) -> Measure {
    Measure { name, unit, better: Better::More }
}

type Run<'a> = Box<dyn FnMut() -> anyhow::Result<Vec<f64>> + 'a>;

/// One way to do the work.
pub struct Case<'a> {
    name: String,
    /// Or why it can't be measured here.
    run: Result<Run<'a>, String>,
}

impl<'a> Case<'a> {
    /// `run` takes the figures once, in the order of the comparison's measures.
    pub fn new(name: impl Into<String>, run: impl FnMut() -> anyhow::Result<Vec<f64>> + 'a) -> Self {
        Self { name: name.into(), run: Ok(Box::new(run)) }
    }

    /// A case that can't be measured here, and why: the report names it, so that nobody takes it for forgotten.
    pub fn skipped(name: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { name: name.into(), run: Err(reason.into()) }
    }
}

/// What was measured.
#[derive(Clone, Debug, Default)]
pub struct Comparison {
    /// What the cases do.
    pub title: String,
    /// The figures of each case.
    pub measures: Vec<Measure>,
    /// The ways to do it; the first one is the baseline of the others.
    pub cases: Vec<String>,
    /// `rounds[round][case][measure]`.
    pub rounds: Vec<Vec<Vec<f64>>>,
    /// Cases that could not be measured here, and why.
    pub skipped: Vec<(String, String)>,
    /// What the figures are to be.
    pub goals: Vec<Goal>,
}

impl Comparison {
    /// Measures the cases, the first of which is the baseline of the others: once without counting it, then `rounds` times,
    /// every other time backwards.
    ///
    /// # Errors
    /// The first one of a case.
    pub fn measure(
        title: impl Into<String>,
        measures: &[Measure],
        rounds: usize,
        cases: Vec<Case<'_>>,
    ) -> anyhow::Result<Self> {
        let mut comparison = Self { title: title.into(), measures: measures.to_vec(), ..Self::default() };
        let mut runs = Vec::new();
        for Case { name, run } in cases {
            match run {
                Ok(run) => {
                    comparison.cases.push(name);
                    runs.push(run);
                }
                Err(reason) => comparison.skipped.push((name, reason)),
            }
        }
        for round in 0..=rounds {
            let mut order: Vec<usize> = (0..runs.len()).collect();
            if round % 2 == 0 {
                order.reverse();
            }
            let mut row = vec![Vec::new(); runs.len()];
            for case in order {
                comparison.tell(round, rounds, case);
                row[case] = runs[case]()?;
            }
            if round > 0 {
                comparison.rounds.push(row);
            }
        }
        clear_progress();
        Ok(comparison)
    }

    /// The same, with something to reach.
    #[must_use]
    pub fn with_goal(mut self, goal: Goal) -> Self {
        self.goals.push(goal);
        self
    }

    /// The place of a case, if it was measured.
    #[must_use]
    pub fn case(&self, name: &str) -> Option<usize> {
        self.cases.iter().position(|case| case == name)
    }

    /// The figures of a case over the rounds.
    #[must_use]
    pub fn values(&self, case: usize, measure: usize) -> Vec<f64> {
        self.rounds.iter().map(|round| round[case][measure]).collect()
    }

    /// Those of a case, each divided by the baseline's of the same round.
    #[must_use]
    pub fn ratios(&self, case: usize, measure: usize) -> Vec<f64> {
        self.rounds.iter().map(|round| round[case][measure] / round[0][measure]).collect()
    }

    /// Where somebody watches, what is being measured.
    fn tell(&self, round: usize, rounds: usize, case: usize) {
        if stderr().is_terminal() {
            eprint!("\r\x1b[Kround {round} of {rounds}: {}", self.cases[case]);
        } else if round == 0 && case == self.cases.len() - 1 {
            eprintln!("measuring: {}", self.title);
        }
    }
}

fn clear_progress() {
    if stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}

/// The least, the middle and the greatest of several values.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The least.
    pub min: f64,
    /// The middle one; of an even number, the mean of the two.
    pub median: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of values in any order; not a number where there are none.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |rank: usize| values.get(rank).copied().unwrap_or(f64::NAN);
        let last = values.len().saturating_sub(1);
        Self { min: at(0), median: f64::midpoint(at(last / 2), at(last.div_ceil(2))), max: at(last) }
    }
}

/// How long each of many calls took.
#[derive(Clone, Debug)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// Makes `calls` calls, one after the other. The clock is read once a call, so its cost is in every one of them.
    ///
    /// # Errors
    /// The first one of a call.
    pub fn of(calls: usize, mut call: impl FnMut(usize) -> anyhow::Result<()>) -> anyhow::Result<Self> {
        let mut taken = Vec::with_capacity(calls);
        let mut last = Instant::now();
        for number in 0..calls {
            call(number)?;
            let now = Instant::now();
            taken.push(now - last);
            last = now;
        }
        Ok(Self::from_unsorted(taken))
    }

    /// As [`of`](Self::of), with a sleep before each call, which is not part of it.
    ///
    /// # Errors
    /// The first one of a call.
    pub fn spaced(
        calls: usize,
        gap: Duration,
        mut call: impl FnMut(usize) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        if gap.is_zero() {
            return Self::of(calls, call);
        }
        let mut taken = Vec::with_capacity(calls);
        for number in 0..calls {
            sleep(gap);
            let start = Instant::now();
            call(number)?;
            taken.push(start.elapsed());
        }
        Ok(Self::from_unsorted(taken))
    }

    /// Of calls that were timed one by one.
    #[must_use]
    pub fn from_unsorted(mut taken: Vec<Duration>) -> Self {
        taken.sort_unstable();
        Self(taken)
    }

    /// The time in seconds that `share` of the calls did not exceed.
    #[must_use]
    pub fn quantile(&self, share: f64) -> f64 {
        let rank = (self.0.len() as f64 * share) as usize;
        self.0.get(rank.min(self.0.len().saturating_sub(1))).map_or(f64::NAN, Duration::as_secs_f64)
    }

    /// Calls in a second.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        self.0.len() as f64 / self.0.iter().sum::<Duration>().as_secs_f64()
    }
}

/// Seconds that `work` takes, and its result.
///
/// # Errors
/// That of `work`.
pub fn seconds<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(f64, T)> {
    let start = Instant::now();
    let result = work()?;
    Ok((start.elapsed().as_secs_f64(), result))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn rounds_alternate_and_the_first_one_does_not_count() {
        let order = RefCell::new(Vec::new());
        let case = |name: &'static str| {
            let order = &order;
            Case::new(name, move || {
                order.borrow_mut().push(name);
                Ok(vec![order.borrow().len() as f64])
            })
        };
        let cases = vec![case("a"), Case::skipped("peer", "not installed"), case("b")];
        let comparison = Comparison::measure("t", &[less("time", "s")], 2, cases).unwrap();
        assert_eq!(*order.borrow(), ["b", "a", "a", "b", "b", "a"]);
        assert_eq!(comparison.rounds, [[[3.0], [4.0]], [[6.0], [5.0]]]);
        assert_eq!(comparison.ratios(1, 0), [4.0 / 3.0, 5.0 / 6.0]);
        assert_eq!(comparison.cases, ["a", "b"]);
        assert_eq!(comparison.skipped, [("peer".to_owned(), "not installed".to_owned())]);
    }

    #[test]
    fn the_error_of_a_case_ends_the_comparison() {
        let cases = vec![Case::new("a", || anyhow::bail!("broken"))];
        assert_eq!(Comparison::measure("t", &[less("time", "s")], 2, cases).unwrap_err().to_string(), "broken");
    }

    #[test]
    fn a_spread_is_of_any_order_and_of_nothing() {
        assert_eq!(Spread::of(vec![3.0, 1.0, 2.0]), Spread { min: 1.0, median: 2.0, max: 3.0 });
        assert_eq!(Spread::of(vec![3.0, 1.0]).median, 2.0);
        assert!(Spread::of(Vec::new()).median.is_nan());
    }

    #[test]
    fn quantiles_are_of_the_calls() {
        let latencies = Latencies::from_unsorted((1..=100).rev().map(Duration::from_secs).collect());
        assert_eq!(latencies.quantile(0.0), 1.0);
        assert_eq!(latencies.quantile(0.5), 51.0);
        assert_eq!(latencies.quantile(0.99), 100.0);
        assert_eq!(latencies.quantile(1.0), 100.0);
        assert_eq!(latencies.per_second(), 100.0 / 5050.0);
        assert!(Latencies::from_unsorted(Vec::new()).quantile(0.5).is_nan());
    }
}
