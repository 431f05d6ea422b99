//! The layers of the sandbox, what was enforced of them, and the grade that follows.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::profile::GradeCap;

/// A wall between a plugin and the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Layer {
    /// The system call filter. Never given up.
    Seccomp,
    /// Refused calls are stopped and named by a listener.
    DeniedCallListener,
    /// `no_new_privs`. Never given up.
    NoNewPrivs,
    /// Memory that never becomes executable (MDWE).
    NoNewCode,
    /// File, network and signal scopes.
    Landlock,
    /// A user namespace of its own, without any capability in it.
    #[serde(alias = "userns")]
    UserNamespace,
    /// No network interface but its own loopback, which is down.
    NetNamespace,
    /// No System V objects but its own.
    IpcNamespace,
    /// A root directory that is empty and read-only.
    MountNamespace,
    /// A host name of its own.
    UtsNamespace,
    /// Does not see where it is in the cgroup tree.
    CgroupNamespace,
    /// A user of its own.
    Uid,
    /// No capability, and none to be had.
    Capabilities,
    /// Resource limits.
    Rlimits,
    /// A limit on threads of its own.
    ThreadLimit,
    /// Memory, cpu and pids limits by the kernel.
    Cgroup,
    /// A session of its own, with an empty keyring.
    Session,
    /// Dies with the server.
    ParentDeath,
}

impl Layer {
    /// Refused by every server, whatever its configuration.
    pub fn is_negotiable(self) -> bool {
        !matches!(self, Self::Seccomp | Self::NoNewPrivs)
    }

    /// The layer that the configuration calls `name` (`landlock`, `userns`, `cgroup`, `uid`, ...).
    pub fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "seccomp" => Self::Seccomp,
            "listener" => Self::DeniedCallListener,
            "no_new_privs" => Self::NoNewPrivs,
            "no_new_code" => Self::NoNewCode,
            "landlock" => Self::Landlock,
            "userns" => Self::UserNamespace,
            "netns" => Self::NetNamespace,
            "ipcns" => Self::IpcNamespace,
            "mountns" => Self::MountNamespace,
            "utsns" => Self::UtsNamespace,
            "cgroupns" => Self::CgroupNamespace,
            "uid" => Self::Uid,
            "capabilities" => Self::Capabilities,
            "rlimits" => Self::Rlimits,
            "thread_limit" => Self::ThreadLimit,
            "cgroup" => Self::Cgroup,
            "session" => Self::Session,
            "parent_death" => Self::ParentDeath,
            _ => return None,
        })
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Seccomp => "seccomp",
            Self::DeniedCallListener => "listener",
            Self::NoNewPrivs => "no_new_privs",
            Self::NoNewCode => "no_new_code",
            Self::Landlock => "landlock",
            Self::UserNamespace => "userns",
            Self::NetNamespace => "netns",
            Self::IpcNamespace => "ipcns",
            Self::MountNamespace => "mountns",
            Self::UtsNamespace => "utsns",
            Self::CgroupNamespace => "cgroupns",
            Self::Uid => "uid",
            Self::Capabilities => "capabilities",
            Self::Rlimits => "rlimits",
            Self::ThreadLimit => "thread_limit",
            Self::Cgroup => "cgroup",
            Self::Session => "session",
            Self::ParentDeath => "parent_death",
        })
    }
}

/// A layer and what is to be said about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerReport {
    /// Which.
    pub layer: Layer,
    /// For a layer that is in force, how; for one that is missing, why.
    pub detail: String,
}

/// What a plugin host enforced on itself, as read back from the kernel where the kernel can be asked.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// The profile.
    pub profile: String,
    /// In force.
    pub enforced: Vec<LayerReport>,
    /// Wanted, and not in force.
    pub missing: Vec<LayerReport>,
    /// 0: none.
    pub landlock_abi: u32,
    /// The best grade that the profile can have.
    pub grade_cap: Option<GradeCap>,
}

impl Report {
    /// Adds a layer that is in force.
    pub fn enforced(&mut self, layer: Layer, detail: impl Into<String>) {
        self.enforced.push(LayerReport { layer, detail: detail.into() });
    }

    /// Adds a layer that is not.
    pub fn missing(&mut self, layer: Layer, detail: impl Into<String>) {
        self.missing.push(LayerReport { layer, detail: detail.into() });
    }

    /// Whether `layer` is in force.
    pub fn has(&self, layer: Layer) -> bool {
        self.enforced.iter().any(|report| report.layer == layer)
    }

