//! What a plugin has to keep to: the suites of the SDK, run against a plugin as the server has it, in its sandbox or
//! linked in. `photondb plugin test` shows it.
//!
//! | module | what it holds |
//! |---|---|
//! | `engine` | storage engines, also when their process is killed |
//! | `function` | functions, aggregates, and the arguments that nobody should send |
//! | `data_type` | types of values |
//! | `distance` | distances of vectors |

mod data_type;
mod distance;
mod engine;
mod function;

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::testing::vector::Suite;
use serde::Serialize;

use crate::admin::status::PluginStatus;
use crate::plugins::PluginManager;
use crate::plugins::plugin::Plugin;
use crate::vector::TestedKind;

/// How long a plugin that was killed may take to serve again.
const RESTART: Duration = Duration::from_secs(30);
/// The least recall@10 that an index with its default options has to reach on rows around clusters.
const RECALL: f64 = 0.9;

/// One check, and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// What of the plugin: `storage_engine redb`.
    pub part: String,
    /// What was checked.
    pub check: String,
    /// What is wrong; `None`: nothing.
    pub failure: Option<String>,
    /// Why it was not checked, if it was not.
    pub skipped: Option<String>,
    /// How long it took, in seconds.
    pub seconds: f64,
}

/// A plugin under test.
pub struct Subject<'a> {
    manager: &'a PluginManager,
    plugin: Arc<Plugin>,
    /// Where engines that are linked in keep their files.
    data: PathBuf,
    /// Values to try, beside those that are tried of every plugin.
    samples: Vec<Datum>,
}

/// Tells of each check.
type Tell<'a> = dyn FnMut(Outcome) + 'a;

impl<'a> Subject<'a> {
    /// The plugin of that name. `samples`: values that its functions or types take.
    ///
    /// # Errors
    /// When it is not there, or does not run: with the reason.
    pub fn new(manager: &'a PluginManager, name: &str, data: &Path, samples: Vec<Datum>) -> Result<Self, String> {
        let plugin = manager.registry().plugin(name).ok_or_else(|| format!("there is no plugin `{name}`"))?;
        let PluginStatus { state, error, .. } = plugin.status();
        if !plugin.can_be_called() {
            return Err(format!("the plugin `{name}` is {state}: {}", error.unwrap_or_default()));
        }
        Ok(Self { manager, plugin, data: data.to_owned(), samples })
    }

    /// Runs all checks of everything that the plugin provides, and tells of each when it is done.
    pub fn run(&self, tell: &mut Tell<'_>) {
        let status = self.plugin.status();
        for provided in &status.provides {
            let Some((kind, name)) = provided.split_once(' ') else { continue };
            match kind {
                "function" => self.check_function(name, &mut self.part(provided, tell)),
                "aggregate" => self.check_aggregate(name, &mut self.part(provided, tell)),
                "data_type" => self.check_data_type(name, &mut self.part(provided, tell)),
                "vector_index" => self.check_vector_index(name, &mut self.part(provided, tell)),
                "distance" => self.check_distance(name, &mut self.part(provided, tell)),
                "storage_engine" => self.check_engine(name, &mut self.part(provided, tell)),
                _ => {}
            }
        }
        if !self.plugin.is_built_in() {
            self.part("plugin", tell).check("it is back after it was killed", || self.kill().map(drop));
        }
    }

    fn part<'b>(&self, part: &str, tell: &'b mut Tell<'_>) -> Part<'b> {
        Part { part: part.to_owned(), tell: Box::new(tell) }
    }

    fn check_vector_index(&self, name: &str, part: &mut Part<'_>) {
        let kind = TestedKind::new(self.manager.registry(), name);
        let suite = Suite::new(&kind).recall(RECALL);
        for (check, run) in Suite::CHECKS {
            part.check(check, || {
                run(&suite);
                Ok(())
            });
        }
    }

    /// Kills the process, and waits until the next one serves.
    fn kill(&self) -> Result<(), String> {
        let before = self.plugin.running().ok_or("it does not run")?;
        let pid = self.plugin.status().pid.ok_or("it has no process")?;
        kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).map_err(|error| format!("killing it: {error}"))?;
        let deadline = Instant::now() + RESTART;
        loop {
            // Waits for the process that follows.
            let found = self.plugin.call().instance(deadline).map_err(|error| error.to_string())?;
            if found.number() != before.number() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(format!("it did not serve again within {RESTART:?}"));
            }
            std::thread::yield_now();
        }
    }
}

/// A part of a plugin that is being checked.
struct Part<'a> {
    part: String,
    tell: Box<dyn FnMut(Outcome) + 'a>,
}

impl Part<'_> {
    /// Runs one check: it fails if it says so, or panics, as the checks of the SDK do. `true`: it is fine.
    fn check(&mut self, check: &str, run: impl FnOnce() -> Result<(), String>) -> bool {
        let started = Instant::now();
        let failure = match catch_unwind(AssertUnwindSafe(run)) {
            Ok(outcome) => outcome.err(),
            Err(panic) => Some(said(&*panic)),
        };
        let is_fine = failure.is_none();
        let (part, check, seconds) = (self.part.clone(), check.to_owned(), started.elapsed().as_secs_f64());
        (self.tell)(Outcome { part, check, failure, skipped: None, seconds });
        is_fine
    }

    /// Tells that a check can't be made.
    fn skip(&mut self, check: &str, why: String) {
        let (part, check) = (self.part.clone(), check.to_owned());
        (self.tell)(Outcome { part, check, failure: None, skipped: Some(why), seconds: 0.0 });
    }
}

/// What a check said when it failed.
fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it failed without a reason").to_owned()
}

#[cfg(test)]
mod tests;
