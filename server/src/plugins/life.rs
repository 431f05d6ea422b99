//! A plugin's life as a pure function: no process, no clock, no I/O.
//!
//! ```text
//! stopped -> starting -> ready -> (died) backing off -> starting ...
//!                |          `-> stopped, unloaded
//!                `-> refused (can't get better by itself), failed (tried too often)
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The pause before the first restart; doubles with every further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A plugin that ran for so long has recovered.
const RECOVERED: Duration = Duration::from_secs(10);
/// Starts in a row that may fail before the plugin is given up.
const MAX_FAILED_STARTS: u32 = 5;
/// Crashes within [`CRASH_WINDOW`] after which the plugin is given up.
const MAX_CRASHES: usize = 25;
const CRASH_WINDOW: Duration = Duration::from_secs(60);

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
    /// Its process ended.
    Died,
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
    /// Report [`Event::PauseOver`] after this time.
    Pause(Duration),
}

/// A plugin's state and the history that decides about restarts.
#[derive(Clone, Debug)]
pub struct Life {
    state: State,
    ready_since: Option<Instant>,
    failed_starts: u32,
    /// Deaths since it last recovered: how long the next pause is.
    relapses: u32,
    crashes: VecDeque<Instant>,
}

/// A plugin that never ran.
impl Default for Life {
    fn default() -> Self {
        Self { state: State::Stopped, ready_since: None, failed_starts: 0, relapses: 0, crashes: VecDeque::new() }
    }
}

impl Life {
    /// Where it is.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// What becomes of it, and what has to be done.
    #[must_use]
    pub fn after(mut self, event: Event, now: Instant) -> (Self, Action) {
        use State::{BackingOff, Failed, Ready, Refused, Starting, Stopped, Unloaded};
        let action = match (event, self.state) {
            (Event::Enabled, Stopped | Unloaded | Failed | Refused | BackingOff) => {
                self = Self { state: Starting, ..Self::default() };
                Action::Start
            }
            (Event::Wanted, Unloaded) | (Event::PauseOver, BackingOff) => {
                self.state = Starting;
                Action::Start
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
            (Event::StartFailed, Starting) => {
                self.failed_starts += 1;
                if self.failed_starts >= MAX_FAILED_STARTS { self.give_up() } else { self.pause() }
            }
            (Event::Died, Ready) => {
                if self.ready_since.is_some_and(|since| now.duration_since(since) >= RECOVERED) {
                    self.relapses = 0;
                }
                self.crashes.push_back(now);
                self.crashes.retain(|crash| now.duration_since(*crash) < CRASH_WINDOW);
                if self.crashes.len() >= MAX_CRASHES { self.give_up() } else { self.pause() }
            }
            _ => Action::None,
        };
        (self, action)
    }

    fn pause(&mut self) -> Action {
        self.state = State::BackingOff;
        let pause = FIRST_PAUSE.saturating_mul(1 << self.relapses.min(10)).min(LONGEST_PAUSE);
        self.relapses += 1;
        Action::Pause(pause)
    }

    fn give_up(&mut self) -> Action {
        self.state = State::Failed;
        Action::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(life: Life, events: &[Event], now: Instant) -> (Life, Action) {
        events.iter().fold((life, Action::None), |(life, _), event| life.after(*event, now))
    }

    #[test]
    fn pauses_grow_and_shrink_again_after_recovery() {
        let start = Instant::now();
        let (mut life, action) = run(Life::default(), &[Event::Enabled], start);
        assert_eq!(action, Action::Start);
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let (next, action) = run(life, &[Event::Started, Event::Died], start);
            let Action::Pause(pause) = action else { panic!("{action:?}") };
            pauses.push(pause.as_millis());
            life = run(next, &[Event::PauseOver], start).0;
        }
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        let (life, _) = life.after(Event::Started, start);
        assert_eq!(life.after(Event::Died, start + RECOVERED).1, Action::Pause(FIRST_PAUSE));
    }

    #[test]
    fn too_many_crashes_or_failed_starts_are_the_end_until_enabled() {
        let now = Instant::now();
        let (mut life, _) = run(Life::default(), &[Event::Enabled], now);
        for _ in 0..MAX_CRASHES {
            assert_ne!(life.state(), State::Failed);
            life = run(life, &[Event::Started, Event::Died, Event::PauseOver], now).0;
        }
        assert_eq!(life.state(), State::Failed);
        let (mut life, action) = life.after(Event::Enabled, now);
        assert_eq!(action, Action::Start);
        for _ in 0..MAX_FAILED_STARTS {
            life = run(life, &[Event::StartFailed, Event::PauseOver], now).0;
        }
        assert_eq!(life.state(), State::Failed);
    }

    #[test]
    fn old_crashes_are_forgiven() {
        let mut now = Instant::now();
        let (mut life, _) = run(Life::default(), &[Event::Enabled], now);
        for _ in 0..MAX_CRASHES * 3 {
            life = run(life, &[Event::Started, Event::Died, Event::PauseOver], now).0;
            now += CRASH_WINDOW / 20;
        }
        assert_eq!(life.state(), State::Starting);
    }

    #[test]
    fn a_refused_or_disabled_plugin_stays_down() {
        let now = Instant::now();
        let (life, _) = run(Life::default(), &[Event::Enabled, Event::StartRefused], now);
        assert_eq!(run(life.clone(), &[Event::Wanted, Event::PauseOver], now).1, Action::None);
        assert!(!life.state().may_become_ready());
        let (life, action) = run(Life::default(), &[Event::Enabled, Event::Started, Event::Disabled], now);
        assert_eq!((life.state(), action), (State::Stopped, Action::Stop));
        assert_eq!(life.after(Event::Died, now).1, Action::None);
    }

    #[test]
    fn an_unloaded_plugin_starts_when_it_is_wanted() {
        let now = Instant::now();
        let (life, action) = run(Life::default(), &[Event::Enabled, Event::Started, Event::Unloaded], now);
        assert_eq!((life.state(), action), (State::Unloaded, Action::Stop));
        assert_eq!(life.after(Event::Wanted, now).1, Action::Start);
    }
}
