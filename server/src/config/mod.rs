//! What the operator decides: defaults, then `photondb.toml`, then the command line, each overriding the one before.
//!
//! - [`Config`]: the model, as documented for operators;
//! - `file`: `photondb.toml` -> model;
//! - `reader`: typed access to a TOML document whose errors say which key, in which file and line, and what to write;
//! - `secrets`: files whose contents are settings of plugins;
//! - [`ConfigError`]: those errors.

mod error;
pub(crate) mod file;
mod reader;
mod secrets;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use error::ConfigError;
use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::manifest::{Address, Scope};

/// The file that is read from the data directory when no other is named.
pub const FILE_NAME: &str = "photondb.toml";

/// The key of a plugin's settings that holds its secrets.
const SECRETS: &str = "secrets";

/// Everything that `photondb serve` is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The data directory. Made when it is missing.
    pub data: PathBuf,
    /// The address that every port listens on.
    pub bind: IpAddr,
    /// The port of the ReQL protocol; 0 for any free port.
    pub reql_port: u16,
    /// The port of HTTP; 0 for any free port.
    pub http_port: u16,
    /// The port of Cap'n Proto RPC; 0 for any free port.
    pub rpc_port: u16,
    /// Which plugins there are and what they may do.
    pub plugins: PluginsConfig,
    /// Which layers of the sandbox a plugin must have.
    pub sandbox: SandboxConfig,
    /// Where tables are kept.
    pub storage: StorageConfig,
}

/// `[storage]`: where tables are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StorageConfig {
    /// The storage engine of tables that are created without `engine=...`; `None` is `default`, the embedded one. Tables that
    /// exist stay where they are.
    pub engine: Option<String>,
}

/// `[plugins]`: which plugins there are and what they may do.
#[derive(Clone, Debug, PartialEq)]
pub struct PluginsConfig {
    /// Directories that are searched for plugins, one folder a plugin, in this order.
    pub paths: Vec<PathBuf>,
    /// Whether unsigned and badly signed plugins are refused.
    pub require_signatures: bool,
    /// The minisign public keys whose signatures count.
    pub trusted_keys: Vec<String>,
    /// Plugins that are switched on or off by name. One that is not named is on.
    pub enabled: BTreeMap<String, bool>,
    /// Settings by plugin, handed over as they are.
    pub settings: BTreeMap<String, toml::Table>,
    /// Files whose contents a plugin gets with its settings, by plugin and by name.
    pub secrets: BTreeMap<String, BTreeMap<String, PathBuf>>,
    /// Grants by plugin. A plugin gets what it declares and the operator grants, never more.
    pub grants: BTreeMap<String, Grant>,
    /// When a plugin that failed is started again, and when no more.
    pub restarts: RestartsConfig,
    /// How often storage engines of plugins are asked what they want done to their documents.
    pub upkeep: Duration,
}

/// `[plugins.restarts]`: when a plugin that failed is started again, and when no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestartsConfig {
    /// The pause before the second restart in a row, the first being at once; doubles with every further one.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
    /// A plugin that ran for so long has recovered: its next pause is the first one again.
    pub recovered_after: Duration,
    /// Failures in a row after which calls fail at once until one was answered.
    pub open_after: u32,
    /// Starts in a row that may fail before the plugin is given up.
    pub failed_starts: u32,
    /// Deaths within [`give_up_within`](Self::give_up_within) after which the plugin is given up.
    pub give_up_after: u32,
    /// See [`give_up_after`](Self::give_up_after).
    pub give_up_within: Duration,
    /// Restarts of one plugin in a minute; further ones wait.
    pub per_minute: u32,
    /// Restarts of all plugins together in a minute; further ones wait.
    pub all_per_minute: u32,
}

impl Default for RestartsConfig {
    fn default() -> Self {
        Self {
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(5),
            recovered_after: Duration::from_secs(10),
            open_after: 10,
            failed_starts: 5,
            give_up_after: 25,
            give_up_within: Duration::from_secs(300),
            per_minute: 30,
            all_per_minute: 120,
        }
    }
}

