//! Plugins: found, confined, called, kept alive.
//!
//! | module | what it holds |
//! |---|---|
//! | [`discover`] | plugin directories -> packages |
//! | [`grant`] | declared AND granted |
//! | [`process`] | one process: spawned, confined, watched |
//! | [`handshake`] | the first words with it, and what it may register |
//! | [`instance`] | that process as the rest of the server sees it |
//! | [`call`] | **where a query meets a plugin**: rows -> lane -> rows |
//! | `built_in` | plugins that are linked in: the same code without a process |
//! | [`services`] | what the server does for plugins that were granted it |
//! | [`registry`] | which plugin provides what |
//! | [`plugin`] | one plugin, whichever process runs it now |
//! | [`life`] | when it is started, restarted and given up: a pure function |
//! | `supervisor` | acts on what `life` decides |
//! | `watch` | that it answers, and takes no more than it was granted; `usage` is what the kernel says of it |
//! | `ending` | how it ended, in words: a signal, a denied call, out of memory, ... |
//! | [`permissions`] | both sides of a grant and what the kernel makes of it, to be shown |
//! | [`audit`] | attacks on a plugin's own confinement |
//! | [`journal`] | events and logs; `output` cuts what plugins print into lines |
//! | [`counters`] | what it costs |
//!
//! All processes are spawned and watched on one thread that lives as long as the server. Queries call from their own
//! threads, through shared memory, without passing through that thread.

pub mod audit;
mod bell;
mod built_in;
pub mod call;
pub mod counters;
pub mod discover;
mod ending;
pub mod grant;
pub mod handshake;
pub mod host;
pub mod instance;
pub mod journal;
pub mod life;
pub(crate) mod output;
pub mod permissions;
pub mod plugin;
pub mod process;
pub mod registry;
pub mod services;
mod supervisor;
mod usage;
mod watch;

use std::cell::{Cell, RefCell};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, OnceLock, Weak};
use std::thread;
use std::time::Duration;

use photondb_plugin_host::Cgroups;
use photondb_plugin_sdk::registry::Plugin as PluginCode;
use photondb_plugin_sdk::{Cause, PluginError};
use photondb_sandbox_profiles::{KernelFeatures, Profiles};
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use crate::admin::status::{Change, Changing, LogLine, PluginControl, PluginEvent, PluginStatus};
use crate::config::{PluginsConfig, SandboxConfig};
use crate::query::Engine;
use crate::storage::{Store, VectorDefinition};
use audit::Confined;
pub use call::{Function, StartedCall};
use discover::Found;
use journal::Journal;
use permissions::PermissionsStatus;
use plugin::{Command, Plugin};
use registry::{Provider, Registry};
use services::Sources;
use services::query::EngineSlot;
use supervisor::{Environment, Supervisor};

/// What a call may take where nobody said anything else.
pub const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// All plugins of a server. Cheap to clone.
#[derive(Clone)]
pub struct PluginManager {
    registry: Arc<Registry>,
    journal: Arc<Journal>,
    rescans: mpsc::UnboundedSender<Rescan>,
    /// Weak: the engine refers to this manager.
    engine: Weak<EngineSlot>,
    /// The tables, some of which plugins may store.
    store: Arc<OnceLock<Store>>,
}

/// What plugins are started with, beside what the operator says about them.
#[derive(Clone, Debug)]
pub struct Place {
    /// `photondb-plugin-host`.
    pub host: PathBuf,
    /// The data directory, where plugins have directories of their own.
    pub data: PathBuf,
    /// The server's own ports, which plugins are not connected to.
    pub ports: Vec<u16>,
}

/// Looks for a plugin that was not there when the server started.
struct Rescan {
    name: String,
    done: oneshot::Sender<bool>,
}

impl PluginManager {
    /// Finds and starts all plugins, and returns when each of them runs or has failed for the first time.
    ///
    /// `host`: `photondb-plugin-host`; `data`: the data directory, where plugins have directories of their own. A plugin that can't run is no error here: its state and events say why.
    ///
    /// # Errors
    /// When the plugin thread can't be started, or a profile of the operator's can't be used.
    pub async fn start(place: Place, plugins: PluginsConfig, sandbox: SandboxConfig) -> io::Result<Self> {
        Self::start_with(place, plugins, sandbox, built_in::linked_in()).await
    }

