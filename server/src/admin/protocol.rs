//! What is said over the local socket: one JSON object a line, in both directions.
//!
//! A request is answered with any number of [`Reply::Item`]s and then [`Reply::Done`] or [`Reply::Error`]; a request that
//! follows a log is answered until the client hangs up. A connection carries requests one after the other.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The name of the socket in the data directory.
pub const SOCKET_NAME: &str = "photondb.sock";

/// A request of the command line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Every plugin: an item is a [`PluginStatus`](super::status::PluginStatus).
    PluginList,
    /// One plugin, as one item.
    PluginInfo {
        /// The plugin.
        name: String,
    },
    /// What a plugin may do, as one [`PermissionsStatus`](crate::plugins::permissions::PermissionsStatus).
    PluginPermissions {
        /// The plugin.
        name: String,
    },
    /// Attacks a plugin's confinement: items are [`AuditItem`](crate::plugins::audit::AuditItem)s.
    PluginAudit {
        /// The plugin.
        name: String,
    },
    /// Starts a plugin; its new status is the item.
    PluginEnable {
        /// The plugin.
        name: String,
    },
    /// Stops a plugin; its new status is the item.
    PluginDisable {
        /// The plugin.
        name: String,
    },
    /// Replaces a plugin by the version on disk; its new status is the item.
    PluginReload {
        /// The plugin.
        name: String,
    },
    /// Stops a plugin until it is used again; its new status is the item.
    PluginUnload {
        /// The plugin.
        name: String,
        /// Whether it is stopped even while it stores tables.
        #[serde(default)]
        force: bool,
    },
    /// Log lines: an item is a [`LogLine`](super::status::LogLine).
    PluginLogs {
        /// The plugin; all of them if it is missing.
        name: Option<String>,
        /// Whether lines that are yet to come are sent too, as they come.
        follow: bool,
    },
}

/// A part of an answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// One of the things that were asked for.
    Item(Value),
    /// There is no more.
    Done,
    /// The request failed, for the reason given in one sentence.
    Error(String),
}
