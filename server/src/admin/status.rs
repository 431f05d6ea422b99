//! What there is to know of plugins: one shape for system tables, the command line, HTTP and metrics.

use std::pin::Pin;
use std::sync::Arc;

use photondb_plugin_sdk::PluginError;
use serde::{Deserialize, Serialize};

use crate::plugins::audit::Confined;
use crate::plugins::permissions::PermissionsStatus;

/// One plugin: a row of the system table `plugins`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PluginStatus {
    /// The name.
    pub name: String,
    /// Where it is in its life: `ready`, `draining`, `stopped`, `backing off`, `failed`, `refused`, ...
    pub state: String,
    /// The version, as in the manifest.
    pub version: String,
    /// The process, while there is one.
    pub pid: Option<u32>,
    /// What it provides, as `function approx` or `vector_index hnsw`.
    pub provides: Vec<String>,
    /// What callers get when it fails, as `functions: null`, and which part of the operator's policy has no effect.
    pub on_failure: Vec<String>,
    /// Log lines that were not kept, because there were too many at once.
    pub dropped_log_lines: u64,
    /// What it was granted.
    pub permissions: GrantedPermissions,
    /// The layers of the sandbox that are active, as the host reported them.
    pub layers: Vec<String>,
    /// How well it is confined: `A`, `B` or `C`.
    pub grade: Option<String>,
    /// Why the grade is not better.
    pub grade_reasons: Vec<String>,
    /// How often it was started again after it had died.
    pub restarts: u64,
    /// How often it was started again in the last minute.
    pub restarts_in_last_minute: u64,
    /// Whether calls are let through: `closed` (they are), `open` (they fail at once) or `half open` (one at a time).
    pub breaker: String,
    /// Resident memory of the process.
    pub memory_bytes: Option<u64>,
    /// Processor time that the process has used.
    pub cpu_seconds: Option<f64>,
    /// Threads of the process.
    pub threads: Option<u64>,
    /// How often it was caught using the processor while no call was on its way.
    pub busy_between_calls: u64,
    /// Calls answered, well or badly.
    pub calls: u64,
    /// Calls that failed.
    pub errors: u64,
    /// The duration that half of the recent calls stayed under.
    pub p50_ms: Option<f64>,
    /// The duration that 99 of 100 recent calls stayed under.
    pub p99_ms: Option<f64>,
    /// Bytes that went through shared memory in place.
    pub bytes_shared: u64,
    /// Bytes that were copied out of what the plugin wrote.
    pub bytes_copied: u64,
    /// Why it is not running, where something went wrong.
    pub error: Option<String>,
}

/// What a plugin was granted: declared by its manifest, and given by the operator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantedPermissions {
    /// The sandbox profile.
    pub profile: String,
    /// The most memory.
    pub memory_bytes: u64,
    /// The most threads.
    pub threads: u32,
    /// The directory of its own.
    pub state: Option<StateGranted>,
    /// Where the server dials to for it, as `HOST:PORT`.
    pub connect: Vec<String>,
    /// What it may query, as `read:DATABASE.TABLE`.
    pub query: Vec<String>,
    /// Whether it may read the server's metrics.
    pub metrics: bool,
}

/// How much a plugin may keep in the directory of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateGranted {
    /// Bytes.
    pub bytes: u64,
    /// Files and directories.
    pub files: u32,
}

/// Something that happened to a plugin: a row of the system table `plugin_events`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PluginEvent {
    /// Counts up from 1 since the server started.
    pub id: u64,
    /// Seconds since 1970.
    pub time: f64,
    /// The plugin, or the file or folder that is none.
    pub plugin: String,
    /// What happened: `started`, `stopped`, `crashed`, `denied`, `refused`, `conflict`, ...
    pub kind: String,
    /// One sentence.
    pub message: String,
}

/// A line that a plugin logged or printed: a row of the system table `plugin_logs`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// Counts up from 1 since the server started.
    pub id: u64,
    /// Seconds since 1970.
    pub time: f64,
    /// The plugin.
    pub plugin: String,
    /// Where it came from: `stdout`, `stderr`, or the level of a log call.
    pub source: String,
    /// The text, without the end of the line.
    pub text: String,
}

/// A change of a plugin's life that an operator can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Start it. Until the server stops; then the configuration decides again.
    Enable,
    /// Stop it, and leave it stopped.
    Disable,
    /// Start the version that is on disk beside the running one, then swap.
    Reload,
    /// Stop it until it is used again; refused while it stores tables.
    Unload,
    /// The same, also while it stores tables.
    ForceUnload,
}

/// The answer to a change, once it is made.
pub type Changing<'a> = Pin<Box<dyn Future<Output = Result<PluginStatus, PluginError>> + Send + 'a>>;

/// What operators can see of plugins, and change.
pub trait PluginControl: Send + Sync + 'static {
    /// Every plugin, by name.
    fn list(&self) -> Vec<PluginStatus>;

    /// The recent events, oldest first.
    fn events(&self) -> Vec<PluginEvent>;

    /// The recent log lines of one plugin or of all, oldest first.
    fn logs(&self, name: Option<&str>) -> Vec<LogLine>;

    /// What a plugin asked for, was given and has; `None` if there is no such plugin.
    fn permissions(&self, name: &str) -> Option<PermissionsStatus>;

    /// How a plugin was confined when it was last started; `None` if there is no such plugin or it never ran.
    fn confined(&self, name: &str) -> Option<Arc<Confined>>;

    /// Makes a change and waits until it is made.
    fn change<'a>(&'a self, change: Change, name: &'a str) -> Changing<'a>;
}
