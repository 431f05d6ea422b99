//! Conditions under a watchdog.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// No condition is waited for longer; none should need a tenth of it.
pub const WATCHDOG: Duration = Duration::from_secs(120);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(5);

/// Waits until `condition` gives something.
///
/// # Panics
/// When it does not in time; `what` tells what was waited for.
#[track_caller]
pub fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + WATCHDOG;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(PAUSE);
    }
}

/// Waits until `condition` is true.
///
/// # Panics
/// As [`until`].
#[track_caller]
pub fn until_true(what: &str, mut condition: impl FnMut() -> bool) {
    until(what, || condition().then_some(()));
}

/// A flag for threads that go on until it is raised. Raised on drop, too, so that a test that fails ends its threads.
#[derive(Debug, Default)]
pub struct Stop(AtomicBool);

/// Raises the flag that it is of.
#[derive(Debug)]
pub struct StopOnDrop<'a>(&'a Stop);

impl Stop {
    /// Whether the flag is raised.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Raises the flag when the value that this gives is dropped.
    #[must_use]
    pub fn on_drop(&self) -> StopOnDrop<'_> {
        StopOnDrop(self)
    }
}

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}
