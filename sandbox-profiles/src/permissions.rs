//! What one plugin may use beyond its profile, as far as the kernel enforces it.
//!
//! Each permission that needs system calls is a commented file in `permissions/`, written as a profile is, that can only
//! add: more calls, or further alternatives for a call that is allowed already.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What one plugin may use. Services of the server (queries, metrics) are capabilities and need no permission of the
/// kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Permissions {
    /// Private memory.
    pub memory_bytes: u64,
    /// Threads of the plugin itself; the SDK's own come on top.
    pub threads: u32,
    /// Files and directories to read, absolute.
    pub read: Vec<PathBuf>,
    /// Directories to read and write, absolute.
    pub write: Vec<PathBuf>,
    /// A private directory.
    pub state: Option<StateDirectory>,
    /// Whether it may use the connections that the server makes for it. Which ones is the server's part.
    pub connect: bool,
}

/// A directory that belongs to one plugin: it starts there, and may do there what an embedded storage engine does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateDirectory {
    /// Absolute.
    pub path: PathBuf,
    /// The most bytes in it. The kernel holds each file to that; the sum is the server's to watch.
    pub bytes: u64,
    /// The most files and directories in it, for the server to watch.
    pub files: u64,
}

impl Default for Permissions {
    /// What a manifest gets that asks for nothing: 256 MiB, one thread, no file.
    fn default() -> Self {
        Self { memory_bytes: 256 << 20, threads: 1, read: Vec::new(), write: Vec::new(), state: None, connect: false }
    }
}

/// A permission that adds system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Addition {
    pub(crate) name: &'static str,
    pub(crate) file: &'static str,
    pub(crate) text: &'static str,
}

pub(crate) const STATE: Addition =
    Addition { name: "state", file: "permissions/state.toml", text: include_str!("../permissions/state.toml") };

pub(crate) const CONNECT: Addition =
    Addition { name: "connect", file: "permissions/connect.toml", text: include_str!("../permissions/connect.toml") };

/// What a command gets that is no plugin.
pub(crate) const COMMAND: Addition =
    Addition { name: "command", file: "permissions/command.toml", text: include_str!("../permissions/command.toml") };

/// The file of every permission that adds system calls, by name: to be shown to people.
pub fn files() -> [(&'static str, &'static str); 2] {
    [STATE, CONNECT].map(|addition| (addition.name, addition.text))
}

/// The permission under which `call` would be allowed, for the message about a call that was denied. A permission that
/// allows it with some arguments counts.
pub fn that_allows(call: &str) -> Option<&'static str> {
    let allows = |addition: &&Addition| {
        let parsed = crate::profile::parse(addition.file, addition.text);
        parsed.is_ok_and(|profile| profile.allow.iter().any(|allow| allow.calls.iter().any(|name| name == call)))
    };
    [STATE, CONNECT].iter().find(allows).map(|addition| addition.name)
}

impl Permissions {
    pub(crate) fn additions(&self) -> impl Iterator<Item = Addition> {
        let state = self.state.as_ref().map(|_| STATE);
        state.into_iter().chain(self.connect.then_some(CONNECT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denied_call_names_the_permission_that_would_allow_it() {
        assert_eq!(that_allows("openat"), Some("state"));
        assert_eq!(that_allows("setsockopt"), Some("connect"));
        assert_eq!(that_allows("ptrace"), None);
    }

    #[test]
    fn the_files_bear_their_names() {
        for addition in [STATE, CONNECT, COMMAND] {
            let profile = crate::profile::parse(addition.file, addition.text).unwrap();
            assert_eq!(profile.name, addition.name);
            assert!(profile.extends.is_none() && profile.files.is_empty());
            assert!(profile.deny.is_empty() || addition == COMMAND);
        }
    }
}
