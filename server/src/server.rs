//! The server: opens everything, joins the parts, serves until it is told to stop.
//!
//! Start: data directory, ports, plugins, data, connections, then the ready line. Stop: no new connections, the
//! queries that run, vector indexes (which save their graphs), plugins, data.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpListener as StdTcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use photondb_plugin_sdk::batch::Value;
use photondb_plugin_sdk::datum::Time;
use photondb_plugin_sdk::kinds::function::FunctionSignature;
use photondb_plugin_sdk::{Datum, PluginError};
use serde::Serialize;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use uuid::Uuid;

use crate::admin::socket::{AdminSocket, SocketError};
use crate::admin::status::PluginControl;
use crate::admin::system_tables::{ServerInfo, Sources, system_tables};
use crate::config::Config;
use crate::engines::EngineManager;
use crate::network::reql::{Users, UsersError};
use crate::network::{http, reql, rpc};
use crate::plugins::{Function, Place, PluginManager, StartedCall};
use crate::query::error::ErrorKind;
use crate::query::nested::Origin;
use crate::query::tables::store_error;
use crate::query::vector::{Filter, Neighbours, Search};
use crate::query::{
    Engine, EngineParts, Identity, NearestSearch, PluginFunction, PluginFunctions, ReqlError, Running, index_functions,
};
use crate::storage::{Store, StoreError, StoreOptions};
use crate::vector::{Nearest, SearchError, VectorManager};

/// The executable that becomes a plugin, beside the server's own.
const PLUGIN_HOST: &str = "photondb-plugin-host";
/// As many files as a server has a use for, connections included.
const MAX_FILES: u64 = 65_536;
/// How long running queries may take once the server is told to stop.
const DRAIN: Duration = Duration::from_secs(10);
/// What one vector search may take, all its queries together.
const SEARCH_DEADLINE: Duration = Duration::from_secs(60);
/// Rows that one vector search may find, all its queries together.
const MAX_FOUND: usize = 1_000_000;
/// Memory for the storage engine's cache: a fifth of the machine's, within these bounds.
const CACHE_BYTES: std::ops::RangeInclusive<u64> = 64 << 20..=8 << 30;

/// The path of the executable that becomes a plugin.
///
/// # Errors
/// If the system does not say where this program's own executable is.
pub fn plugin_host() -> io::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(PLUGIN_HOST))
}

/// Why a server does not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The data directory can't be used.
    #[error("the data directory {path} can't be used: {problem}; choose another with --data, or mend its permissions", path = path.display())]
    Data {
        /// The directory.
        path: PathBuf,
        /// Why.
        problem: io::Error,
    },
    /// A port can't be had.
    #[error("can't listen on {address} for {what}: {problem}; choose another with {flag}, or 0 for any free port")]
    Port {
        /// What for.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// The flag that changes it.
        flag: &'static str,
        /// Why.
        problem: io::Error,
    },
    /// The data can't be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The users' credentials can't be read.
    #[error(transparent)]
    Users(#[from] UsersError),
    /// The local socket can't be opened.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The operating system refused something.
    #[error("{what}: {problem}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// Why.
        problem: io::Error,
    },
}

/// The line on standard output that says that the server serves, and where.
#[derive(Serialize)]
struct Ready {
    ready: bool,
    reql: u16,
    http: u16,
    rpc: u16,
    pid: u32,
    data: String,
}

/// Runs a server until SIGTERM or SIGINT.
///
/// # Errors
/// When it can't start; the message says what to do.
pub fn run(config: Config) -> Result<(), ServerError> {
    let system = |what| move |problem| ServerError::System { what, problem };
    raise_file_limit();
    // A plugin of the same user must not read this process's memory, whatever its sandbox lacks.
    prctl::set_dumpable(false).map_err(|error| system("hiding the server's memory")(error.into()))?;
    prepare(&config.data).map_err(|problem| ServerError::Data { path: config.data.clone(), problem })?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(system("starting the network threads"))?
        .block_on(serve(config))
}

/// Lets this process open as many files as it may: shells and service managers start with few, for the sake of programs
/// that this one is none of.
fn raise_file_limit() {
    // Where it stays as it is, fewer connections are taken.
    if let Ok((current, most)) = getrlimit(Resource::RLIMIT_NOFILE)
        && current < most.min(MAX_FILES)
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, most.min(MAX_FILES), most)
    {
        tracing::warn!(%error, current, "the limit of open files can't be raised");
    }
}