    /// The same, with these plugins linked in instead of those of this build.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_with(
        place: Place,
        plugins: PluginsConfig,
        sandbox: SandboxConfig,
        linked_in: Vec<Box<dyn PluginCode>>,
    ) -> io::Result<Self> {
        let Place { host, data, ports } = place;
        let (registry, journal) = (Arc::<Registry>::default(), Arc::<Journal>::default());
        let (rescans, queue) = mpsc::unbounded_channel();
        let (settled, all_settled) = oneshot::channel();
        let engine = Arc::<EngineSlot>::default();
        let engine_slot = Arc::downgrade(&engine);
        let (shared_registry, shared_journal) = (Arc::clone(&registry), Arc::clone(&journal));
        let mut profiles = Profiles::builtin();
        if let Some(directory) = &sandbox.profiles {
            profiles.load_dir(directory).map_err(io::Error::other)?;
        }
        let kernel = KernelFeatures::probe();
        let cgroups = kernel.cgroup.as_deref().and_then(|directory| {
            let prepared = Cgroups::prepare(directory);
            prepared.inspect_err(|error| tracing::warn!("plugins get no cgroups: {error}")).ok()
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("plugins".into()).spawn(move || {
            let environment = Rc::new(Environment {
                host,
                data,
                plugins,
                sandbox,
                profiles,
                kernel,
                cgroups,
                sources: Sources {
                    registry: Arc::clone(&shared_registry),
                    journal: Arc::clone(&shared_journal),
                    ports,
                    engine,
                },
                journal: shared_journal,
                registry: shared_registry,
                instances: Cell::new(0),
                restarts: RefCell::default(),
            });
            LocalSet::new().block_on(&runtime, supervise_all(environment, linked_in, queue, settled));
        })?;
        // The sender is dropped when everything has settled.
        let _ = all_settled.await;
        Ok(Self { registry, journal, rescans, engine: engine_slot, store: Arc::default() })
    }

    /// Answers the queries of plugins from now on.
    pub fn serve_queries(&self, engine: Engine) {
        // There is none where the server stops already; a second engine would be one too many.
        if let Some(slot) = self.engine.upgrade() {
            slot.get_or_init(|| engine);
        }
    }

    /// Unloads no plugin from now on that tables or indexes of `store` need, unless it is told to.
    pub fn protect_tables(&self, store: Store) {
        self.store.get_or_init(|| store);
    }

    /// Refuses to unload a plugin that stores tables, which a volatile engine would lose, or that vector indexes are of or
    /// measure by.
    fn check_unload(&self, name: &str) -> Result<(), PluginError> {
        let Some(store) = self.store.get() else { return Ok(()) };
        let tables = store.tables_stored_by(name);
        let is_provided = |provider: Result<Provider, _>| provider.is_ok_and(|provider| provider.plugin.name() == name);
        let indexes = store.vector_indexes(|vector| is_provided(self.registry.vector_index(&vector.kind)));
        let by_distance = |vector: &VectorDefinition| {
            let distance = vector.distance.as_ref().map(|distance| self.registry.distance(&distance.name));
            distance.is_some_and(is_provided)
        };
        let measured = store.vector_indexes(by_distance);
        let needed = match (tables.is_empty(), measured.is_empty(), indexes.is_empty()) {
            (true, true, true) => return Ok(()),
            (false, ..) => format!(
                "it stores tables: {}; they would be unavailable until it is used again, and empty then if their engine \
                 keeps them in memory; drop them first",
                tables.join(", ")
            ),
            (true, false, _) => format!(
                "vector indexes measure by its distances: {}; they can't be searched before it is started again; drop \
                 them first",
                measured.join(", ")
            ),
            (true, true, false) => format!(
                "vector indexes are of its kinds: {}; they would be searched exactly, and slower, until it is started \
                 again; drop them first",
                indexes.join(", ")
            ),
        };
        let message = format!("{needed}, or run `photondb plugin unload {name} --force`");
        Err(PluginError::runtime(Cause::Argument, message).of(name))
    }

    /// Who provides what.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The query function `plugin.NAME`.
    ///
    /// # Errors
    /// When no plugin provides it.
    pub fn function(&self, name: &str) -> Result<Function, PluginError> {
        self.registry.function(name)
    }

    /// Lets every plugin finish its calls and stops it.
    pub async fn shutdown(&self) {
        let mut waiting = Vec::new();
        for plugin in self.registry.plugins() {
            let (done, stopped) = oneshot::channel();
            plugin.send(Command::Shutdown(done));
            waiting.push(stopped);
        }
        for stopped in waiting {
            // An error: the supervisor is gone already.
            let _ = stopped.await;
        }
    }

    async fn find(&self, name: &str) -> Result<Arc<Plugin>, PluginError> {
        if let Some(plugin) = self.registry.plugin(name) {
            return Ok(plugin);
        }
        let (done, found) = oneshot::channel();
        let _ = self.rescans.send(Rescan { name: name.to_owned(), done });
        let _ = found.await;
        self.registry.plugin(name).ok_or_else(|| {
            let known: Vec<String> = self.registry.plugins().iter().map(|plugin| plugin.name().to_owned()).collect();
            let known =
                if known.is_empty() { "there is none".into() } else { format!("there are: {}", known.join(", ")) };
            PluginError::runtime(Cause::Argument, format!("no plugin of this name in the plugin directories; {known}"))
                .of(name)
        })
    }
}

impl PluginControl for PluginManager {
    fn list(&self) -> Vec<PluginStatus> {
        let status = |plugin: &Arc<Plugin>| {
            let dropped_log_lines = self.journal.dropped_lines(plugin.name());
            PluginStatus { dropped_log_lines, ..plugin.status() }
        };
        self.registry.plugins().iter().map(status).collect()
    }

    fn events(&self) -> Vec<PluginEvent> {
        self.journal.events()
    }

    fn logs(&self, name: Option<&str>) -> Vec<LogLine> {
        self.journal.lines(name)
    }

    fn permissions(&self, name: &str) -> Option<PermissionsStatus> {
        Some(self.registry.plugin(name)?.permissions())
    }

    fn confined(&self, name: &str) -> Option<Arc<Confined>> {
        self.registry.plugin(name)?.confined()
    }

    fn change<'a>(&'a self, change: Change, name: &'a str) -> Changing<'a> {
        Box::pin(async move {
            let plugin = self.find(name).await?;
            if change == Change::Unload {
                self.check_unload(name)?;
            }
            let (done, answer) = oneshot::channel();
            plugin.send(Command::Change(change, done));
            answer.await.unwrap_or_else(|_| Err(PluginError::init("the server is stopping").of(name)))?;
            Ok(plugin.status())
        })
    }
}

/// The plugin thread: one supervisor a plugin, for as long as the server runs.
async fn supervise_all(
    environment: Rc<Environment>,
    linked_in: Vec<Box<dyn PluginCode>>,
    mut rescans: mpsc::UnboundedReceiver<Rescan>,
    settled: oneshot::Sender<()>,
) {
    built_in::register(linked_in, &environment.registry, &environment.journal, &environment.plugins);
    let mut starting = Vec::new();
    for found in discover::scan(&environment.plugins.paths) {
        starting.extend(adopt(&environment, found));
    }
    for first in starting {
        // The sender is dropped when the plugin has settled.
        let _ = first.await;
    }
    drop(settled);
    while let Some(Rescan { name, done }) = rescans.recv().await {
        for found in discover::scan(&environment.plugins.paths) {
            let is_wanted = match &found {
                Found::Package(package) => package.manifest.plugin.name == name,
                Found::Broken { name: broken, .. } => *broken == name,
                Found::Ignored { .. } => false,
            };
            if is_wanted && let Some(first) = adopt(&environment, found) {
                let _ = first.await;
            }
        }
        let _ = done.send(true);
    }
    // The manager is gone; the supervisors have their own way to stop.
    std::future::pending().await
}

/// Begins to supervise what was found, or records why not.
fn adopt(environment: &Rc<Environment>, found: Found) -> Option<oneshot::Receiver<()>> {
    let journal = &environment.journal;
    let (name, directory, package) = match found {
        Found::Ignored { path, reason } => {
            journal.event(&path.display().to_string(), "ignored", reason);
            return None;
        }
        Found::Broken { name, directory, reason } => {
            let error = PluginError::init(reason).of(&name);
            (name, directory, Err(error))
        }
        Found::Package(package) => (package.manifest.plugin.name.clone(), package.directory.clone(), Ok(package)),
    };
    let (commands, queue) = mpsc::unbounded_channel();
    let on_failure = environment.plugins.grants.get(&name).map(|grant| grant.on_failure).unwrap_or_default();
    let plugin = Arc::new(Plugin::new(&name, on_failure, commands));
    let place = directory.display().to_string();
    if !environment.registry.add(&plugin) {
        let is_built_in = environment.registry.plugin(&name).is_some_and(|plugin| plugin.is_built_in());
        let message = match is_built_in {
            true => format!(
                "{place} has the name of a plugin that is linked into this server, which stays; rename this one, or build \
                 the server without the feature `builtin-{name}`"
            ),
            false => format!("{place} has the name of another plugin, which stays; rename or remove one of the two"),
        };
        journal.event(&name, "conflict", message);
        return None;
    }
    journal.event(&name, "discovered", place);
    let (settled, first) = oneshot::channel();
    let supervisor = Supervisor::new(Rc::clone(environment), plugin, directory, package, queue);
    tokio::task::spawn_local(supervisor.run(settled));
    Some(first)
}

#[cfg(test)]
mod tests;
