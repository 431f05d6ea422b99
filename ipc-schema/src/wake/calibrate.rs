//! Measures what it costs to wake a thread that sleeps on another core.

use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Round trips; the median counts, so that a few slow ones don't.
const ROUNDS: usize = 41;
/// What is believed: bare metal has about 2 µs, a busy virtual machine 60.
const PLAUSIBLE: (Duration, Duration) = (Duration::from_micros(2), Duration::from_micros(100));

/// The price of one wake-up. Takes a few milliseconds.
pub(super) fn wake_up() -> Duration {
    let cores = two_cores();
    let median = thread::scope(|scope| {
        let (there, here) = (sync_channel::<()>(1), sync_channel::<()>(1));
        scope.spawn(move || {
            pin(cores.map(|[_, second]| second));
            while there.1.recv().is_ok() && here.0.send(()).is_ok() {}
        });
        let timed = scope.spawn(move || {
            pin(cores.map(|[first, _]| first));
            let mut taken: Vec<Duration> = (0..ROUNDS)
                .map(|_| {
                    let start = Instant::now();
                    let _ = there.0.send(());
                    let _ = here.1.recv();
                    start.elapsed()
                })
                .collect();
            taken.sort_unstable();
            taken[ROUNDS / 2]
        });
        timed.join().unwrap_or(PLAUSIBLE.1)
    });
    // There and back are two wake-ups.
    (median / 2).clamp(PLAUSIBLE.0, PLAUSIBLE.1)
}

/// The first two cores that we may use: threads that share one wake each other for a tenth of the price.
fn two_cores() -> Option<[usize; 2]> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).ok()?;
    let mut cores = (0..CpuSet::count()).filter(|&core| allowed.is_set(core) == Ok(true));
    Some([cores.next()?, cores.next()?])
}

fn pin(core: Option<usize>) {
    let mut cores = CpuSet::new();
    if let Some(core) = core
        && cores.set(core).is_ok()
    {
        // Where that is not allowed, the scheduler decides, and the figure is a little less certain.
        let _ = sched_setaffinity(Pid::from_raw(0), &cores);
    }
}
