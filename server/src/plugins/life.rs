//! A plugin's life as a pure function: no process, no clock, no I/O.
//!
//! ```text
//! stopped -> starting -> ready -> (died) backing off -> starting ...
//!                |          `-> stopped, unloaded
//!                `-> refused (can't get better by itself), failed (tried too often)
//! ```
//!
//! Beside it stands a **breaker**, which is about the callers. Closed, they wait for a plugin that is being restarted.
//! After some failures in a row it opens: calls fail at once, instead of each holding a thread until its deadline. When
//! the pause is over it is half open: one call is let through at a time, and the first that is answered closes it, while
//! the next failure opens it again. A plugin whose answers all come just before their deadlines opens it as well.
//!
//! A process that dies after it has served is started again at once: that is a crash, and callers wait. Only when it
//! relapses do pauses come, and grow. The numbers are the operator's (`[plugins.restarts]`). Pauses have jitter, so that plugins that died together do not
//! start together for ever; the random number is the caller's, so that this stays a function.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config::RestartsConfig;

/// What `per_minute` is about.
pub const MINUTE: Duration = Duration::from_secs(60);

/// Where a plugin is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not running, by the operator's will.
    Stopped,
    /// Not running until somebody uses it.
    Unloaded,
    /// Being spawned, confined and asked what it provides.
    Starting,
    /// Serving calls.
    Ready,
    /// Died; to be started again soon.
    BackingOff,
    /// Died too often; runs again when the operator says so.
    Failed,
    /// Can't run as it is: bad package, wrong protocol, conflict, missing layer.
    Refused,
}

impl State {
    /// The name that operators see.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Unloaded => "unloaded",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::BackingOff => "backing off",
            Self::Failed => "failed",
            Self::Refused => "refused",
        }
    }

    /// Whether waiting for the plugin makes sense.
    #[must_use]
    pub fn may_become_ready(self) -> bool {
        matches!(self, Self::Unloaded | Self::Starting | Self::Ready | Self::BackingOff)
    }
}

/// Whether calls are let through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Breaker {
    /// They are.
    #[default]
    Closed,
    /// They fail at once.
    Open,
    /// One at a time is: what becomes of it decides.
    HalfOpen,
}

impl Breaker {
    /// The name that operators see.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half open",
        }
    }
}

/// What happens to a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The operator enabled or reloaded it.
    Enabled,
    /// Somebody wants to use it.
    Wanted,
    /// The operator disabled it.
    Disabled,
    /// It is to be stopped until it is used again.
    Unloaded,
    /// It is registered and serves.
    Started,
    /// It did not start; another try may help.
    StartFailed,
    /// It did not start, and will not without a change.
    StartRefused,
    /// It may not start yet: the server has started so many processes that this one has to wait so long.
    Postponed(Duration),
    /// Its process ended.
    Died,
    /// It answered a call.
    Answered,
    /// Its answers keep coming just before their deadlines.
    Slow,
    /// The pause is over.
    PauseOver,
}

/// What has to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing.
    None,
    /// Start a process.
    Start,
    /// Drain and stop the process.
    Stop,
    /// Report [`Event::PauseOver`] after this time, which may be none.
    Pause(Duration),
}

/// A plugin's state and the history that decides about restarts.
#[derive(Clone, Debug)]
pub struct Life {
    policy: RestartsConfig,
    state: State,
    breaker: Breaker,
    ready_since: Option<Instant>,
    /// Starts in a row that failed.
    failed_starts: u32,
    /// Deaths and failed starts since it last recovered: how long the next pause is.
    relapses: u32,
    /// Failures in a row since the breaker was last closed.
    failures: u32,
    crashes: VecDeque<Instant>,
    /// Starts of the last minute that nobody asked for.
    restarts: VecDeque<Instant>,
}

