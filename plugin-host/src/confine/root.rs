//! The root directory of a mount namespace of our own: empty, but for the paths that Landlock gives, at the places where
//! they were. Everything in it is read-only and holds no device and no setuid program, but for what may be written and
//! for device nodes that are given.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, DirEntry, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, umask};
use nix::sys::statvfs::{FsFlags, fstatvfs};
use nix::unistd::{chdir, chroot, pivot_root};
use photondb_sandbox_profiles::landlock::PathRule;
use photondb_sandbox_profiles::profile::Access;

const NONE: Option<&str> = None;
/// As the kernel's own limit on links in one path.
const MAX_LINKS: usize = 40;

/// Replaces the root directory of this process, which has just got a mount namespace of its own. `start`: a directory that
/// is there too, if only by its name.
pub fn replace(rules: &[PathRule], start: Option<&Path>) -> io::Result<&'static str> {
    // Or else what we mount would appear in the server's tree as well.
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)?;
    // Before anything is mounted over them.
    let seen = Seen::through(rules)?;
    let place = seen.place().ok_or_else(|| io::Error::other("there is no directory to build it in"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("none"), place, Some("tmpfs"), flags, Some("size=64k,nr_inodes=4096,mode=0555"))?;
    // The plugin's user walks through what we make here.
    let usual = umask(Mode::from_bits_truncate(0o022));
    let placed = seen.place_below(place, start);
    umask(usual);
    let filled = placed.and_then(|()| {
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        Ok(mount(NONE, place, NONE, flags | read_only, NONE)?)
    });
    if let Err(error) = filled {
        umount2(place, MntFlags::MNT_DETACH)?;
        return Err(error);
    }
    chdir(place)?;
    // Both names the same: the old root is stacked on the new one, and unmounted from there.
    match pivot_root(".", ".") {
        Ok(()) => {
            umount2(".", MntFlags::MNT_DETACH)?;
            chdir("/")?;
            Ok(if rules.is_empty() { "empty root" } else { "root with the permitted paths alone" })
        }
        // The initial ramfs cannot be pivoted away from. Without capabilities and directory descriptors, this holds too.
        Err(Errno::EINVAL) => {
            chroot(".")?;
            chdir("/")?;
            Ok("new root by chroot")
        }
        Err(error) => Err(error.into()),
    }
}

/// What the new root shows.
#[derive(Default)]
struct Seen {
    /// Symbolic links on the way to a permitted path, with where they lead.
    links: BTreeMap<PathBuf, PathBuf>,
    /// Files and directories, without links in their paths, and none below another.
    mounts: BTreeMap<PathBuf, (File, MsFlags)>,
    /// What else the machine has beside libraries that are shown: there, but closed to everybody. A program that looks
    /// for its files takes "permission denied" for what it is; "no such file" it would take for another machine.
    closed: BTreeMap<PathBuf, Kind>,
}

#[derive(Clone, Copy)]
enum Kind {
    Directory,
    File,
}

/// More entries of a directory are not worth their time.
const MAX_CLOSED: usize = 512;

impl Seen {
    /// What is missing is left to Landlock, which knows whether it must exist.
    fn through(rules: &[PathRule]) -> io::Result<Self> {
        let mut seen = Self::default();
        let mut libraries = Vec::new();
        for rule in rules {
            let Some(path) = seen.follow(&rule.path) else { continue };
            if rule.access == Access::Execute && !rule.must_exist {
                libraries.push(path.clone());
            }
            let opened = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(&path);
            if let Ok(opened) = opened {
                let flags = seen.mounts.get(&path).map_or(MsFlags::all(), |(_, flags)| *flags) & flags(rule.access);
                seen.mounts.insert(path, (opened, flags));
            }
        }
        let below: Vec<_> = seen.mounts.keys().filter_map(|path| Some((path.clone(), seen.above(path)?))).collect();
        let hidden: Vec<_> = seen.links.keys().filter(|link| seen.above(link).is_some()).cloned().collect();
        // Deepest first. The mount above lets through what either needs; Landlock knows which is which.
        for (path, parent) in below.iter().rev() {
            if let Some((_, flags)) = seen.mounts.remove(path)
                && let Some((_, of_parent)) = seen.mounts.get_mut(parent)
            {
                *of_parent &= flags;
            }
        }
        hidden.iter().for_each(|link| drop(seen.links.remove(link)));
        let beside: BTreeSet<_> = libraries.iter().flat_map(|path| path.ancestors().skip(1)).collect();
        let entries = |directory: &Path| fs::read_dir(directory).into_iter().flatten().take(MAX_CLOSED).flatten();
        let kind = |entry: &DirEntry| if entry.path().is_dir() { Kind::Directory } else { Kind::File };
        let named = |entry: DirEntry| (entry.path(), kind(&entry));
        seen.closed = beside.into_iter().flat_map(|directory| entries(directory).map(named)).collect();
        Ok(seen)
    }