    /// The layers of `required`, and those that nobody can give up, that are not in force.
    pub fn lacking(&self, required: &[Layer]) -> Vec<Layer> {
        let always = [Layer::Seccomp, Layer::NoNewPrivs];
        let mut lacking: Vec<_> = always.iter().chain(required).copied().filter(|layer| !self.has(*layer)).collect();
        lacking.sort();
        lacking.dedup();
        lacking
    }

    /// How well this process is confined.
    ///
    /// A: seccomp, no_new_privs and Landlock ABI 6 or newer. B: an older Landlock. C: no Landlock. A profile that
    /// allows more can lower it further. The second walls (a user of its own, namespaces, a cgroup) do not change the
    /// letter: what an ordinary user can have is an A. Those that are missing are among the reasons.
    pub fn grade(&self) -> Grade {
        let mut reasons = Vec::new();
        let mut letter = match self.landlock_abi {
            _ if !self.has(Layer::Landlock) => {
                reasons.push("no Landlock: seccomp is the only wall around files".to_owned());
                Letter::C
            }
            6.. => Letter::A,
            abi => {
                reasons.push(format!("Landlock ABI {abi}: no signal scope before ABI 6 (Linux 6.12)"));
                Letter::B
            }
        };
        if let Some(cap) = &self.grade_cap {
            letter = letter.max(cap.at_most);
            reasons.push(cap.why.clone());
        }
        if !self.has(Layer::Uid) && !self.has(Layer::UserNamespace) {
            reasons.push("runs as the server's user, without a user namespace".to_owned());
        }
        if !self.has(Layer::Cgroup) {
            reasons.push("no cgroup: memory and cpu are limited by rlimits and the server's watchdog".to_owned());
        }
        if !self.has(Layer::NetNamespace) {
            reasons.push("no network namespace: seccomp alone keeps it off the network".to_owned());
        }
        if !self.has(Layer::DeniedCallListener) {
            reasons.push("no listener: a stopped system call cannot be named".to_owned());
        }
        Grade { letter, reasons }
    }
}

/// How well a plugin is confined, with the reasons why not better.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grade {
    /// A, B or C.
    pub letter: Letter,
    /// One sentence each: why the letter is no better, then the second walls that are missing.
    pub reasons: Vec<String>,
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.letter.fmt(f)
    }
}

/// A is best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(missing_docs, reason = "see Report::grade")]
pub enum Letter {
    A,
    B,
    C,
}

impl fmt::Display for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
            Self::C => "C",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(layers: &[Layer], landlock_abi: u32) -> Report {
        let mut report = Report { landlock_abi, ..Report::default() };
        for layer in layers {
            report.enforced(*layer, "");
        }
        report
    }

    const BASE: [Layer; 3] = [Layer::Seccomp, Layer::NoNewPrivs, Layer::Landlock];
    const FULL: [Layer; 7] = [
        Layer::Seccomp,
        Layer::NoNewPrivs,
        Layer::Landlock,
        Layer::Uid,
        Layer::Cgroup,
        Layer::NetNamespace,
        Layer::DeniedCallListener,
    ];

    #[test]
    fn grades_follow_landlock_and_say_what_is_missing() {
        assert_eq!(report(&FULL, 7).grade().to_string(), "A");
        assert_eq!(report(&FULL, 5).grade().to_string(), "B");
        assert_eq!(report(&BASE, 6).grade().to_string(), "A", "second walls are reasons, no other letter");
        assert_eq!(report(&BASE, 6).grade().reasons.len(), 4);
        assert_eq!(report(&[Layer::Seccomp, Layer::NoNewPrivs], 0).grade().letter, Letter::C);
        let capped = Report {
            grade_cap: Some(GradeCap { at_most: Letter::B, why: "generates code".to_owned() }),
            ..report(&FULL, 7)
        };
        assert_eq!(capped.grade().to_string(), "B");
    }

    #[test]
    fn seccomp_is_required_even_if_nobody_asks() {
        let lacking = report(&[Layer::Landlock], 7).lacking(&[Layer::Landlock, Layer::Cgroup]);
        assert_eq!(lacking, [Layer::Seccomp, Layer::NoNewPrivs, Layer::Cgroup]);
    }

    #[test]
    fn configuration_names_are_those_that_are_displayed() {
        for layer in FULL {
            assert_eq!(Layer::from_name(&layer.to_string()), Some(layer));
        }
    }
}
