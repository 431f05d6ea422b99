//! How a waiting side waits: it spins for a short while, then sleeps in the kernel.
//!
//! Waking a sleeper on another core costs tens of microseconds, whatever the primitive; spinning costs a fraction of
//! one. But to spin is to keep a core from whoever could work on it, perhaps from the very peer that is waited for. So
//! there are three ways to wait, and each end of a lane learns which one fits from how its last waits went:
//!
//! | tier | when | what a call costs |
//! |---|---|---|
//! | hot | both ends are awake on cores of their own: spin | two transfers of a cache line |
//! | warm | there is no spare core: hand the core over at once | two switches of context |
//! | cold | the peer sleeps on another core | one wake-up: whoever wakes the peer spins until it answers |
//!
//! A producer makes a system call only when its peer says that it sleeps.

use std::hint::spin_loop;
use std::num::NonZeroUsize;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

#[cfg(not(any(loom, miri)))]
mod calibrate;

/// Looks before the clock is read for the first time, and from one reading to the next: it costs as much as many looks.
const LOOKS: u32 = if cfg!(loom) { 1 } else { 64 };
/// A call that takes up to so many wake-ups is worth spinning through: it ends one wake-up earlier.
const WORTHWHILE_WAKE_UPS: u32 = 16;
/// The most waits in a row that go to sleep at once before spinning is tried again.
const LONGEST_PAUSE: u32 = 256;

/// How long it pays to spin: the price of one wake-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spin(Duration);

impl Spin {
    /// Never spin: sleep at once.
    pub const NEVER: Self = Self(Duration::ZERO);

    /// The price of one wake-up, measured once; none where there is no second core to do the work meanwhile.
    #[must_use]
    pub fn for_this_machine() -> Self {
        static MEASURED: OnceLock<Spin> = OnceLock::new();
        *MEASURED.get_or_init(|| if cores() > 1 { Self(wake_up()) } else { Self::NEVER })
    }

    /// A budget of so many nanoseconds.
    #[must_use]
    pub fn from_nanos(nanos: u64) -> Self {
        Self(Duration::from_nanos(nanos))
    }

    /// The budget in nanoseconds.
    #[must_use]
    pub fn as_nanos(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }
}

fn cores() -> usize {
    available_parallelism().map_or(1, NonZeroUsize::get)
}

#[cfg(not(any(loom, miri)))]
fn wake_up() -> Duration {
    calibrate::wake_up()
}

/// The checkers know no time.
#[cfg(any(loom, miri))]
fn wake_up() -> Duration {
    Duration::from_micros(50)
}

/// What one end of a lane has learnt of its waits: whether spinning pays, and for how long. Shared by the threads that wait
/// at that end; their updates may overwrite each other, which costs a wake-up at worst.
#[derive(Debug)]
pub(crate) struct Habit {
    spin: Spin,
    /// The longest that is ever spun; what usually takes longer is not spun through.
    longest: Duration,
    /// Whether threads here compete for the cores with each other.
    crowd: Option<&'static Crowd>,
    /// So many waits go to sleep at once.
    skip: AtomicU32,
    /// How many do after the next spin in vain.
    pause: AtomicU32,
    /// How long waits took lately that were not over at once, in nanoseconds.
    typical: AtomicU64,
}

/// The threads of this process that spin.
#[derive(Debug, Default)]
struct Crowd(AtomicUsize);

static CALLERS: Crowd = Crowd(AtomicUsize::new(0));

impl Crowd {
    /// Whether one more may spin: each needs a core, and so does the peer that it waits for.
    fn enter(&self) -> bool {
        let has_room = self.0.fetch_add(1, Ordering::Relaxed) < (cores_of_process() / 2).max(1);
        if !has_room {
            self.leave();
        }
        has_room
    }

