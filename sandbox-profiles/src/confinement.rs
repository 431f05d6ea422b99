//! What the server tells a plugin host, what it answers, and the descriptors that they agree on.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::landlock::LandlockPlan;
use crate::layers::{Layer, Report};
use crate::limits::Limit;
use crate::profile::{GradeCap, Namespace};
use crate::seccomp::Program;

/// The descriptors of a plugin host. The plugin that it becomes keeps 0 to 6.
pub mod fd {
    /// `/dev/null`.
    pub const STDIN: i32 = 0;
    /// Pipe, write end: what the plugin prints.
    pub const STDOUT: i32 = 1;
    /// Pipe, write end.
    pub const STDERR: i32 = 2;
    /// Stream socket: Cap'n Proto RPC.
    pub const CONTROL: i32 = 3;
    /// Seqpacket socket: descriptors by SCM_RIGHTS. The first packet is the listener, if there is one.
    pub const PASSING: i32 = 4;
    /// Region that the server writes, sealed so that the plugin cannot.
    pub const SERVER_REGION: i32 = 5;
    /// Region that the plugin writes.
    pub const PLUGIN_REGION: i32 = 6;
    /// Sealed memfd: the verified executable. Gone in the plugin.
    pub const EXECUTABLE: i32 = 7;
    /// Sealed memfd: the [`StartMessage`](super::StartMessage) in JSON. Gone in the plugin.
    pub const START: i32 = 8;
    /// Pipe, write end, or a stream socket: the [`HostReply`](super::HostReply) in JSON. Gone in the plugin, so its end of file means
    /// that the plugin runs (or that the host died: then there is no report, or an error).
    pub const REPORT: i32 = 9;
    /// How many there are.
    pub const COUNT: i32 = 10;
}

/// The first packet on descriptor 4 has this payload and carries the listener descriptor.
pub const LISTENER_PACKET: &[u8] = b"photondb-denied-calls";

/// The exit status of a host that did not become the plugin; the reason is on the report pipe.
pub const REFUSED_STATUS: i32 = 70;

/// Everything a host needs to confine itself. Plain data: no pointer, no descriptor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confinement {
    /// The profile that this came from, for reports.
    pub profile: String,
    /// The seccomp program, with places for what only the host knows.
    pub seccomp: Program,
    /// `None`: this machine has no Landlock and the operator accepted that.
    pub landlock: Option<LandlockPlan>,
    /// A directory of the plugin's own, where it starts; `landlock` has the rule for it.
    pub state: Option<PathBuf>,
    /// Whether memory may become executable after it was written.
    pub generates_code: bool,
    /// Resource limits.
    pub limits: Vec<Limit>,
    /// The most threads, enforced where a user namespace gives the plugin a count of its own.
    pub threads_max: u64,
    /// Namespaces to ask for.
    pub namespaces: Vec<Namespace>,
    /// The user to become; only root can, and without it the plugin runs as the server's user.
    pub run_as: Option<RunAs>,
    /// A cgroup v2 directory, made by the server, that the host joins first.
    pub cgroup: Option<PathBuf>,
    /// Layers without which the host refuses. Seccomp and no_new_privs are required whether or not they are listed.
    pub required: Vec<Layer>,
    /// Paths for `photondb_plugin_host::DeniedCalls`: opening them is refused without a stop.
    pub excused: Vec<String>,
    /// The best grade that this profile can have.
    pub grade: Option<GradeCap>,
}

impl Confinement {
    /// Makes the plugin run as this user and group: one of its own, never the server's. Needs root.
    #[must_use]
    pub fn run_as(mut self, uid: u32, gid: u32) -> Self {
        self.run_as = Some(RunAs { uid, gid });
        self
    }

    /// Makes the host join this cgroup.
    #[must_use]
    pub fn join_cgroup(mut self, directory: PathBuf) -> Self {
        self.cgroup = Some(directory);
        self
    }
}

/// A user and a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the names say it")]
pub struct RunAs {
    pub uid: u32,
    pub gid: u32,
}

/// What descriptor 8 holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StartMessage {
    /// The plugin's name: its only argument; a command's, in messages.
    pub name: String,
    /// What the host becomes.
    pub launch: Launch,
    /// The server's process id. The host refuses if its parent is another: then the server died meanwhile.
    pub server_pid: u32,
    /// Whether it stands by: confined, and reported, it waits for a byte on descriptor 9, which is a socket then, before
    /// it becomes the plugin.
    pub waits: bool,
    /// How to confine.
    pub confinement: Confinement,
}

/// What a host becomes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Launch {
    /// A plugin: descriptors 0 to 6, its name as the only argument, an empty environment. What runs was sealed.
    Plugin,
    /// Any command: descriptors 0 to 2 are the caller's, those from 3 on are gone when it runs. Where a rule names a
    /// plugin's region, it names nothing here.
    Command {
        /// All of them, the command's own name first.
        arguments: Vec<String>,
        /// Names and values; nothing else is inherited.
        environment: Vec<(String, String)>,
        /// Where it starts, absolute; `None`: the root directory that it is given.
        directory: Option<PathBuf>,
    },
}

/// What the host writes to descriptor 9, once, before it becomes the plugin or gives up.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostReply {
    /// Confined; the plugin is next.
    Report(Report),
    /// Given up: one sentence for the operator.
    Error(String),
}