/// `[plugins.grants.NAME]`: what the operator gives to one plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// The most memory in bytes; `None`: the server's default.
    pub memory: Option<u64>,
    /// The most threads; `None`: the server's default.
    pub threads: Option<u32>,
    /// The sandbox profile that the plugin may run in beside `strict`, the default.
    pub profile: Option<String>,
    /// Whether the plugin has a private directory that it may write to.
    pub state: bool,
    /// The most bytes in that directory; `None`: [`STATE_BYTES`](Self::STATE_BYTES).
    pub state_bytes: Option<u64>,
    /// The most files and directories in it; `None`: [`STATE_FILES`](Self::STATE_FILES).
    pub state_files: Option<u32>,
    /// Where the server dials to for the plugin.
    pub connect: Vec<Address>,
    /// What the plugin may query.
    pub query: Vec<Scope>,
    /// Whether the plugin may read the server's metrics.
    pub metrics: bool,
    /// What a caller gets when the plugin fails.
    pub on_failure: FailurePolicy,
}

/// What callers get when a plugin fails: said for all that it provides, or for one kind of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailurePolicy {
    /// For every kind that can do so.
    pub all: Option<OnFailure>,
    /// For query functions: the error (the default), or null.
    pub functions: Option<OnFailure>,
    /// For vector searches: the exact scan (the default), or the error.
    pub vector_indexes: Option<OnFailure>,
}

impl FailurePolicy {
    /// What a call of a query function gives.
    #[must_use]
    pub fn of_functions(&self) -> OnFailure {
        let all = self.all.filter(|policy| OnFailure::OF_FUNCTIONS.iter().any(|(_, known)| known == policy));
        self.functions.or(all).unwrap_or(OnFailure::Fail)
    }

    /// What a vector search gives.
    #[must_use]
    pub fn of_vector_indexes(&self) -> OnFailure {
        let all = self.all.filter(|policy| OnFailure::OF_VECTOR_INDEXES.iter().any(|(_, known)| known == policy));
        self.vector_indexes.or(all).unwrap_or(OnFailure::Fallback)
    }

    /// The parts of the policy that mean nothing for a plugin that provides these kinds.
    #[must_use]
    pub fn without_effect(&self, functions: bool, vector_indexes: bool) -> Vec<String> {
        let is_heard = |policy| {
            (functions && self.of_functions() == policy) || (vector_indexes && self.of_vector_indexes() == policy)
        };
        let all = self.all.filter(|policy| !is_heard(*policy)).map(|policy| format!("\"{}\"", policy.name()));
        let of_kind = |kind: &str, policy: Option<OnFailure>, provided: bool| {
            policy.filter(|_| !provided).map(|policy| format!("{kind} = \"{}\"", policy.name()))
        };
        let parts = [
            all,
            of_kind("functions", self.functions, functions),
            of_kind("vector_indexes", self.vector_indexes, vector_indexes),
        ];
        parts.into_iter().flatten().collect()
    }
}

impl Grant {
    /// The most bytes of a plugin's directory, unless the operator says otherwise.
    pub const STATE_BYTES: u64 = 1 << 30;
    /// The most files and directories in it, unless the operator says otherwise.
    pub const STATE_FILES: u32 = 10_000;
}

/// What a caller gets when a plugin fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// The error.
    Fail,
    /// Null in place of the result.
    Null,
    /// The server's own slower answer: the exact scan of a vector search.
    Fallback,
    /// Nothing: the event is dropped (exporters).
    Skip,
}

impl OnFailure {
    /// Every policy, with its name in `photondb.toml`.
    pub const ALL: [(&str, Self); 4] =
        [("fail", Self::Fail), ("null", Self::Null), ("fallback", Self::Fallback), ("skip", Self::Skip)];
    /// Those that query functions have.
    pub const OF_FUNCTIONS: [(&str, Self); 2] = [("fail", Self::Fail), ("null", Self::Null)];
    /// Those that vector searches have.
    pub const OF_VECTOR_INDEXES: [(&str, Self); 2] = [("fallback", Self::Fallback), ("fail", Self::Fail)];