impl Life {
    /// A plugin that never ran.
    #[must_use]
    pub fn new(policy: RestartsConfig) -> Self {
        Self {
            policy,
            state: State::Stopped,
            breaker: Breaker::Closed,
            ready_since: None,
            failed_starts: 0,
            relapses: 0,
            failures: 0,
            crashes: VecDeque::new(),
            restarts: VecDeque::new(),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether calls are let through.
    #[must_use]
    pub fn breaker(&self) -> Breaker {
        self.breaker
    }

    /// The starts of the last minute that nobody asked for, also those that were postponed; oldest first.
    #[must_use]
    pub fn restarts(&self) -> &VecDeque<Instant> {
        &self.restarts
    }

    /// What becomes of it, and what has to be done. `random` is a number from 0 to below 1, and makes pauses up to half
    /// as long again shorter.
    #[must_use]
    pub fn after(mut self, event: Event, now: Instant, random: f64) -> (Self, Action) {
        use State::{BackingOff, Failed, Ready, Refused, Starting, Stopped, Unloaded};
        let action = match (event, self.state) {
            (Event::Enabled, Stopped | Unloaded | Failed | Refused | BackingOff) => {
                let restarts = std::mem::take(&mut self.restarts);
                self = Self { state: Starting, restarts, ..Self::new(self.policy) };
                Action::Start
            }
            (Event::Wanted, Unloaded) => self.restart(now),
            (Event::PauseOver, BackingOff) => {
                self.half_open();
                self.restart(now)
            }
            (Event::PauseOver, Ready) => {
                self.half_open();
                Action::None
            }
            (Event::Disabled, Ready) => {
                self.state = Stopped;
                Action::Stop
            }
            (Event::Disabled, _) => {
                self.state = Stopped;
                Action::None
            }
            (Event::Unloaded, Ready) => {
                self.state = Unloaded;
                self.breaker = Breaker::Closed;
                Action::Stop
            }
            (Event::Started, Starting) => {
                self.state = Ready;
                self.failed_starts = 0;
                self.ready_since = Some(now);
                Action::None
            }
            (Event::StartRefused, Starting) => {
                self.state = Refused;
                Action::None
            }
            (Event::Postponed(wait), Starting) => {
                self.state = BackingOff;
                Action::Pause(wait)
            }
            (Event::StartFailed, Starting) => {
                self.failed_starts += 1;
                if self.failed_starts >= self.policy.failed_starts {
                    self.give_up()
                } else {
                    // A failed start is no crash of something that worked: the next one is not likely to do better.
                    self.relapses = self.relapses.max(1);
                    self.back_off(random)
                }
            }
            (Event::Died, Ready) => {
                if self.ready_since.is_some_and(|since| now.duration_since(since) >= self.policy.recovered_after) {
                    self.relapses = 0;
                    self.failures = 0;
                }
                self.crashes.push_back(now);
                let window = self.policy.give_up_within;
                self.crashes.retain(|crash| now.duration_since(*crash) < window);
                if self.crashes.len() >= self.policy.give_up_after as usize {
                    self.give_up()
                } else {
                    self.back_off(random)
                }
            }
            (Event::Answered, Ready) if self.breaker == Breaker::HalfOpen => {
                self.breaker = Breaker::Closed;
                self.failures = 0;
                Action::None
            }
            (Event::Slow, Ready) if self.breaker != Breaker::Open => {
                self.breaker = Breaker::Open;
                Action::Pause(with_jitter(self.policy.longest_pause, random))
            }
            _ => Action::None,
        };
        (self, action)
    }

    fn half_open(&mut self) {
        if self.breaker == Breaker::Open {
            self.breaker = Breaker::HalfOpen;
        }
    }

    /// Starts a process, or waits until this minute has room for one.
    fn restart(&mut self, now: Instant) -> Action {
        self.restarts.retain(|restart| now.duration_since(*restart) < MINUTE);
        let most = self.policy.per_minute as usize;
        if let Some(oldest) = self.restarts.len().checked_sub(most).and_then(|at| self.restarts.get(at)) {
            self.state = State::BackingOff;
            return Action::Pause(MINUTE.saturating_sub(now.duration_since(*oldest)));
        }
        self.restarts.push_back(now);
        self.state = State::Starting;
        Action::Start
    }

    fn back_off(&mut self, random: f64) -> Action {
        self.state = State::BackingOff;
        self.failures += 1;
        if self.failures >= self.policy.open_after || self.breaker == Breaker::HalfOpen {
            self.breaker = Breaker::Open;
        }
        let pause = match (self.breaker, self.relapses) {
            // Nobody waits for it any more: no hurry.
            (Breaker::Open, _) => self.policy.longest_pause,
            (_, 0) => Duration::ZERO,
            (_, n) => self.policy.first_pause.saturating_mul(1 << (n - 1).min(20)).min(self.policy.longest_pause),
        };
        self.relapses += 1;
        Action::Pause(with_jitter(pause, random))
    }

    fn give_up(&mut self) -> Action {
        self.state = State::Failed;
        Action::None
    }
}

/// From half of the pause to all of it.
fn with_jitter(pause: Duration, random: f64) -> Duration {
    pause.mul_f64(1.0 - random.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests;
