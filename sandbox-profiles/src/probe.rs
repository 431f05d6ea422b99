//! What this kernel gives. Asked once, at the server's start; nothing here changes the process.

use std::fs;
use std::path::{Path, PathBuf};

use landlock::{ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Erratum, Ruleset, RulesetAttr, Scope};
use landlock::{RulesetCreatedAttr, RulesetError};
use serde::{Deserialize, Serialize};

use crate::syscalls::Arch;

/// The features of a kernel that decide how plugins can be confined.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelFeatures {
    /// `None`: an architecture that we do not support.
    pub arch: Option<Arch>,
    /// The newest ABI that both the kernel and we know, 0 for none.
    pub landlock_abi: u32,
    /// Bits of the errata that are fixed. For information only.
    pub landlock_errata: u32,
    /// What a filter may answer, as in `/proc/sys/kernel/seccomp/actions_avail`. Empty where that cannot be read.
    pub seccomp_actions: Vec<String>,
    /// Whether an ordinary user may make a user namespace, as far as the kernel says. The host finds out for certain.
    pub user_namespaces: bool,
    /// A cgroup v2 directory in which the server may make groups with a memory limit.
    pub cgroup: Option<PathBuf>,
}

impl KernelFeatures {
    /// Asks the running kernel. Costs some small reads and system calls.
    pub fn probe() -> Self {
        Self {
            arch: Arch::current(),
            landlock_abi: landlock_abi(),
            landlock_errata: Erratum::current().bits(),
            seccomp_actions: read("/proc/sys/kernel/seccomp/actions_avail")
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
            user_namespaces: user_namespaces(),
            cgroup: cgroup(),
        }
    }

    /// Whether filters can be installed. Where `/proc` does not say, we believe it: the host fails closed anyway.
    pub fn has_seccomp(&self) -> bool {
        self.seccomp_actions.is_empty() || self.seccomp_actions.iter().any(|action| action == "errno")
    }

    /// Whether stopped calls can be named.
    pub fn has_listener(&self) -> bool {
        self.seccomp_actions.iter().any(|action| action == "user_notif")
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Tries one ABI after the other as a hard requirement: the crate tells nobody the number itself.
fn landlock_abi() -> u32 {
    let known = [ABI::V1, ABI::V2, ABI::V3, ABI::V4, ABI::V5, ABI::V6, ABI::V7, ABI::V8, ABI::V9];
    known.into_iter().take_while(|abi| gives(*abi).is_ok()).last().map_or(0, |abi| abi as u32)
}

/// Makes a ruleset that needs `abi`, and drops it.
fn gives(abi: ABI) -> Result<(), RulesetError> {
    let mut ruleset =
        Ruleset::default().set_compatibility(CompatLevel::HardRequirement).handle_access(AccessFs::from_all(abi))?;
    if abi >= ABI::V4 {
        ruleset = ruleset.handle_access(AccessNet::from_all(abi))?;
    }
    if abi >= ABI::V6 {
        ruleset = ruleset.scope(Scope::from_all(abi))?;
    }
    let created = ruleset.create()?;
    if abi >= ABI::V7 {
        created.log_new_exec(true)?;
    }
    Ok(())
}

fn user_namespaces() -> bool {
    let number = |path: &str, default: u64| read(path).trim().parse().unwrap_or(default);
    number("/proc/sys/user/max_user_namespaces", 0) > 0
        && number("/proc/sys/kernel/unprivileged_userns_clone", 1) != 0
        && number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 0) == 0
}

/// The server's own cgroup, if it was delegated: memory is among its controllers and it may be written.
fn cgroup() -> Option<PathBuf> {
    let own = read("/proc/self/cgroup").lines().find_map(|line| line.strip_prefix("0::/").map(str::to_owned))?;
    let directory = Path::new("/sys/fs/cgroup").join(own);
    let controllers = fs::read_to_string(directory.join("cgroup.controllers")).ok()?;
    let writable = fs::OpenOptions::new().write(true).open(directory.join("cgroup.subtree_control")).is_ok();
    (writable && controllers.split_whitespace().any(|controller| controller == "memory")).then_some(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probing_twice_gives_the_same() {
        let features = KernelFeatures::probe();
        println!("{features:#?}");
        assert_eq!(features, KernelFeatures::probe());
        assert!(features.has_seccomp());
    }
}
