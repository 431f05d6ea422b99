//! Keeps one plugin alive: acts on what [`life`](super::life) decides.

mod start;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use photondb_plugin_host::Cgroups;
use photondb_plugin_sdk::PluginError;
use photondb_sandbox_profiles::{KernelFeatures, Profiles};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::discover::{self, Found, Package};
use super::grant::{Granted, OneSided};
use super::instance::Instance;
use super::journal::Journal;
use super::life::{Action, Breaker, Event, Life, MINUTE, State};
use super::permissions::Sides;
use super::plugin::{Command, Current, Plugin};
use super::process::{Process, StartError};
use super::registry::Registry;
use super::services::Sources;
use crate::admin::status::Change;
use crate::config::{PluginsConfig, SandboxConfig};
use start::Prepared;

/// How long a plugin that is being stopped may work on the calls that it has.
const DRAIN: Duration = Duration::from_secs(5);

/// What all supervisors share.
pub(super) struct Environment {
    pub host: PathBuf,
    pub data: PathBuf,
    pub plugins: PluginsConfig,
    pub sandbox: SandboxConfig,
    pub profiles: Profiles,
    pub kernel: KernelFeatures,
    /// Where the server was given a part of the cgroup tree.
    pub cgroups: Option<Cgroups>,
    pub journal: Arc<Journal>,
    pub registry: Arc<Registry>,
    pub sources: Sources,
    pub instances: Cell<u64>,
    /// Restarts of all plugins in the last minute.
    pub restarts: RefCell<VecDeque<std::time::Instant>>,
}

impl Environment {
    /// Counts a restart, or tells how long it has to wait: many plugins that die at once must not keep the machine busy
    /// with starting them.
    fn restart(&self) -> Result<(), Duration> {
        let (mut restarts, now) = (self.restarts.borrow_mut(), std::time::Instant::now());
        restarts.retain(|restart| now.duration_since(*restart) < MINUTE);
        let most = self.plugins.restarts.all_per_minute as usize;
        if let Some(oldest) = restarts.len().checked_sub(most).and_then(|at| restarts.get(at)) {
            return Err(MINUTE.saturating_sub(now.duration_since(*oldest)));
        }
        restarts.push_back(now);
        Ok(())
    }
}

/// One plugin's supervisor. Lives on the plugin thread.
pub(super) struct Supervisor {
    environment: Rc<Environment>,
    plugin: Arc<Plugin>,
    directory: PathBuf,
    /// What was last read from the directory.
    package: Result<Package, PluginError>,
    commands: mpsc::UnboundedReceiver<Command>,
    life: Life,
    process: Option<Process>,
    /// For the next start.
    standby: Cell<Option<Prepared>>,
    pause_over: Option<Instant>,
    has_died: bool,
    /// Which permissions one side alone names, as it was told last.
    one_sided: OneSided,
}

impl Supervisor {
    pub(super) fn new(
        environment: Rc<Environment>,
        plugin: Arc<Plugin>,
        directory: PathBuf,
        package: Result<Package, PluginError>,
        commands: mpsc::UnboundedReceiver<Command>,
    ) -> Self {
        let life = Life::new(environment.plugins.restarts);
        Self {
            environment,
            plugin,
            directory,
            package,
            commands,
            life,
            process: None,
            standby: Cell::new(None),
            pause_over: None,
            has_died: false,
            one_sided: OneSided::default(),
        }
    }

    fn name(&self) -> &str {
        self.plugin.name()
    }

    /// Runs until the server stops. `settled` hears when the first start has succeeded or failed.
    pub(super) async fn run(mut self, settled: oneshot::Sender<()>) {
        self.describe();
        self.note_one_sided();
        if self.environment.plugins.is_enabled(self.plugin.name()) {
            self.apply(Event::Enabled).await;
        }
        drop(settled);
        loop {
            tokio::select! {
                command = self.commands.recv() => {
                    let Some(command) = command else { return };
                    self.plugin.taken(&command);
                    match command {
                        Command::Wanted => self.apply(Event::Wanted).await,
                        Command::Answered => self.apply(Event::Answered).await,
                        Command::Slow(number) => {
                            if self.process.as_ref().is_some_and(|process| process.instance().number() == number) {
                                self.apply(Event::Slow).await;
                            }
                        }
                        Command::Change(change, done) => {
                            // The one who asked may have gone.
                            let _ = done.send(self.change(change).await);
                        }
                        Command::Shutdown(done) => {
                            self.standby.take();
                            if let Some(process) = self.process.take() {
                                process.stop(DRAIN).await;
                            }
                            let _ = done.send(());
                            return;
                        }
                    }
                }
                error = ended(&mut self.process) => self.died(error).await,
                () = pause(self.pause_over) => {
                    self.pause_over = None;
                    self.apply(Event::PauseOver).await;
                }
            }
        }
    }

