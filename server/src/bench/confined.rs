//! Plugins as the server runs them: real processes in their sandbox.

use std::path::PathBuf;
use std::sync::Arc;

use crate::admin::status::PluginControl;
use crate::config::{PluginsConfig, SandboxConfig};
use crate::plugins::instance::Instance;
use crate::plugins::{Place, PluginManager};
use anyhow::Context;
use tokio::runtime::Runtime;

/// Running plugins, stopped on drop.
pub struct Confined {
    /// The supervisor of all of them.
    pub manager: PluginManager,
    runtime: Runtime,
}

impl Confined {
    /// Starts what `make release` built beside this executable; `None`, with a line that says why, where it is missing.
    ///
    /// # Errors
    /// When a plugin is there and does not run.
    pub fn start() -> anyhow::Result<Option<Self>> {
        let executable = std::env::current_exe().context("this executable has no path")?;
        // target/release/deps/plugins-0123456789abcdef
        let release = executable.ancestors().nth(2).context("this executable is not in a Cargo target directory")?;
        let host = release.join("photondb-plugin-host");
        let plugins = release.with_file_name("release-plugins");
        for needed in [&host, &plugins] {
            if !needed.exists() {
                println!("SKIPPED: {} is missing; run `make bench`, which builds it", needed.display());
                return Ok(None);
            }
        }
        Self::start_with(host, plugins).map(Some)
    }

    fn start_with(host: PathBuf, plugins: PathBuf) -> anyhow::Result<Self> {
        let runtime = Runtime::new()?;
        let config = PluginsConfig { paths: vec![plugins], ..PluginsConfig::default() };
        let place = Place { host, data: std::env::temp_dir(), ports: Vec::new() };
        let manager = runtime.block_on(PluginManager::start(place, config, SandboxConfig::default()))?;
        let confined = Self { manager, runtime };
        for status in confined.manager.list() {
            anyhow::ensure!(
                status.state == "ready",
                "the plugin {} is {}: {:?}",
                status.name,
                status.state,
                status.error
            );
            println!("plugin {}: process {}, {}", status.name, status.pid.unwrap_or(0), status.layers.join(", "));
        }
        Ok(confined)
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
