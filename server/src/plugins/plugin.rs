//! One plugin as the rest of the server knows it, whichever process runs it now.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use photondb_plugin_sdk::{Cause, PluginError};
use tokio::sync::{mpsc, oneshot, watch};

use super::audit::Confined;
use super::counters::Counters;
use super::instance::Instance;
use super::life::{Breaker, Life, MINUTE, State};
use super::permissions::{PermissionsStatus, Sides};
use super::usage::usage;
use crate::admin::status::{Change, GrantedPermissions, PluginStatus};
use crate::config::FailurePolicy;

/// Callers that may wait for a plugin until their deadlines. Each of them holds a thread of those that queries run on, so
/// that one plugin that does not answer must not have them all.
const PATIENT_CALLERS: usize = 64;
/// How long any further caller waits for its turn: a plugin that works answers a lane full of calls in less.
const IMPATIENCE: Duration = Duration::from_millis(250);

/// What the plugin thread is asked to do with one plugin.
pub(crate) enum Command {
    /// Somebody calls it while it is unloaded.
    Wanted,
    /// It answered a call while its breaker was half open.
    Answered,
    /// The process of that number keeps answering just before its deadlines.
    Slow(u64),
    /// The operator's will; answered when it is done.
    Change(Change, oneshot::Sender<Result<(), PluginError>>),
    /// The server stops.
    Shutdown(oneshot::Sender<()>),
}

impl Command {
    /// Whether it is to run no longer: then a start that goes on is no use.
    fn is_stop(&self) -> bool {
        matches!(self, Self::Change(Change::Disable, _) | Self::Shutdown(_))
    }
}

/// A plugin, under its name, for as long as the server runs.
pub struct Plugin {
    name: String,
    on_failure: FailurePolicy,
    counters: Counters,
    commands: mpsc::UnboundedSender<Command>,
    /// Commands to stop it that the supervisor has not come to.
    stops: watch::Sender<usize>,
    callers: AtomicUsize,
    /// Whether an answer is news to the supervisor.
    is_on_trial: AtomicBool,
    current: Mutex<Current>,
    changed: Condvar,
}

/// Somebody who calls the plugin, until dropped.
pub struct Caller<'a> {
    plugin: &'a Plugin,
    is_patient: bool,
    /// Whether this is the one call that a half open breaker lets through.
    probes: Cell<bool>,
}

impl Caller<'_> {
    /// Until when to wait for an instance or a slot, for a call with this deadline.
    #[must_use]
    pub fn turn_by(&self, deadline: Instant) -> Instant {
        if self.is_patient { deadline } else { deadline.min(Instant::now() + IMPATIENCE) }
    }

    /// The instance to call: waits for one that is being started, until `deadline`; not while the breaker is open.
    ///
    /// # Errors
    /// Why there is none, and what to do.
    pub fn instance(&self, deadline: Instant) -> Result<Arc<Instance>, PluginError> {
        let plugin = self.plugin;
        let mut current = plugin.lock();
        let mut asked = false;
        loop {
            let is_stopped_by_breaker = match current.breaker {
                Breaker::Closed => false,
                Breaker::Open => true,
                Breaker::HalfOpen => current.state != State::Ready || (current.is_probed && !self.probes.get()),
            };
            if !current.state.may_become_ready() || is_stopped_by_breaker {
                return Err(plugin.unavailable(&current));
            }
            if let Some(instance) = current.instance.clone().filter(|instance| instance.is_alive()) {
                if current.breaker == Breaker::HalfOpen {
                    current.is_probed = true;
                    self.probes.set(true);
                }
                return Ok(instance);
            }
            if current.state == State::Unloaded && !asked {
                asked = true;
                plugin.send(Command::Wanted);
            }
            let now = Instant::now();
            if now >= deadline {
                return Err(plugin.unavailable(&current));
            }
            let nap = (deadline - now).min(Duration::from_millis(100));
            (current, _) = plugin.changed.wait_timeout(current, nap).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        self.plugin.callers.fetch_sub(1, Ordering::Relaxed);
        if self.probes.get() {
            self.plugin.lock().is_probed = false;
        }
    }
}