    /// Tells the operator where the manifest and the configuration name different permissions, unless that was told.
    fn note_one_sided(&mut self) {
        let Ok(package) = &self.package else { return };
        let grant = self.environment.plugins.grants.get(self.name());
        let found = OneSided::of(self.name(), &package.manifest.permissions, grant);
        let told = std::mem::replace(&mut self.one_sided, found);
        for (kind, messages, told) in [
            ("not granted", &self.one_sided.not_granted, told.not_granted),
            ("grant ignored", &self.one_sided.not_declared, told.not_declared),
        ] {
            for message in messages.iter().filter(|message| !told.contains(message)) {
                self.environment.journal.event(self.name(), kind, message.as_str());
            }
        }
    }

    async fn change(&mut self, change: Change) -> Result<(), PluginError> {
        match change {
            Change::Disable => {
                self.apply(Event::Disabled).await;
                return Ok(());
            }
            Change::Unload | Change::ForceUnload => {
                self.apply(Event::Unloaded).await;
                return Ok(());
            }
            Change::Enable if self.life.state() == State::Ready => return Ok(()),
            Change::Reload if self.life.state() == State::Ready => return self.reload().await,
            Change::Enable | Change::Reload => {}
        }
        self.package = Ok(reread(&self.directory, self.name())?);
        self.describe();
        self.note_one_sided();
        self.pause_over = None;
        self.apply(Event::Enabled).await;
        let mut failure = None;
        self.plugin.update(|current| failure = current.error.clone());
        match self.life.state() {
            State::Ready => Ok(()),
            _ => Err(failure.unwrap_or_else(|| PluginError::init("it did not start; see its events").of(self.name()))),
        }
    }

    /// Lets an event happen, and does what follows from it.
    async fn apply(&mut self, event: Event) {
        let before = (self.life.state(), self.life.breaker());
        let mut next = Some(event);
        while let Some(event) = next.take() {
            let (life, action) = self.life.clone().after(event, Instant::now().into_std(), rand::random());
            self.life = life;
            self.plugin.show(&self.life);
            match action {
                Action::None => {}
                Action::Pause(Duration::ZERO) => next = Some(Event::PauseOver),
                Action::Pause(pause) => self.pause_over = Some(Instant::now() + pause),
                Action::Start => {
                    let turn = match event {
                        Event::Wanted | Event::PauseOver => self.environment.restart(),
                        _ => Ok(()),
                    };
                    next = Some(match turn {
                        Ok(()) => self.start().await,
                        Err(wait) => Event::Postponed(wait),
                    });
                }
                Action::Stop => self.stop().await,
            }
        }
        match self.life.state() {
            State::Ready if self.standby.get_mut().is_none() => self.stand_by(),
            State::Ready | State::Starting | State::BackingOff => {}
            State::Stopped | State::Unloaded | State::Failed | State::Refused => drop(self.standby.take()),
        }
        self.tell(before);
    }

    /// Records what the operator should know of a change.
    fn tell(&self, (state, breaker): (State, Breaker)) {
        if self.life.breaker() != breaker && self.life.state().may_become_ready() {
            let message = match self.life.breaker() {
                Breaker::Open => "calls fail at once for now: it failed too often in a row, or is too slow",
                Breaker::HalfOpen => "one call is let through at a time, and decides",
                Breaker::Closed => "calls are let through again",
            };
            self.environment.journal.event(
                self.name(),
                "breaker",
                format!("{}: {message}", self.life.breaker().name()),
            );
        }
        if self.life.state() == State::Failed && state != State::Failed {
            self.environment.journal.event(
                self.name(),
                "failed",
                format!("given up after too many failures; mend it and run `photondb plugin enable {}`", self.name()),
            );
        }
    }

    async fn start(&mut self) -> Event {
        let started = match &self.package {
            Ok(package) => self.spawn(package).await,
            Err(error) => Err(StartError { error: error.clone(), retry: false }),
        };
        match started {
            Ok(process) => {
                if self.has_died {
                    self.has_died = false;
                    self.plugin.counters().restarted();
                }
                self.adopt(process, "started");
                Event::Started
            }
            Err(StartError { error, retry }) => {
                let kind = match (&error, retry) {
                    (PluginError::CapabilityConflict { .. }, _) => "conflict",
                    (_, true) => "start failed",
                    (_, false) => "refused",
                };
                self.environment.journal.event(self.name(), kind, error.message());
                self.plugin.update(|current| current.error = Some(error));
                if retry { Event::StartFailed } else { Event::StartRefused }
            }
        }
    }

