//! What a plugin costs, counted by the server, never reported by the plugin.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use photondb_ipc_schema::lane::Traffic;

/// Durations that the percentiles are computed from.
const RECENT: usize = 1024;

/// Counters of one plugin, over all its instances.
#[derive(Debug)]
pub struct Counters {
    calls: AtomicU64,
    errors: AtomicU64,
    restarts: AtomicU64,
    busy_between_calls: AtomicU64,
    traffic: Traffic,
    /// Durations of the last calls in microseconds plus one; 0: none yet.
    recent: Box<[AtomicU32]>,
}

impl Default for Counters {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            calls: zero(),
            errors: zero(),
            restarts: zero(),
            busy_between_calls: zero(),
            traffic: Traffic::default(),
            recent: (0..RECENT).map(|_| AtomicU32::new(0)).collect(),
        }
    }
}

/// What the counters say.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Totals {
    /// Calls, successful or not.
    pub calls: u64,
    /// Calls that failed.
    pub errors: u64,
    /// Starts after the process had died.
    pub restarts: u64,
    /// Times that it was caught using the processor while no call was on its way.
    pub busy_between_calls: u64,
    /// Bytes that the plugin read in place.
    pub bytes_shared: u64,
    /// Bytes copied out of what the plugin wrote.
    pub bytes_copied: u64,
    /// Half of the recent calls took no longer than this, in milliseconds.
    pub p50_ms: Option<f64>,
    /// 99 of 100 recent calls took no longer than this, in milliseconds.
    pub p99_ms: Option<f64>,
}

impl Counters {
    /// Counts a call.
    pub fn record(&self, duration: Duration, succeeded: bool) {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        if !succeeded {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        let microseconds = u32::try_from(duration.as_micros()).unwrap_or(u32::MAX - 1);
        self.recent[(call % RECENT as u64) as usize].store(microseconds + 1, Ordering::Relaxed);
    }

    /// Counts a restart.
    pub fn restarted(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts that it was caught using the processor while no call was on its way.
    pub fn burned(&self) {
        self.busy_between_calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts what goes through the lanes of all its processes.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// All of it.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut recent: Vec<u32> =
            self.recent.iter().filter_map(|slot| slot.load(Ordering::Relaxed).checked_sub(1)).collect();
        recent.sort_unstable();
        let percentile =
            |part: usize| recent.get(recent.len().saturating_sub(1) * part / 100).map(|&us| f64::from(us) / 1000.0);
        Totals {
            calls: self.calls.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            restarts: self.restarts.load(Ordering::Relaxed),
            busy_between_calls: self.busy_between_calls.load(Ordering::Relaxed),
            bytes_shared: self.traffic.shared(),
            bytes_copied: self.traffic.copied(),
            p50_ms: percentile(50),
            p99_ms: percentile(99),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_recent_calls() {
        let counters = Counters::default();
        assert_eq!(counters.totals().p50_ms, None);
        for call in 0..RECENT as u64 + 100 {
            counters.record(Duration::from_micros(if call < 100 { 9_000_000 } else { call - 99 }), call % 2 == 0);
        }
        let totals = counters.totals();
        assert_eq!((totals.calls, totals.errors), (1124, 562));
        assert_eq!((totals.p50_ms, totals.p99_ms), (Some(0.512), Some(1.013)));
    }
}
