//! How a waiting side waits: it spins for a short while, then sleeps in the kernel.
//!
//! Waking a sleeper on another core costs tens of microseconds, whatever the primitive; spinning costs a fraction of
//! one. So both sides look at the word for about as long as a wake-up would cost, and only then sleep. A producer
//! makes a system call only when its peer says that it sleeps.

use std::hint::spin_loop;
use std::time::{Duration, Instant};

/// How long to spin before sleeping.
#[derive(Clone, Copy, Debug)]
pub struct Spin(Duration);

impl Spin {
    /// Never spin: sleep at once.
    pub const NEVER: Self = Self(Duration::ZERO);

    /// About the price of one wake-up; none where there is no second core to do the work meanwhile.
    #[must_use]
    pub fn for_this_machine() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        if cores > 1 { Self(Duration::from_micros(50)) } else { Self::NEVER }
    }

    /// Looks again and again until `ready` answers, for as long as this budget lasts.
    pub fn until<T>(self, mut ready: impl FnMut() -> Option<T>) -> Option<T> {
        if let Some(found) = ready() {
            return Some(found);
        }
        if self.0.is_zero() {
            return None;
        }
        // The clock is read once in a while: it costs as much as many looks.
        let start = Instant::now();
        loop {
            for _ in 0..64 {
                if let Some(found) = ready() {
                    return Some(found);
                }
                spin_loop();
            }
            if start.elapsed() >= self.0 {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spinning_ends() {
        assert_eq!(Spin(Duration::from_micros(10)).until(|| None::<()>), None);
        assert_eq!(Spin::NEVER.until(|| Some(1)), Some(1));
    }
}
