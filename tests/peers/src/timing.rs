//! How long each of many round trips took.

use std::io::{Write, stdout};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use super::Arguments;

/// Times of single calls.
pub struct Timing<'a> {
    arguments: &'a Arguments,
    made: usize,
    taken: Vec<Duration>,
    last: Instant,
}

impl<'a> Timing<'a> {
    pub fn new(arguments: &'a Arguments) -> Self {
        Self { arguments, made: 0, taken: Vec::with_capacity(arguments.calls), last: Instant::now() }
    }

    /// Makes the calls, and prints how long they took.
    pub fn run(mut self, mut call: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
        while self.before() {
            call()?;
            self.after();
        }
        self.print()
    }

    /// The same for calls that are awaited.
    #[allow(dead_code, reason = "only the libraries await")]
    pub async fn run_async(mut self, mut call: impl AsyncFnMut() -> anyhow::Result<()>) -> anyhow::Result<()> {
        while self.before() {
            call().await?;
            self.after();
        }
        self.print()
    }

    /// Sleeps where there is a gap; `false` once all calls were made. The clock is read once a call otherwise.
    fn before(&mut self) -> bool {
        if !self.arguments.gap().is_zero() {
            sleep(self.arguments.gap());
            self.last = Instant::now();
        }
        self.made < self.arguments.round_trips()
    }

    fn after(&mut self) {
        let now = Instant::now();
        if self.made >= self.arguments.warm_up {
            self.taken.push(now - self.last);
        }
        self.made += 1;
        self.last = now;
    }

    fn print(mut self) -> anyhow::Result<()> {
        self.taken.sort_unstable();
        let ns = |duration: &Duration| duration.as_secs_f64() * 1e9;
        let at = |share: f64| {
            let rank = (self.taken.len() as f64 * share) as usize;
            self.taken.get(rank.min(self.taken.len().saturating_sub(1))).map(ns)
        };
        let mean = self.taken.iter().map(ns).sum::<f64>() / self.taken.len() as f64;
        writeln!(stdout(), "{}", json!({ "p50": at(0.5), "p99": at(0.99), "mean": mean }))?;
        Ok(())
    }
}
