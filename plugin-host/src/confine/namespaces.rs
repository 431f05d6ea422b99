//! Namespaces and the cgroup: second walls. What the machine refuses is reported, and fatal only where it is required.

use std::fs;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, chroot, geteuid, pivot_root};
use photondb_sandbox_profiles::confinement::Confinement;
use photondb_sandbox_profiles::layers::{Layer, Report};
use photondb_sandbox_profiles::profile::Namespace;

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
pub fn separate_as_root(asked: &Confinement, report: &mut Report) {
    if geteuid().is_root() && !weak::is_left_out(Layer::MountNamespace) {
        let wanted: Vec<_> =
            asked.namespaces.iter().copied().filter(|namespace| *namespace != Namespace::User).collect();
        make(asked, &wanted, report);
    }
}

/// The user namespace, and with the rights it gives, those that are not made yet.
pub fn separate(asked: &Confinement, report: &mut Report) {
    let settled = |namespace: &Namespace| {
        let layer = layer(*namespace);
        report.has(layer) || report.missing.iter().any(|missing| missing.layer == layer)
    };
    let mut wanted: Vec<_> = asked.namespaces.iter().copied().filter(|namespace| !settled(namespace)).collect();
    wanted.retain(|namespace| !weak::leaves_out(layer(*namespace), report));
    make(asked, &wanted, report);
}

/// All at once, which costs least; one by one where that fails, to learn which one the machine refuses.
fn make(asked: &Confinement, wanted: &[Namespace], report: &mut Report) {
    let all = wanted.iter().map(|namespace| flag(*namespace)).collect::<CloneFlags>();
    if wanted.is_empty() {
        return;
    }
    let at_once = unshare(all);
    for namespace in wanted {
        let made = at_once.or_else(|_| unshare(flag(*namespace)));
        match made {
            Ok(()) if *namespace == Namespace::Mount => leave_files_behind(asked, report),
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

/// In a mount namespace of our own: an empty, read-only file system becomes the root, and the machine's is let go.
fn leave_files_behind(asked: &Confinement, report: &mut Report) {
    if asked.landlock.as_ref().is_some_and(|plan| !plan.rules.is_empty()) {
        return report.missing(Layer::MountNamespace, "the profile gives files by path");
    }
    match empty_root() {
        Ok(how) => report.enforced(Layer::MountNamespace, how),
        Err(error) => report.missing(Layer::MountNamespace, error.desc()),
    }
}

fn empty_root() -> nix::Result<&'static str> {
    let none: Option<&str> = None;
    // Or else what we mount would appear in the server's tree as well.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let place = ["/tmp", "/proc", "/dev"].into_iter().find(|place| Path::new(place).is_dir()).ok_or(Errno::ENOENT)?;
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("none"), place, Some("tmpfs"), flags, Some("size=4k,nr_inodes=2,mode=0555"))?;
    chdir(place)?;
    // Both names the same: the old root is stacked on the new one, and unmounted from there.
    match pivot_root(".", ".") {
        Ok(()) => {
            umount2(".", MntFlags::MNT_DETACH)?;
            chdir("/")?;
            Ok("empty root")
        }
        // The initial ramfs cannot be pivoted away from. Without capabilities and directory descriptors, this holds too.
        Err(Errno::EINVAL) => {
            chroot(".")?;
            chdir("/")?;
            Ok("empty root by chroot")
        }
        Err(error) => Err(error),
    }
}