/// What is true of the plugin now.
pub(super) struct Current {
    pub state: State,
    /// Whether it is linked into the server, and has no process.
    pub is_built_in: bool,
    pub breaker: Breaker,
    /// Whether a call is on its way that a half open breaker let through.
    pub is_probed: bool,
    pub recent_restarts: VecDeque<Instant>,
    pub instance: Option<Arc<Instance>>,
    /// Why it does not run, in a sentence.
    pub error: Option<PluginError>,
    pub version: String,
    pub provides: Vec<String>,
    /// What callers get when it fails, for each kind that it provides.
    pub on_failure: Vec<String>,
    pub permissions: GrantedPermissions,
    /// What its manifest and its operator say.
    pub sides: Sides,
    pub layers: Vec<String>,
    pub grade: Option<String>,
    pub grade_reasons: Vec<String>,
    /// How it was confined when it was last started.
    pub confined: Option<Arc<Confined>>,
}

impl Default for Current {
    fn default() -> Self {
        Self {
            state: State::Stopped,
            is_built_in: false,
            breaker: Breaker::Closed,
            is_probed: false,
            recent_restarts: VecDeque::new(),
            instance: None,
            error: None,
            version: String::new(),
            provides: Vec::new(),
            on_failure: Vec::new(),
            permissions: GrantedPermissions::default(),
            sides: Sides::default(),
            layers: Vec::new(),
            grade: None,
            grade_reasons: Vec::new(),
            confined: None,
        }
    }
}

