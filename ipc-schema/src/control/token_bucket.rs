//! So much a second, on average, and a second's worth at once.

use std::time::{Duration, Instant};

/// A rate: `per_second` of something, of which a second's worth may come at once.
#[derive(Debug)]
pub struct TokenBucket {
    per_second: u32,
    level: f64,
    filled: Instant,
}

impl TokenBucket {
    /// A full bucket.
    #[must_use]
    pub fn new(per_second: u32, now: Instant) -> Self {
        Self { per_second, level: f64::from(per_second), filled: now }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        let most = f64::from(self.per_second);
        self.level = (self.level + passed * most).min(most);
        self.filled = self.filled.max(now);
    }

    /// Takes `count` if they are there.
    #[must_use]
    pub fn take(&mut self, count: u32, now: Instant) -> bool {
        self.wait_for(count, now).is_zero()
    }

    /// Takes `count` and returns zero if they are there; otherwise takes nothing, and says in what time they will be.
    #[must_use]
    pub fn wait_for(&mut self, count: u32, now: Instant) -> Duration {
        self.fill(now);
        let missing = f64::from(count) - self.level;
        if missing > 0.0 {
            return Duration::from_secs_f64(missing / f64::from(self.per_second)).max(Duration::from_micros(1));
        }
        self.level -= f64::from(count);
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_at_once_and_no_more_than_that_every_second() {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(10, start);
        let taken = (0..20).filter(|_| bucket.take(1, start)).count();
        assert_eq!(taken, 10);
        let later = start + Duration::from_millis(500);
        assert_eq!((0..20).filter(|_| bucket.take(1, later)).count(), 5);
        assert_eq!(bucket.wait_for(2, later), Duration::from_millis(200));
        assert!(!bucket.take(1, start), "a clock that goes back fills nothing");
        assert!(bucket.take(10, start + Duration::from_secs(3600)));
        assert!(!bucket.take(1, start + Duration::from_secs(3600)), "what was not used is not kept");
    }
}