    /// Its name in `photondb.toml`.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, known)| *known == self).map_or("fail", |(name, _)| name)
    }
}

/// `[sandbox]`: which layers a plugin must have beside seccomp and no_new_privs, which are always required.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxConfig {
    /// A plugin is refused where one of these is missing.
    pub require: Vec<RequiredLayer>,
    /// Plugins that may run without the given layers all the same.
    pub accept_degraded: BTreeMap<String, Vec<RequiredLayer>>,
    /// A directory with profiles of the operator's own, one `NAME.toml` each.
    pub profiles: Option<PathBuf>,
}

/// A layer of the sandbox that the operator can insist on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RequiredLayer {
    /// File and network access rules of the kernel's Landlock.
    Landlock,
    /// A user namespace of the plugin's own.
    UserNamespace,
    /// A control group with limits of the plugin's own.
    Cgroup,
    /// A user id of the plugin's own.
    Uid,
}

impl RequiredLayer {
    /// Every layer, with its name in `photondb.toml`.
    pub const NAMES: [(&str, Self); 4] =
        [("landlock", Self::Landlock), ("userns", Self::UserNamespace), ("cgroup", Self::Cgroup), ("uid", Self::Uid)];
}

/// What was given on the command line of `photondb serve`.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`: a file that must exist. Without it `photondb.toml` of the data directory is read if it is there.
    pub config: Option<PathBuf>,
    /// `--data`
    pub data: Option<PathBuf>,
    /// `--bind`
    pub bind: Option<IpAddr>,
    /// `--reql-port`
    pub reql_port: Option<u16>,
    /// `--http-port`
    pub http_port: Option<u16>,
    /// `--rpc-port`
    pub rpc_port: Option<u16>,
    /// `--plugin-dir`, any number of times; takes the place of `plugins.paths`.
    pub plugin_dirs: Vec<PathBuf>,
    /// `--no-plugins`
    pub no_plugins: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: "data".into(),
            bind: Ipv4Addr::LOCALHOST.into(),
            reql_port: 28015,
            http_port: 8080,
            rpc_port: 28016,
            plugins: PluginsConfig::default(),
            sandbox: SandboxConfig::default(),
            storage: StorageConfig::default(),
        }
    }
}

impl Default for PluginsConfig {
    fn default() -> Self {
        Self {
            paths: vec!["/opt/photondb/plugins".into(), "./plugins".into()],
            require_signatures: false,
            trusted_keys: Vec::new(),
            enabled: BTreeMap::new(),
            settings: BTreeMap::new(),
            secrets: BTreeMap::new(),
            grants: BTreeMap::new(),
            restarts: RestartsConfig::default(),
            upkeep: Duration::from_secs(30),
        }
    }
}

impl Default for SandboxConfig {
    fn default() -> Self {
        Self { require: vec![RequiredLayer::Landlock], accept_degraded: BTreeMap::new(), profiles: None }
    }
}

impl PluginsConfig {
    /// Whether the plugin `name` is switched on.
    #[must_use]
    pub fn is_enabled(&self, name: &str) -> bool {
        self.enabled.get(name).copied().unwrap_or(true)
    }

    /// The operator's settings for the plugin `name`, as it gets them: with an object `secrets` of the contents of the
    /// files that `[plugins.secrets.NAME]` names, as they are now.
    ///
    /// # Errors
    /// Where they are no value of ReQL, or a secret can't be read.
    pub fn settings_of(&self, name: &str) -> Result<Datum, String> {
        let wrong = |problem: String| format!("[plugins.settings.{name}]: {problem}");
        let mut table = self.settings.get(name).cloned().unwrap_or_default();
        if table.contains_key(SECRETS) {
            return Err(wrong(format!("secrets are in files, which [plugins.secrets.{name}] names")));
        }
        if let Some(files) = self.secrets.get(name) {
            let mut secrets = toml::Table::new();
            for (key, path) in files {
                let text =
                    secrets::read(path).map_err(|problem| format!("[plugins.secrets.{name}]: `{key}`: {problem}"))?;
                secrets.insert(key.clone(), text.into());
            }
            table.insert(SECRETS.to_owned(), secrets.into());
        }
        let json = serde_json::to_value(table).map_err(|error| wrong(error.to_string()))?;
        Datum::from_json(&json).map_err(|error| wrong(error.to_string()))
    }
}