impl Plugin {
    pub(crate) fn new(name: &str, on_failure: FailurePolicy, commands: mpsc::UnboundedSender<Command>) -> Self {
        Self {
            name: name.to_owned(),
            on_failure,
            counters: Counters::default(),
            commands,
            stops: watch::Sender::new(0),
            callers: AtomicUsize::new(0),
            is_on_trial: AtomicBool::new(false),
            current: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a caller gets when it fails.
    #[must_use]
    pub fn on_failure(&self) -> FailurePolicy {
        self.on_failure
    }

    /// What it costs.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        // Nothing panics while it holds the lock.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is true now, and tells everybody who waits for it.
    pub(super) fn update(&self, change: impl FnOnce(&mut Current)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    /// Shows where it is in its life.
    pub(super) fn show(&self, life: &Life) {
        self.is_on_trial.store(life.breaker() == Breaker::HalfOpen, Ordering::Relaxed);
        self.update(|current| {
            current.state = life.state();
            current.breaker = life.breaker();
            current.recent_restarts.clone_from(life.restarts());
        });
    }

    /// It answered a call, well or badly.
    pub fn answered(&self) {
        if self.is_on_trial.load(Ordering::Relaxed) {
            self.send(Command::Answered);
        }
    }

    /// As [`answered`](Self::answered), if the outcome of a call is an answer.
    pub(super) fn heard<T>(&self, outcome: &Result<T, PluginError>) -> bool {
        let is_answer = outcome.as_ref().map_or_else(|error| error.cause().is_answer(), |_| true);
        if is_answer {
            self.answered();
        }
        is_answer
    }

    pub(super) fn send(&self, command: Command) {
        if command.is_stop() {
            self.stops.send_modify(|stops| *stops += 1);
        }
        // The receiver lives until the server has stopped: nobody is left to care then.
        let _ = self.commands.send(command);
    }

    /// The supervisor has come to this command.
    pub(super) fn taken(&self, command: &Command) {
        if command.is_stop() {
            self.stops.send_modify(|stops| *stops -= 1);
        }
    }

    /// Waits until somebody wants it stopped.
    pub(super) async fn unwanted(&self) {
        // Not an error: the sender is its own.
        let _ = self.stops.subscribe().wait_for(|stops| *stops > 0).await;
    }

    /// Whether it runs or may run again without the operator: then what it provides is its own, and nobody else's.
    #[must_use]
    pub fn may_become_ready(&self) -> bool {
        self.lock().state.may_become_ready()
    }

    /// Counts a caller.
    #[must_use]
    pub fn call(&self) -> Caller<'_> {
        let others = self.callers.fetch_add(1, Ordering::Relaxed);
        Caller { plugin: self, is_patient: others < PATIENT_CALLERS, probes: Cell::new(false) }
    }

    /// Whether it is linked into the server, and has no process.
    #[must_use]
    pub fn is_built_in(&self) -> bool {
        self.lock().is_built_in
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> String {
        self.lock().version.clone()
    }

    /// Whether a call would find it, or have it started: what it provides can be used.
    #[must_use]
    pub fn can_be_called(&self) -> bool {
        let current = self.lock();
        current.state == State::Unloaded
            || (current.state == State::Ready && (current.is_built_in || current.instance.is_some()))
    }

    /// The instance that runs now, if any.
    #[must_use]
    pub fn running(&self) -> Option<Arc<Instance>> {
        self.lock().instance.clone().filter(|instance| instance.is_alive())
    }

    /// The instance that runs now, if calls are let through to it without conditions.
    #[must_use]
    pub(super) fn ready(&self) -> Option<Arc<Instance>> {
        let current = self.lock();
        let is_open = current.state == State::Ready && current.breaker == Breaker::Closed;
        current.instance.clone().filter(|instance| is_open && instance.is_alive())
    }

    /// Has it started if it is unloaded, without waiting for it.
    pub fn wake(&self) {
        if self.lock().state == State::Unloaded {
            self.send(Command::Wanted);
        }
    }

    fn unavailable(&self, current: &Current) -> PluginError {
        let name = &self.name;
        let because = current.error.as_ref().map(|error| format!(" ({})", error.message())).unwrap_or_default();
        let message = match current.state {
            State::Stopped => format!("it is disabled; run `photondb plugin enable {name}`"),
            State::Failed => {
                format!(
                    "it failed too often and was given up{because}; mend it and run `photondb plugin enable {name}`"
                )
            }
            State::Refused => {
                format!("it can't run as it is{because}; mend it and run `photondb plugin reload {name}`")
            }
            _ if current.breaker != Breaker::Closed => {
                format!(
                    "calls fail at once for now, because it failed too often in a row or was too slow{because}; try \
                     again in a moment, and see `photondb plugin info {name}`"
                )
            }
            State::Ready | State::Starting | State::BackingOff | State::Unloaded => {
                format!("it is being restarted and was not ready in time{because}; try again")
            }
        };
        PluginError::runtime(Cause::Unavailable, message).of(name)
    }

    /// How it was confined when it was last started.
    #[must_use]
    pub fn confined(&self) -> Option<Arc<Confined>> {
        self.lock().confined.clone()
    }

    /// What it asked for, was given and has, and what the kernel makes of that.
    #[must_use]
    pub fn permissions(&self) -> PermissionsStatus {
        let current = self.lock();
        current.sides.clone().status(&self.name, current.permissions.clone(), current.confined.as_deref())
    }

    /// All that an operator wants to know.
    #[must_use]
    pub fn status(&self) -> PluginStatus {
        let totals = self.counters.totals();
        let current = self.lock();
        let pid = current.instance.as_ref().filter(|instance| instance.is_alive()).map(|instance| instance.pid());
        let usage = pid.and_then(usage);
        PluginStatus {
            name: self.name.clone(),
            state: current.state.name().into(),
            version: current.version.clone(),
            pid,
            provides: current.provides.clone(),
            on_failure: current.on_failure.clone(),
            permissions: current.permissions.clone(),
            layers: current.layers.clone(),
            grade: current.grade.clone(),
            grade_reasons: current.grade_reasons.clone(),
            restarts: totals.restarts,
            restarts_in_last_minute: current.recent_restarts.iter().filter(|restart| restart.elapsed() < MINUTE).count()
                as u64,
            breaker: current.breaker.name().into(),
            memory_bytes: usage.map(|usage| usage.resident),
            cpu_seconds: usage.map(|usage| usage.cpu.as_secs_f64()),
            threads: usage.map(|usage| usage.threads),
            busy_between_calls: totals.busy_between_calls,
            calls: totals.calls,
            errors: totals.errors,
            p50_ms: totals.p50_ms,
            p99_ms: totals.p99_ms,
            bytes_shared: totals.bytes_shared,
            bytes_copied: totals.bytes_copied,
            dropped_log_lines: 0,
            error: current.error.as_ref().map(ToString::to_string),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_callers_may_wait_and_further_ones_not_for_long() {
        let plugin = Plugin::new("slow", FailurePolicy::default(), mpsc::unbounded_channel().0);
        let deadline = Instant::now() + Duration::from_secs(3600);
        let mut patient: Vec<_> = (0..PATIENT_CALLERS).map(|_| plugin.call()).collect();
        assert!(patient.iter().all(|caller| caller.turn_by(deadline) == deadline));
        assert!(plugin.call().turn_by(deadline) < deadline);
        patient.pop();
        assert_eq!(plugin.call().turn_by(deadline), deadline);
    }
}