    /// Where the new root is built: no mount may show it, or it would contain itself.
    fn place(&self) -> Option<&'static Path> {
        let places = ["/tmp", "/dev", "/proc", "/mnt", "/srv", "/opt"].into_iter().map(Path::new);
        let is_shown = |place: &Path| self.mounts.keys().any(|path| place.starts_with(path));
        places.filter(|place| place.is_dir()).find(|place| !is_shown(place))
    }

    /// The mount that shows what is at this path, if one higher up does.
    fn above(&self, path: &Path) -> Option<PathBuf> {
        path.ancestors().skip(1).find(|parent| self.mounts.contains_key(*parent)).map(Path::to_owned)
    }

    /// The path without symbolic links, which are noted on the way. `None`: it does not exist.
    fn follow(&mut self, path: &Path) -> Option<PathBuf> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            let is_link = |prefix: &&Path| fs::symlink_metadata(prefix).is_ok_and(|meta| meta.is_symlink());
            let prefixes: Vec<&Path> = path.ancestors().collect();
            let Some(link) = prefixes.into_iter().rev().find(is_link) else {
                return path.exists().then(|| path.clone());
            };
            let target = fs::read_link(link).ok()?;
            let rest = path.strip_prefix(link).ok()?;
            let joined = link.parent().unwrap_or(Path::new("/")).join(&target).join(rest);
            self.links.insert(link.to_owned(), target);
            path = normal(&joined);
        }
        None
    }

    /// First every mount point and link, then the mounts: nothing is ever made in the machine's own directories.
    fn place_below(&self, place: &Path, start: Option<&Path>) -> io::Result<()> {
        let inside = |path: &Path| place.join(path.strip_prefix("/").unwrap_or(path));
        for (path, (opened, _)) in &self.mounts {
            let point = inside(path);
            if opened.metadata()?.is_dir() {
                fs::create_dir_all(&point)?;
            } else {
                fs::create_dir_all(point.parent().unwrap_or(place))?;
                File::create(&point)?;
            }
        }
        for (link, target) in &self.links {
            let link = inside(link);
            fs::create_dir_all(link.parent().unwrap_or(place))?;
            symlink(target, &link)?;
        }
        if let Some(start) = start {
            // Below a file that is shown it cannot be; then it is not.
            let _ = fs::create_dir_all(inside(start));
        }
        for (path, kind) in &self.closed {
            let point = inside(path);
            match kind {
                _ if fs::symlink_metadata(&point).is_ok() => {}
                Kind::Directory => DirBuilder::new().mode(0o0).create(&point)?,
                Kind::File => drop(OpenOptions::new().write(true).create_new(true).mode(0o0).open(&point)?),
            }
        }
        for (path, (opened, flags)) in &self.mounts {
            let source = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
            let point = inside(path);
            mount(Some(&source), &point, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)?;
            let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | *flags | kept(opened)?;
            mount(NONE, &point, NONE, flags, NONE)?;
        }
        Ok(())
    }
}

fn flags(access: Access) -> MsFlags {
    let least = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    match access {
        Access::Read => least | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY,
        Access::Execute => least | MsFlags::MS_RDONLY,
        Access::Write => least | MsFlags::MS_NOEXEC,
        Access::Device => MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
    }
}

/// What the mount has already: in a user namespace the kernel lets nobody take these away.
fn kept(opened: &File) -> io::Result<MsFlags> {
    let has = fstatvfs(opened)?.flags();
    let pairs = [
        (FsFlags::ST_RDONLY, MsFlags::MS_RDONLY),
        (FsFlags::ST_NOSUID, MsFlags::MS_NOSUID),
        (FsFlags::ST_NODEV, MsFlags::MS_NODEV),
        (FsFlags::ST_NOEXEC, MsFlags::MS_NOEXEC),
        (FsFlags::ST_NOATIME, MsFlags::MS_NOATIME),
        (FsFlags::ST_NODIRATIME, MsFlags::MS_NODIRATIME),
        (FsFlags::ST_RELATIME, MsFlags::MS_RELATIME),
    ];
    Ok(pairs.into_iter().filter(|(flag, _)| has.contains(*flag)).map(|(_, flag)| flag).collect())
}

/// Without `.` and `..`. Where a link leads up from within another link this is another path than the kernel's; then the
/// permitted path is missing in the new root, and Landlock says so.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => normal.push(name),
            Component::ParentDir => drop(normal.pop()),
            _ => {}
        }
    }
    normal
}
