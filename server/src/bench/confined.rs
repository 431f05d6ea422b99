//! Plugins as the server runs them: real processes in their sandbox.

use std::path::PathBuf;
use std::sync::Arc;

use crate::admin::status::PluginControl;
use crate::config::{Grant, PluginsConfig, SandboxConfig};
use crate::plugins::instance::Instance;
use crate::plugins::{Place, PluginManager};
use anyhow::Context;
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// Running plugins, stopped on drop.
pub struct Confined {
    /// The supervisor of all of them.
    pub manager: PluginManager,
    runtime: Runtime,
    /// What plugins keep. Removed last.
    _data: TempDir,
}

impl Confined {
    /// Starts what `make bench` built beside this benchmark; `None`, with a line that says why, where it is missing.
    ///
    /// # Errors
    /// When a plugin is there and does not run.
    pub fn start() -> anyhow::Result<Option<Self>> {
        let executable = std::env::current_exe().context("this executable has no path")?;
        // target/release/deps/ipc-0123456789abcdef
        let release = executable.ancestors().nth(2).context("this executable is not in a Cargo target directory")?;
        let host = release.join("photondb-plugin-host");
        let plugins = ["release-plugins", "release-bench"].map(|name| release.with_file_name(name));
        for needed in plugins.iter().chain([&host]) {
            if !needed.exists() {
                println!("SKIPPED: {} is missing; run `make bench`, which builds it", needed.display());
                return Ok(None);
            }
        }
        let confined = Self::start_with(host, plugins.into())?;
        for status in confined.manager.list() {
            println!("plugin {}: process {}, {}", status.name, status.pid.unwrap_or(0), status.layers.join(", "));
        }
        Ok(Some(confined))
    }

    /// Starts the plugins that are in folders of the directories `plugins`, confined by the given host.
    ///
    /// # Errors
    /// When one of them does not run.
    pub fn start_with(host: PathBuf, plugins: Vec<PathBuf>) -> anyhow::Result<Self> {
        let runtime = Runtime::new()?;
        let mut config = PluginsConfig { paths: plugins, ..PluginsConfig::default() };
        let grant = Grant { state: true, state_bytes: Some(16 << 30), ..Grant::default() };
        for engine in ["columnar", "redb"] {
            config.grants.insert(engine.to_owned(), grant.clone());
        }
        let data = tempfile::tempdir()?;
        let place = Place { host, data: data.path().to_owned(), ports: Vec::new() };
        let manager = runtime.block_on(PluginManager::start(place, config, SandboxConfig::default()))?;
        let confined = Self { manager, runtime, _data: data };
        for status in confined.manager.list() {
            let (name, state, error) = (status.name, status.state, status.error.unwrap_or_default());
            anyhow::ensure!(state == "ready", "the plugin {name} is {state}: {error}");
        }
        Ok(confined)
    }

    /// All processes.
    #[must_use]
    pub fn instances(&self) -> Vec<Arc<Instance>> {
        self.manager.list().iter().filter_map(|status| self.instance(&status.name).ok()).collect()
    }

    /// The process of a plugin.
    ///
    /// # Errors
    /// When it does not run.
    pub fn instance(&self, plugin: &str) -> anyhow::Result<Arc<Instance>> {
        let found = self.manager.registry().plugin(plugin).and_then(|plugin| plugin.running());
        found.with_context(|| format!("the plugin {plugin} is not running"))
    }
}

impl Drop for Confined {
    fn drop(&mut self) {
        self.runtime.block_on(self.manager.shutdown());
    }
}