/// Makes the data directory if it is missing, and checks that it can be written.
fn prepare(data: &Path) -> io::Result<()> {
    std::fs::create_dir_all(data)?;
    tempfile::Builder::new().prefix(".probe").tempfile_in(data).map(drop)
}

fn listen(bind: IpAddr, port: u16, what: &'static str, flag: &'static str) -> Result<StdTcpListener, ServerError> {
    let address = SocketAddr::new(bind, port);
    StdTcpListener::bind(address)
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|problem| ServerError::Port { what, address, flag, problem })
}

async fn serve(config: Config) -> Result<(), ServerError> {
    let system = |what| move |problem| ServerError::System { what, problem };
    let started = Time::now();
    let reql_socket = listen(config.bind, config.reql_port, "ReQL", "--reql-port")?;
    let http_socket = listen(config.bind, config.http_port, "HTTP", "--http-port")?;
    let rpc_socket = listen(config.bind, config.rpc_port, "Cap'n Proto RPC", "--rpc-port")?;
    let port = |listener: &StdTcpListener| {
        listener.local_addr().map(|address| address.port()).map_err(system("asking for a port's number"))
    };
    let (reql_port, http_port, rpc_port) = (port(&reql_socket)?, port(&http_socket)?, port(&rpc_socket)?);
    // Before the data is opened: it refuses a directory that another server uses.
    let admin = AdminSocket::open(&config.data)?;

    let host = plugin_host().map_err(system("finding the server's own executable"))?;
    let place = Place { host, data: config.data.clone(), ports: vec![reql_port, http_port, rpc_port] };
    let plugins = PluginManager::start(place, config.plugins.clone(), config.sandbox.clone())
        .await
        .map_err(system("starting the plugin thread"))?;
    let vectors = Arc::new(VectorManager::new(Arc::clone(plugins.registry())));
    let engines = EngineManager::new(Arc::clone(plugins.registry()), config.data.clone());
    let options = StoreOptions {
        cache_bytes: cache_bytes(),
        functions: index_functions(),
        vectors: Arc::clone(&vectors) as _,
        engines: Arc::new(engines.with_default(config.storage.engine.clone())),
        upkeep: config.plugins.upkeep,
    };
    let data = config.data.clone();
    let store = tokio::task::spawn_blocking(move || Store::open(&data, &options))
        .await
        .map_err(|error| system("opening the data")(io::Error::other(error)))??;

    let identity = Identity { id: Uuid::new_v4().to_string(), name: server_name() };
    let info = ServerInfo {
        id: identity.id.parse().unwrap_or_default(),
        name: identity.name.clone(),
        started,
        reql_port,
        http_port,
        cache_bytes: cache_bytes(),
    };
    let users = Arc::new(Users::open(&config.data)?);
    let known_users = Arc::clone(&users);
    let control: Arc<dyn PluginControl> = Arc::new(plugins.clone());
    let sources = Sources {
        store: store.clone(),
        plugins: Arc::clone(&control),
        server: info,
        users: Box::new(move || known_users.list()),
    };
    let engine = Engine::new(EngineParts {
        store: store.clone(),
        plugins: Arc::new(plugins.clone()),
        nearest: Arc::new(VectorSearch),
        system: system_tables(sources),
        identity,
    });
    plugins.serve_queries(engine.clone());
    plugins.protect_tables(store.clone());

    let (stop, stopping) = watch::channel(false);
    let stopped = |mut stopping: watch::Receiver<bool>| async move {
        // An error: the sender is gone, which is a stop as well.
        let _ = stopping.wait_for(|stop| *stop).await;
    };
    let listener = |socket| TcpListener::from_std(socket).map_err(system("listening"));
    let reql = tokio::spawn(reql::serve_reql(listener(reql_socket)?, engine, users, stopped(stopping.clone())));
    let http = tokio::spawn(http::serve_http(listener(http_socket)?, Arc::clone(&control), stopped(stopping)));
    let admin = tokio::spawn(admin.serve(control));
    rpc::serve_rpc(rpc_socket).map_err(system("starting the RPC thread"))?;

    let mut terminate = signal(SignalKind::terminate()).map_err(system("waiting for signals"))?;
    let ready = Ready {
        ready: true,
        reql: reql_port,
        http: http_port,
        rpc: rpc_port,
        pid: std::process::id(),
        data: config.data.display().to_string(),
    };
    let ready = serde_json::to_string(&ready)
        .map_err(|error| system("writing the ready line")(io::Error::new(io::ErrorKind::InvalidData, error)))?;
    // Whoever started the server may not listen: it serves all the same.
    let _ = writeln!(io::stdout(), "{ready}").and_then(|()| io::stdout().flush());
    tracing::info!(reql_port, http_port, rpc_port, data = %config.data.display(), "ready");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }

    tracing::info!("stopping");
    let _ = stop.send(true);
    if tokio::time::timeout(DRAIN, async { drop((reql.await, http.await)) }).await.is_err() {
        tracing::warn!(seconds = DRAIN.as_secs(), "queries that did not end in time are cut off");
    }
    admin.abort();
    let closed = tokio::task::spawn_blocking(move || vectors.close()).await;
    // Before the plugins that store tables.
    let closing = tokio::task::spawn_blocking(move || store.close()).await;
    plugins.shutdown().await;
    if closed.is_err() || closing.is_err() {
        tracing::error!("closing failed; the next start recovers what was acknowledged");
    }
    tracing::info!("stopped");
    Ok(())
}

