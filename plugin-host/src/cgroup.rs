//! Limits by the kernel for a whole plugin: cgroup v2, where the server was given a part of the tree (systemd:
//! `Delegate=yes`).
//!
//! The kernel lets a group that has controllers for its children have no processes itself, so the server moves into a
//! leaf of its own first. Each process of a plugin then gets a group beside it:
//!
//! ```text
//! DELEGATED/            cgroup.subtree_control: memory cpu pids
//!   server/             the server
//!   plugin-NAME-NUMBER/ one process of one plugin; removed when it has ended
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The controllers without which a group limits nothing that we want limited.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];
/// The server's own leaf.
const SERVER: &str = "server";
/// Half of the usual: the server and its queries come first.
const WEIGHT: u64 = 50;
/// Beside its private memory a process is charged for its code, page tables and the kernel's own records of it.
const OVERHEAD_BYTES: u64 = 64 << 20;

/// The part of the tree in which the server makes groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroups {
    directory: PathBuf,
}

/// Why there are no groups. Plugins then have resource limits and the server's watch instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// The kernel, or whoever runs it, does not give what we need.
    #[error("{directory} has not the controllers {missing}; delegate them (systemd: `Delegate=memory cpu pids`)", directory = .directory.display())]
    Controllers {
        /// The server's own group.
        directory: PathBuf,
        /// Those that are not there, separated by spaces.
        missing: String,
    },
    /// Somebody else lives there, whom we must not move.
    #[error("{directory} has other processes than the server in it; start it in a group of its own (systemd: a service with `Delegate=yes`)", directory = .directory.display())]
    Shared {
        /// The server's own group.
        directory: PathBuf,
    },
    /// A file of the tree could not be used.
    #[error("{path}: {source}; delegate the server's cgroup to its user (systemd: `Delegate=yes`)", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    let path = path.to_owned();
    move |source| CgroupError::File { path, source }
}