    /// Makes a process the one that is called.
    fn adopt(&mut self, process: Process, event: &str) {
        let grade = process.report().grade();
        let instance = Arc::clone(process.instance());
        self.describe();
        let mut version = String::new();
        self.plugin.update(|current| {
            version.clone_from(&current.version);
            current.provides = instance.provides().lines();
            current.layers = process.report().enforced.iter().map(|report| report.layer.to_string()).collect();
            current.grade = Some(grade.to_string());
            current.grade_reasons.clone_from(&grade.reasons);
            current.error = None;
            current.instance = Some(Arc::clone(&instance));
        });
        self.process = Some(process);
        self.environment.registry.tell_started();
        self.settle_policy(&instance);
        let message = format!("version {version}, pid {}, grade {grade}", instance.pid());
        self.environment.journal.event(self.name(), event, message);
        if grade.letter == photondb_sandbox_profiles::Letter::C {
            // The operator accepted it; that is no reason to say nothing.
            self.environment.journal.event(self.name(), "degraded", grade.reasons.join("; "));
        }
    }

    /// Shows what callers get when it fails. A policy that nothing it provides can follow is told, not ignored.
    fn settle_policy(&self, instance: &Instance) {
        let (policy, provided) = (self.plugin.on_failure(), instance.provides());
        let (functions, indexes) = (!provided.functions.is_empty(), !provided.vector_indexes.is_empty());
        let unheard = policy.without_effect(functions, indexes);
        let mut shown = Vec::new();
        shown.extend(functions.then(|| format!("functions: {}", policy.of_functions().name())));
        shown.extend(indexes.then(|| format!("vector_indexes: {}", policy.of_vector_indexes().name())));
        shown.extend(unheard.iter().map(|part| format!("without effect: {part}")));
        self.plugin.update(|current| current.on_failure = shown);
        if !unheard.is_empty() {
            let message = format!(
                "`on_failure` of [plugins.grants.{}] has no effect: {}; nothing that it provides can do that",
                self.name(),
                unheard.join(", ")
            );
            self.environment.journal.event(self.name(), "policy ignored", message);
        }
    }

    /// Shows what the package says.
    fn describe(&self) {
        let Ok(package) = &self.package else { return };
        // Nothing, where the plugin is refused for what it asks for.
        let (granted, refusal) = match self.grant(package) {
            Ok(granted) => (granted, None),
            Err(refusal) => (Granted::default(), Some(refusal)),
        };
        let by_operator = self.environment.plugins.grants.get(self.name());
        let sides = Sides::of(self.name(), &package.manifest.permissions, by_operator, refusal);
        self.plugin.update(|current: &mut Current| {
            current.version = package.manifest.plugin.version.to_string();
            current.permissions = granted.into();
            current.sides = sides;
        });
    }

    async fn stop(&mut self) {
        if let Some(process) = self.process.take() {
            self.plugin.update(|current| current.instance = None);
            process.stop(DRAIN).await;
            self.environment.journal.event(self.plugin.name(), "stopped", "as the operator asked");
        }
    }

    async fn died(&mut self, error: PluginError) {
        self.process = None;
        self.has_died = true;
        self.environment.journal.event(self.name(), "crashed", error.message());
        self.plugin.update(|current| {
            current.instance = None;
            current.error = Some(error);
        });
        self.apply(Event::Died).await;
    }

    /// Starts the version on disk beside the running one, swaps, and drains the old one. No query fails because of it.
    async fn reload(&mut self) -> Result<(), PluginError> {
        let package = reread(&self.directory, self.name())?;
        let mut old = self.process.take();
        let started = {
            let starting = self.spawn(&package);
            tokio::pin!(starting);
            loop {
                tokio::select! {
                    started = &mut starting => break started,
                    _ = ended(&mut old) => old = None,
                }
            }
        };
        match started {
            Ok(process) => {
                self.package = Ok(package);
                self.note_one_sided();
                self.adopt(process, "reloaded");
                self.stand_by();
                if let Some(old) = old {
                    old.stop(DRAIN).await;
                }
                Ok(())
            }
            Err(StartError { error, .. }) => {
                let message = format!("the running version stays: {}", error.message());
                self.environment.journal.event(self.name(), "reload failed", message);
                match old {
                    Some(process) => self.process = Some(process),
                    None => self.died(error.clone()).await,
                }
                Err(error)
            }
        }
    }
}

/// The package of the plugin `name` as it lies in its directory now.
fn reread(directory: &Path, name: &str) -> Result<Package, PluginError> {
    let failed = |message: String| Err(PluginError::init(message).of(name));
    let place = directory.display();
    match discover::load(directory) {
        Found::Package(found) if found.manifest.plugin.name == name => Ok(found),
        Found::Package(found) => failed(format!("{place} holds the plugin `{}` now", found.manifest.plugin.name)),
        Found::Broken { reason, .. } => failed(reason),
        Found::Ignored { reason, .. } => failed(format!("{place}: {reason}")),
    }
}

async fn ended(process: &mut Option<Process>) -> PluginError {
    match process {
        Some(process) => process.ended().await,
        None => std::future::pending().await,
    }
}

async fn pause(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}