    fn leave(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Read once: it is a system call.
fn cores_of_process() -> usize {
    static CORES: OnceLock<usize> = OnceLock::new();
    *CORES.get_or_init(cores)
}

impl Habit {
    /// For those who wait for an answer: they know that work is being done, and may spin for as long as it usually takes.
    pub(crate) fn of_callers(spin: Spin) -> Self {
        Self::new(spin, spin.0 * WORTHWHILE_WAKE_UPS, Some(&CALLERS))
    }

    /// For those who wait for work, which may never come: an idle plugin burns one budget, and no more.
    pub(crate) fn of_worker(spin: Spin) -> Self {
        Self::new(spin, spin.0, None)
    }

    fn new(spin: Spin, longest: Duration, crowd: Option<&'static Crowd>) -> Self {
        let (skip, pause, typical) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU64::new(0));
        Self { spin, longest, crowd, skip, pause, typical }
    }

    /// Looks again and again until `ready` answers, for as long as that is likely to pay.
    pub(crate) fn until<T>(&self, mut ready: impl FnMut() -> Option<T>) -> Option<T> {
        if let Some(found) = ready() {
            return Some(found);
        }
        if self.spin == Spin::NEVER {
            return None;
        }
        let skip = self.skip.load(Ordering::Relaxed);
        if skip > 0 {
            self.skip.store(skip - 1, Ordering::Relaxed);
            return None;
        }
        for _ in 0..LOOKS {
            if let Some(found) = ready() {
                self.paid();
                return Some(found);
            }
            spin_loop();
        }
        let found = match self.crowd {
            Some(crowd) if !crowd.enter() => None,
            crowd => {
                let found = self.until_late(ready);
                crowd.iter().for_each(|crowd| crowd.leave());
                found
            }
        };
        if found.is_some() {
            self.paid()
        } else {
            self.was_in_vain()
        }
        found
    }

    fn until_late<T>(&self, ready: impl FnMut() -> Option<T>) -> Option<T> {
        let typical = Duration::from_nanos(self.typical.load(Ordering::Relaxed));
        let is_worthwhile = typical <= self.longest;
        let budget = if is_worthwhile { (typical * 2).clamp(self.spin.0, self.longest) } else { self.spin.0 };
        let start = Instant::now();
        let found = spin_for(budget, self.spin.0, ready);
        if found.is_some() {
            self.learn(start.elapsed());
        }
        found
    }

    /// As [`until`](Self::until), for a worker that was told that work is about to come.
    pub(crate) fn until_rung<T>(&self, ready: impl FnMut() -> Option<T>) -> Option<T> {
        spin_for(self.spin.0 * WORTHWHILE_WAKE_UPS, self.spin.0, ready)
    }

    /// What was waited for came after a sleep, so long after that began: the wake-up included.
    pub(crate) fn slept(&self, waited: Duration) {
        self.learn(waited.saturating_sub(self.spin.0));
    }

    fn learn(&self, waited: Duration) {
        let waited = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        let typical = self.typical.load(Ordering::Relaxed);
        // Follows a change within a few waits, and forgets a single one.
        let typical = if typical == 0 { waited } else { typical - typical / 4 + waited / 4 };
        self.typical.store(typical, Ordering::Relaxed);
    }

    fn paid(&self) {
        if self.pause.load(Ordering::Relaxed) != 0 {
            self.pause.store(0, Ordering::Relaxed);
        }
    }

    fn was_in_vain(&self) {
        let pause = self.pause.load(Ordering::Relaxed);
        self.skip.store(pause, Ordering::Relaxed);
        self.pause.store((pause * 2).clamp(1, LONGEST_PAUSE), Ordering::Relaxed);
    }
}

/// Spins for `budget`, and no longer when somebody else had this core for `wanted`: then there is none to spare.
fn spin_for<T>(budget: Duration, wanted: Duration, mut ready: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    let mut last = start;
    loop {
        for _ in 0..LOOKS {
            if let Some(found) = ready() {
                return Some(found);
            }
            spin_loop();
        }
        let now = Instant::now();
        if now - start >= budget || now - last >= wanted {
            return None;
        }
        last = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spinning_ends() {
        let habit = Habit::of_worker(Spin::from_nanos(10_000));
        assert_eq!(habit.until(|| None::<()>), None);
        assert_eq!(Habit::of_worker(Spin::NEVER).until(|| Some(1)), Some(1));
    }

    /// Whether the next wait spins.
    fn spins(habit: &Habit) -> bool {
        let mut looks = 0;
        habit.until(|| {
            looks += 1;
            None::<()>
        });
        looks > 1
    }

    #[test]
    fn who_spins_in_vain_spins_less_and_less() {
        let habit = Habit::of_worker(Spin::from_nanos(1000));
        let spun: Vec<bool> = (0..12).map(|_| spins(&habit)).collect();
        let [yes, no] = [true, false];
        assert_eq!(spun, [yes, yes, no, yes, no, no, yes, no, no, no, no, yes]);
        (0..10_000).for_each(|_| {
            spins(&habit);
        });
        let rare = (0..1028).filter(|_| spins(&habit)).count();
        assert_eq!(rare, 4);
    }

    #[test]
    fn one_success_is_enough_to_spin_again() {
        let habit = Habit::of_worker(Spin::from_nanos(1000));
        (0..100).for_each(|_| assert!(!spins(&habit) || habit.pause.load(Ordering::Relaxed) > 0));
        while habit.skip.load(Ordering::Relaxed) > 0 {
            spins(&habit);
        }
        let mut looks = 0;
        let found = habit.until(|| {
            looks += 1;
            (looks > 1).then_some(())
        });
        assert!(found.is_some() && spins(&habit));
    }

    #[test]
    fn callers_learn_how_long_a_call_takes_and_workers_do_not_wait_for_it() {
        let spin = Spin::from_nanos(1000);
        for (habit, longest) in [(Habit::of_callers(spin), 16_000), (Habit::of_worker(spin), 1000)] {
            (0..50).for_each(|_| habit.slept(Duration::from_secs(1)));
            assert_eq!(habit.longest.as_nanos(), longest);
        }
        let habit = Habit::of_callers(spin);
        habit.slept(Duration::from_nanos(4000));
        habit.slept(Duration::from_nanos(2000));
        assert_eq!(habit.typical.load(Ordering::Relaxed), 2500);
    }
}