impl Cgroups {
    /// Prepares `directory`, the server's own group ([`KernelFeatures::cgroup`](photondb_sandbox_profiles::KernelFeatures)):
    /// moves the server into a leaf, passes the controllers on, and removes what a killed server left.
    ///
    /// # Errors
    /// [`CgroupError`]; the server then stays where it was, or in its leaf, which limits nothing.
    pub fn prepare(directory: &Path) -> Result<Self, CgroupError> {
        let controllers = directory.join("cgroup.controllers");
        let given = fs::read_to_string(&controllers).map_err(failed(&controllers))?;
        let is_missing = |controller: &&str| !given.split_whitespace().any(|given| given == *controller);
        let missing: Vec<_> = CONTROLLERS.into_iter().filter(is_missing).collect();
        if !missing.is_empty() {
            return Err(CgroupError::Controllers { directory: directory.to_owned(), missing: missing.join(" ") });
        }
        let (own, here) = (std::process::id().to_string(), directory.join("cgroup.procs"));
        let processes = fs::read_to_string(&here).map_err(failed(&here))?;
        if processes.split_whitespace().any(|process| process != own) {
            return Err(CgroupError::Shared { directory: directory.to_owned() });
        }
        let leaf = directory.join(SERVER);
        match fs::create_dir(&leaf) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(&leaf)(error)),
            _ => {}
        }
        if !processes.is_empty() {
            let there = leaf.join("cgroup.procs");
            fs::write(&there, own).map_err(failed(&there))?;
        }
        let control = directory.join("cgroup.subtree_control");
        fs::write(&control, "+memory +cpu +pids").map_err(failed(&control))?;
        let groups = Self { directory: directory.to_owned() };
        groups.remove_stale();
        Ok(groups)
    }

    /// A group for one process of plugin `name`, with its limits set. `number` is unique in this server.
    ///
    /// # Errors
    /// [`CgroupError`]; nothing is left of the group then.
    pub fn create(&self, name: &str, number: u64, memory_bytes: u64, threads: u64) -> Result<Cgroup, CgroupError> {
        let path = self.directory.join(format!("plugin-{name}-{number}"));
        fs::create_dir(&path).map_err(failed(&path))?;
        // From here on dropped, and so removed, if a limit cannot be set.
        let group = Cgroup { path };
        let limits = [
            ("memory.max", memory_bytes.saturating_add(OVERHEAD_BYTES)),
            ("memory.oom.group", 1),
            ("pids.max", threads),
            ("cpu.weight", WEIGHT),
        ];
        for (file, value) in limits {
            let file = group.path.join(file);
            fs::write(&file, value.to_string()).map_err(failed(&file))?;
        }
        // Not where the kernel has no swap accounting; memory.max holds without.
        let _ = fs::write(group.path.join("memory.swap.max"), "0");
        Ok(group)
    }

    /// Groups without processes: the kernel refuses to remove others, which belong to a server that still runs.
    fn remove_stale(&self) {
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("plugin-") {
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

/// A group with one process of a plugin in it. Dropping it kills what is in it and removes it.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// For [`Confinement::join_cgroup`](photondb_sandbox_profiles::Confinement::join_cgroup): the host joins first thing.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// SIGKILL for all that is in it: a second way beside the pidfd, which no process can leave. Linux 5.14.
    ///
    /// # Errors
    /// If the kernel has no such file.
    pub fn kill(&self) -> io::Result<()> {
        fs::write(self.path.join("cgroup.kill"), "1")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = self.kill();
        // EBUSY while a dead process is not reaped yet; then the next start of a server removes it.
        let _ = fs::remove_dir(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with the files that a delegated group has. The kernel makes those of a new group; here nobody does, so
    /// writes make them.
    fn delegated(controllers: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("tempdir");
        let own = format!("{}\n", std::process::id());
        for (file, text) in
            [("cgroup.controllers", controllers), ("cgroup.procs", own.as_str()), ("cgroup.subtree_control", "")]
        {
            fs::write(directory.path().join(file), text).expect("write");
        }
        directory
    }

    fn read(path: PathBuf) -> String {
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    #[test]
    fn the_server_moves_into_a_leaf_and_plugins_get_limited_groups_beside_it() {
        let directory = delegated("cpuset cpu io memory hugetlb pids\n");
        fs::create_dir(directory.path().join("plugin-old-1")).expect("mkdir");
        let groups = Cgroups::prepare(directory.path()).expect("prepare");
        assert_eq!(read(directory.path().join("server/cgroup.procs")), std::process::id().to_string());
        assert_eq!(read(directory.path().join("cgroup.subtree_control")), "+memory +cpu +pids");
        assert!(!directory.path().join("plugin-old-1").exists(), "left by a server that was killed");
        let group = groups.create("approx", 7, 256 << 20, 17).expect("create");
        assert_eq!(group.path(), directory.path().join("plugin-approx-7"));
        for (file, value) in [
            ("memory.max", (320u64 << 20).to_string()),
            ("memory.oom.group", "1".to_owned()),
            ("pids.max", "17".to_owned()),
            ("cpu.weight", "50".to_owned()),
        ] {
            assert_eq!(read(group.path().join(file)), value, "{file}");
        }
        group.kill().expect("kill");
        assert_eq!(read(group.path().join("cgroup.kill")), "1");
        assert!(groups.create("approx", 7, 1, 1).is_err(), "a group belongs to one process");
    }

    #[test]
    fn what_is_not_delegated_is_named() {
        let error = Cgroups::prepare(delegated("cpu pids\n").path()).expect_err("must fail").to_string();
        assert!(error.contains("memory") && error.contains("Delegate"), "{error}");
        let shared = delegated("cpu memory pids\n");
        fs::write(shared.path().join("cgroup.procs"), "1\n4711\n").expect("write");
        let error = Cgroups::prepare(shared.path()).expect_err("must fail").to_string();
        assert!(error.contains("other processes") && !shared.path().join("server").exists(), "{error}");
        let error = Cgroups::prepare(Path::new("/nowhere")).expect_err("must fail").to_string();
        assert!(error.contains("/nowhere/cgroup.controllers") && error.contains("Delegate"), "{error}");
    }

    #[test]
    fn a_real_group_is_made_killed_and_removed_where_there_is_one() {
        let features = photondb_sandbox_profiles::KernelFeatures::probe();
        let Some(directory) = features.cgroup else {
            eprintln!("skipped: this process's cgroup is not delegated with a memory controller");
            return;
        };
        // A group of our own in it: moving this process would change what other tests run in.
        let own = directory.join(format!("photondb-test-{}", std::process::id()));
        fs::create_dir(&own).expect("mkdir");
        let result = Cgroups::prepare(&own).and_then(|groups| groups.create("test", 1, 64 << 20, 8).map(drop));
        let _ = fs::remove_dir(own.join(SERVER));
        fs::remove_dir(&own).expect("everything below it is gone");
        result.unwrap_or_else(|error| eprintln!("skipped: {error}"));
    }
}