fn cache_bytes() -> u64 {
    let memory = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    (memory.unwrap_or(0) * 1024 / 5).clamp(*CACHE_BYTES.start(), *CACHE_BYTES.end())
}

/// The host's name in the letters that RethinkDB's server names have.
fn server_name() -> String {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok()).unwrap_or_default();
    let host: String = host.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if host.is_empty() { "photondb".into() } else { host }
}

impl PluginFunctions for PluginManager {
    fn get(&self, name: &str) -> Result<Arc<dyn PluginFunction>, PluginError> {
        Ok(Arc::new(self.function(name)?))
    }
}

impl PluginFunction for Function {
    fn signature(&self) -> &FunctionSignature {
        self.signature()
    }

    fn invoke_batch(&self, args: &[&[Value<'_>]], rows: usize, origin: &Origin<'_>) -> Result<Vec<Datum>, PluginError> {
        self.invoke_batch(args, rows, origin)
    }

    fn ring_ahead(&self, origin: &Origin<'_>) {
        self.ring_ahead(origin);
    }

    fn start(&self, args: &[&[Value<'_>]], rows: usize, origin: &Origin<'_>) -> Option<Box<dyn Running>> {
        Some(Box::new(self.start(args, rows, origin)?))
    }
}

impl Running for StartedCall {
    fn rows(&self) -> usize {
        self.rows()
    }

    fn finish(self: Box<Self>, deadline: Instant) -> Result<Vec<Datum>, PluginError> {
        StartedCall::finish(*self, deadline)
    }
}

/// `get_nearest`, by the vector indexes of the store.
struct VectorSearch;

impl NearestSearch for VectorSearch {
    fn nearest(&self, search: &Search<'_>, filter: Option<Filter<'_>>) -> Result<Vec<Neighbours>, ReqlError> {
        let index = search.table.vector_index(search.index).map_err(|error| store_error(&error))?;
        let k = search.k.min(search.table.count_estimate().max(1) as usize);
        if k.saturating_mul(search.count) > MAX_FOUND {
            let message = format!(
                "{} vectors with up to {k} documents each are more than {MAX_FOUND} documents; ask for fewer at once.",
                search.count
            );
            return Err(ReqlError::new(ErrorKind::ResourceLimit, message));
        }
        let started = search.ctx.profile.enter();
        let request = Nearest {
            table: search.table,
            index: &index,
            queries: search.queries,
            k,
            max_distance: search.max_distance,
            settings: search.settings,
            origin: search.ctx.origin(search.ctx.deadline_in(SEARCH_DEADLINE)),
        };
        let found = request.run(filter);
        search.ctx.profile.leave(started, || {
            let how = found.as_ref().map_or_else(|_| "failed".into(), |(_, plan)| plan.to_string());
            format!("Searching {} vectors in index `{}` ({how}).", search.count, search.index)
        });
        let (found, _) = found.map_err(|error| match error {
            SearchError::Filter(error) => error,
            SearchError::Store(error) => store_error(&error),
            SearchError::Plugin(error) => error.into(),
            other => ReqlError::new(ErrorKind::OpFailed, other.to_string()),
        })?;
        let neighbours = |found: Vec<crate::vector::Neighbour>| {
            found.into_iter().map(|neighbour| (neighbour.distance, neighbour.document)).collect()
        };
        Ok(found.into_iter().map(neighbours).collect())
    }
}
