//! `photondb serve`

use std::io::{IsTerminal, stderr};
use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use crate::config::{Config, Flags};

/// Names what is logged: `debug`, or `photondb_server::plugins=trace,info`.
const LOG_VARIABLE: &str = "PHOTONDB_LOG";

/// Runs a server
///
/// When it is ready it prints one line of JSON with its ports: {"ready":true,"reql":28015,...}. Logs go to standard
/// error; PHOTONDB_LOG=debug makes them longer. SIGTERM and Ctrl-C stop it after the queries that are running.
#[derive(Debug, Args)]
pub struct Serve {
    /// The configuration; photondb.toml of the data directory if there is one
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where data is kept; made if it is missing [default: data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The address that every port listens on [default: 127.0.0.1]
    #[arg(long, value_name = "ADDR")]
    bind: Option<IpAddr>,
    /// The port for RethinkDB drivers; 0 for any free port [default: 28015]
    #[arg(long, value_name = "N")]
    reql_port: Option<u16>,
    /// The port for HTTP; 0 for any free port [default: 8080]
    #[arg(long, value_name = "N")]
    http_port: Option<u16>,
    /// The port for Cap'n Proto RPC; 0 for any free port [default: 28016]
    #[arg(long, value_name = "N")]
    rpc_port: Option<u16>,
    /// A directory with one folder a plugin, in place of the configured ones; may be given several times
    #[arg(long, value_name = "DIR")]
    plugin_dir: Vec<PathBuf>,
    /// Start no plugin
    #[arg(long, conflicts_with = "plugin_dir")]
    no_plugins: bool,
}

impl Serve {
    /// Runs the server until it is told to stop.
    ///
    /// # Errors
    /// The configuration is wrong, or the server cannot start.
    pub fn run(self) -> anyhow::Result<()> {
        let config = Config::load(&Flags {
            config: self.config,
            data: self.data,
            bind: self.bind,
            reql_port: self.reql_port,
            http_port: self.http_port,
            rpc_port: self.rpc_port,
            plugin_dirs: self.plugin_dir,
            no_plugins: self.no_plugins,
        })?;
        let filter = EnvFilter::builder()
            .with_default_directive(LevelFilter::INFO.into())
            .with_env_var(LOG_VARIABLE)
            .from_env_lossy();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal()).init();
        Ok(crate::server::run(config)?)
    }
}
