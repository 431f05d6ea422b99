//! Cases measured against each other: in turns, so that whatever else the machine does meets all of them alike.

use std::time::{Duration, Instant};

/// How many times each case is measured, beside one time that does not count.
pub const ROUNDS: usize = 7;

/// One figure of a case.
pub struct Measure {
    pub name: &'static str,
    pub unit: &'static str,
    pub better: Better,
}

/// Which way is good.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Less,
    More,
}

/// A figure of which less is better.
pub const fn less(name: &'static str, unit: &'static str) -> Measure {
    Measure { name, unit, better: Better::Less }
}

/// A figure of which more is better.
pub const fn more(name: &'static str, unit: &'static str) -> Measure {
    Measure { name, unit, better: Better::More }
}

/// One way to do the work, and how to take its figures once, in the order of the measures.
pub struct Case<'a> {
    name: &'static str,
    run: Box<dyn FnMut() -> anyhow::Result<Vec<f64>> + 'a>,
}

impl<'a> Case<'a> {
    pub fn new(name: &'static str, run: impl FnMut() -> anyhow::Result<Vec<f64>> + 'a) -> Self {
        Self { name, run: Box::new(run) }
    }
}

/// What was measured. `rounds[round][case][measure]`; the first case is the baseline.
pub struct Comparison {
    pub title: String,
    pub measures: &'static [Measure],
    pub cases: Vec<&'static str>,
    pub rounds: Vec<Vec<Vec<f64>>>,
}

impl Comparison {
    /// Measures the cases, the first of which is the baseline of the others. Every other round runs backwards.
    ///
    /// # Errors
    /// The first one of a case.
    pub fn measure(
        title: impl Into<String>,
        measures: &'static [Measure],
        rounds: usize,
        mut cases: Vec<Case<'_>>,
    ) -> anyhow::Result<Self> {
        for case in &mut cases {
            (case.run)()?;
        }
        let mut figures = Vec::with_capacity(rounds);
        for round in 0..rounds {
            let mut order: Vec<usize> = (0..cases.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            let mut row = vec![Vec::new(); cases.len()];
            for case in order {
                row[case] = (cases[case].run)()?;
            }
            figures.push(row);
        }
        let cases = cases.iter().map(|case| case.name).collect();
        Ok(Self { title: title.into(), measures, cases, rounds: figures })
    }

    /// The figures of a case over the rounds.
    pub fn values(&self, case: usize, measure: usize) -> Vec<f64> {
        self.rounds.iter().map(|round| round[case][measure]).collect()
    }

    /// Those of a case, each divided by the baseline's of the same round.
    pub fn ratios(&self, case: usize, measure: usize) -> Vec<f64> {
        self.rounds.iter().map(|round| round[case][measure] / round[0][measure]).collect()
    }
}

/// The least, the middle and the greatest of several values.
pub struct Spread {
    pub min: f64,
    pub median: f64,
    pub max: f64,
}

impl Spread {
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |rank: usize| values.get(rank).copied().unwrap_or(f64::NAN);
        Self { min: at(0), median: at(values.len() / 2), max: at(values.len().saturating_sub(1)) }
    }
}

/// How long each of many calls took.
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
        taken.sort_unstable();
        Ok(Self(taken))
    }

    /// The time in seconds that `share` of the calls did not exceed.
    pub fn quantile(&self, share: f64) -> f64 {
        let rank = (self.0.len() as f64 * share) as usize;
        self.0.get(rank.min(self.0.len().saturating_sub(1))).map_or(f64::NAN, Duration::as_secs_f64)
    }

    /// Calls in a second.
    pub fn per_second(&self) -> f64 {
        self.0.len() as f64 / self.0.iter().sum::<Duration>().as_secs_f64()
    }
}

/// Seconds that `work` takes.
///
/// # Errors
/// That of `work`.
pub fn seconds<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<(f64, T)> {
    let start = Instant::now();
    let result = work()?;
    Ok((start.elapsed().as_secs_f64(), result))
}
