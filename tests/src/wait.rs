//! Conditions under a watchdog.

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
