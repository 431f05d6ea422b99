//! Namespaces and the cgroup: second walls. What the machine refuses is reported, and fatal only where it is required.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, getegid, geteuid};
use photondb_sandbox_profiles::confinement::Confinement;
use photondb_sandbox_profiles::layers::{Layer, Report};
use photondb_sandbox_profiles::profile::Namespace;
use photondb_sandbox_profiles::{Launch, StartMessage};

use super::root;
use crate::weak;

/// Joins the group that the server made. While we still are the server's user, who owns it.
pub fn join_cgroup(asked: &Confinement, report: &mut Report) {
    match &asked.cgroup {
        None => report.missing(Layer::Cgroup, "the server has no cgroup to give"),
        Some(directory) => match fs::write(directory.join("cgroup.procs"), "0") {
            Ok(()) => report.enforced(Layer::Cgroup, directory.display().to_string()),
            Err(error) => report.missing(Layer::Cgroup, format!("{}: {error}", directory.display())),
        },
    }
}

/// As root, every namespace but the user's: root needs no user namespace for them, and many machines forbid that one.
pub fn separate_as_root(message: &StartMessage, report: &mut Report) {
    let asked = &message.confinement;
    if geteuid().is_root() && !weak::is_left_out(Layer::MountNamespace) {
        let wanted: Vec<_> =
            asked.namespaces.iter().copied().filter(|namespace| *namespace != Namespace::User).collect();
        make(message, &wanted, report);
    }
}

/// The user namespace, and with the rights it gives, those that are not made yet.
pub fn separate(message: &StartMessage, report: &mut Report) {
    let asked = &message.confinement;
    let settled = |namespace: &Namespace| {
        let layer = layer(*namespace);
        report.has(layer) || report.missing.iter().any(|missing| missing.layer == layer)
    };
    let mut wanted: Vec<_> = asked.namespaces.iter().copied().filter(|namespace| !settled(namespace)).collect();
    wanted.retain(|namespace| !weak::leaves_out(layer(*namespace), report));
    make(message, &wanted, report);
}

/// All at once, which costs least; one by one where that fails, to learn which one the machine refuses.
fn make(message: &StartMessage, wanted: &[Namespace], report: &mut Report) {
    let all = wanted.iter().map(|namespace| flag(*namespace)).collect::<CloneFlags>();
    if wanted.is_empty() {
        return;
    }
    // Inside a user namespace we could not ask any more.
    let who = (geteuid(), getegid());
    let at_once = unshare(all);
    for namespace in wanted {
        let made = at_once.or_else(|_| unshare(flag(*namespace)));
        match made {
            Ok(()) if *namespace == Namespace::Mount => leave_files_behind(message, who, report),
            Ok(()) => report.enforced(layer(*namespace), "own"),
            Err(error) => report.missing(layer(*namespace), refusal(*namespace, error)),
        }
    }
}

fn refusal(namespace: Namespace, error: Errno) -> String {
    let hint = match (namespace, error) {
        (Namespace::User, Errno::EPERM | Errno::ENOSPC | Errno::EUSERS) => "; this machine forbids user namespaces",
        (_, Errno::EPERM) => "; needs root or a user namespace",
        _ => "",
    };
    format!("{}{hint}", error.desc())
}

fn flag(namespace: Namespace) -> CloneFlags {
    match namespace {
        Namespace::User => CloneFlags::CLONE_NEWUSER,
        Namespace::Net => CloneFlags::CLONE_NEWNET,
        Namespace::Ipc => CloneFlags::CLONE_NEWIPC,
        Namespace::Uts => CloneFlags::CLONE_NEWUTS,
        Namespace::Mount => CloneFlags::CLONE_NEWNS,
        Namespace::Cgroup => CloneFlags::CLONE_NEWCGROUP,
    }
}

fn layer(namespace: Namespace) -> Layer {
    match namespace {
        Namespace::User => Layer::UserNamespace,
        Namespace::Net => Layer::NetNamespace,
        Namespace::Ipc => Layer::IpcNamespace,
        Namespace::Uts => Layer::UtsNamespace,
        Namespace::Mount => Layer::MountNamespace,
        Namespace::Cgroup => Layer::CgroupNamespace,
    }
}

/// In a mount namespace of our own: a root directory with nothing but what Landlock gives.
fn leave_files_behind(message: &StartMessage, who: (Uid, Gid), report: &mut Report) {
    let rules = message.confinement.landlock.as_ref().map_or(&[][..], |plan| &plan.rules);
    // Where mount points have to be made, their owner must have a number in a user namespace of ours.
    let start = match &message.launch {
        Launch::Command { directory, .. } => directory.as_deref(),
        Launch::Plugin => None,
    };
    let needs_name = (!rules.is_empty() || start.is_some()) && report.has(Layer::UserNamespace);
    let named = if needs_name { name_ourselves(who.0, who.1) } else { Ok(()) };
    match named.and_then(|()| root::replace(rules, start)) {
        Ok(how) => report.enforced(Layer::MountNamespace, how),
        Err(error) => report.missing(Layer::MountNamespace, error.to_string()),
    }
}

/// In the user namespace we are who we were, and nobody else is there. Our files in `/proc` are ours only while we can be
/// dumped: by others of our user, who can do nothing to us yet that they could not do to the server.
fn name_ourselves(user: Uid, group: Gid) -> io::Result<()> {
    prctl::set_dumpable(true)?;
    let named = fs::write("/proc/self/setgroups", "deny")
        .and_then(|()| fs::write("/proc/self/uid_map", format!("{user} {user} 1")))
        .and_then(|()| fs::write("/proc/self/gid_map", format!("{group} {group} 1")));
    prctl::set_dumpable(false)?;
    named
}