impl Config {
    /// The defaults, overridden by the configuration file, overridden by `flags`.
    ///
    /// # Errors
    /// The file cannot be read, or says something that it must not; the message is one line.
    pub fn load(flags: &Flags) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        if let Some(data) = &flags.data {
            config.data.clone_from(data);
        }
        let beside_data = config.data.join(FILE_NAME);
        match &flags.config {
            Some(path) => config.read(path)?,
            None if beside_data.exists() => config.read(&beside_data)?,
            None => {}
        }
        config.bind = flags.bind.unwrap_or(config.bind);
        config.reql_port = flags.reql_port.unwrap_or(config.reql_port);
        config.http_port = flags.http_port.unwrap_or(config.http_port);
        config.rpc_port = flags.rpc_port.unwrap_or(config.rpc_port);
        if flags.no_plugins {
            config.plugins.paths.clear();
        } else if !flags.plugin_dirs.is_empty() {
            config.plugins.paths.clone_from(&flags.plugin_dirs);
        }
        Ok(config)
    }

    fn read(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text =
            std::fs::read_to_string(path).map_err(|problem| ConfigError::Unreadable { file: path.into(), problem })?;
        file::apply(self, path, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE_NAME), "[plugins]\npaths = [\"mine\"]\nrequire_signatures = true\n")
            .unwrap();
        let mut flags = Flags { data: Some(folder.path().into()), reql_port: Some(0), ..Flags::default() };

        let config = Config::load(&flags).unwrap();
        assert_eq!(config.plugins.paths, [folder.path().join("mine")]);
        assert!(config.plugins.require_signatures);
        assert_eq!((config.reql_port, config.http_port), (0, 8080));

        flags.plugin_dirs = vec!["a".into(), "b".into()];
        assert_eq!(Config::load(&flags).unwrap().plugins.paths, [Path::new("a"), Path::new("b")]);
        flags.no_plugins = true;
        assert!(Config::load(&flags).unwrap().plugins.paths.is_empty());
    }

    #[test]
    fn a_named_file_must_exist() {
        let flags = Flags { config: Some("no/such/photondb.toml".into()), ..Flags::default() };
        let error = Config::load(&flags).unwrap_err().to_string();
        assert!(error.contains("no/such/photondb.toml"), "{error}");
    }

    #[test]
    fn a_policy_counts_for_the_kinds_that_know_it() {
        let all = |policy| FailurePolicy { all: Some(policy), ..FailurePolicy::default() };
        let of = |policy: FailurePolicy| (policy.of_functions(), policy.of_vector_indexes());
        assert_eq!(of(FailurePolicy::default()), (OnFailure::Fail, OnFailure::Fallback));
        assert_eq!(of(all(OnFailure::Null)), (OnFailure::Null, OnFailure::Fallback));
        assert_eq!(of(all(OnFailure::Fail)), (OnFailure::Fail, OnFailure::Fail));
        let both = FailurePolicy { functions: Some(OnFailure::Null), ..all(OnFailure::Fail) };
        assert_eq!(of(both), (OnFailure::Null, OnFailure::Fail));
        assert_eq!(all(OnFailure::Null).without_effect(true, false), [""; 0]);
        assert_eq!(all(OnFailure::Null).without_effect(false, true), ["\"null\""]);
        assert_eq!(all(OnFailure::Skip).without_effect(true, true), ["\"skip\""]);
        assert_eq!(both.without_effect(false, true), ["functions = \"null\""]);
    }

    #[test]
    fn plugins_are_on_unless_switched_off() {
        let mut plugins = PluginsConfig::default();
        plugins.enabled.insert("geo".into(), false);
        assert!(plugins.is_enabled("hnsw"));
        assert!(!plugins.is_enabled("geo"));
    }
}
