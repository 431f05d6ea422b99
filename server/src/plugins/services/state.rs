//! A plugin's own directory, DATA/plugins/NAME/state: made, given to a user of its own, and kept within its quota.
//!
//! What is in it was made by the plugin, so nothing here follows a link or opens a file, and no walk is longer than the
//! quota. The kernel bounds each file (RLIMIT_FSIZE); the sum and the number are looked at in intervals that get shorter
//! as the quota comes nearer. Between two looks a plugin writes at most what the disk takes in 50 ms, or in ten times
//! the duration of a look where that is longer: some 100 MB, or some 10,000 files, beyond its quota. Then it is killed, and
//! does not start again until the operator has made room.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use photondb_plugin_sdk::Cause;
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use tokio::sync::mpsc;

use crate::plugins::grant::StateQuota;
use crate::plugins::process::Doom;

/// As root, a plugin with a directory runs as the user that owns it: one of these, which distributions and systemd leave unused and
/// which no instance without a directory gets.
const FIRST_UID: u32 = 1_901_000_000;
const UIDS: u32 = 60_000_000;

/// No honest plugin nests its directories deeper; each level holds a descriptor during a look.
const MAX_DEPTH: usize = 32;
/// The intervals between two looks.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(2);
/// What a plugin could write, and make, in a second: more than the fastest disk takes.
const BYTES_PER_SECOND: u64 = 2 << 30;
const FILES_PER_SECOND: u64 = 200_000;

/// The directory of one plugin.
#[derive(Clone, Debug)]
pub struct PrivateDirectory {
    /// Absolute, without links.
    pub path: PathBuf,
    /// The user that the plugin must run as; `None`: the server's own, which is not root.
    pub uid: Option<u32>,
    /// How much may be in it.
    pub quota: StateQuota,
}

/// What is in a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Usage {
    bytes: u64,
    files: u64,
}

impl PrivateDirectory {
    /// The directory of the plugin `name` in the data directory `data`: made if it is not there.
    ///
    /// # Errors
    /// A sentence: when it can't be made, is not what it must be, or is over its quota already.
    pub fn open(data: &Path, name: &str, quota: StateQuota) -> Result<Self, String> {
        let wrong = |path: &Path, problem: io::Error| {
            format!("its directory {} can't be used: {problem}; mend or remove it", path.display())
        };
        let data = fs::canonicalize(data).map_err(|problem| wrong(data, problem))?;
        let (mut path, mut place) = (data.clone(), None);
        for part in ["plugins", name, "state"] {
            path.push(part);
            place = Some(enter(place.as_ref(), &data, part).map_err(|problem| wrong(&path, problem))?);
        }
        let place = place.ok_or_else(|| "it has no directory".to_owned())?;
        let uid = owner(&data, &path, &place)?;
        let state = Self { path, uid, quota };
        match state.measure(None) {
            Ok(None) => Ok(state),
            Ok(Some(excess)) => Err(format!(
                "{excess}; delete what it does not need from {path}, or raise `state_bytes` or `state_files` under \
                 [plugins.grants.{name}]",
                path = state.path.display()
            )),
            Err(problem) => Err(wrong(&state.path, problem)),
        }
    }

    /// Has the process killed when it keeps more than its quota. Ends with the process.
    pub async fn watch(self, pid: u32, doom: mpsc::UnboundedSender<Doom>) {
        let mut pause = Duration::ZERO;
        loop {
            tokio::time::sleep(pause).await;
            let state = self.clone();
            let looked = tokio::task::spawn_blocking(move || state.look(pid)).await;
            match looked {
                Ok((_, Some(excess))) => {
                    let _ = doom.send(Doom { cause: Cause::Limit, message: excess });
                    return;
                }
                Ok((next, None)) => pause = next,
                // The server stops.
                Err(_) => return,
            }
        }
    }

    /// One look: how long to wait for the next, and what is too much.
    fn look(&self, pid: u32) -> (Duration, Option<String>) {
        let started = Instant::now();
        let mut usage = Usage::default();
        let excess = match self.usage(Some(pid), &mut usage) {
            Ok(()) => self.excess(usage),
            Err(TooMuch::Said(message)) => Some(message),
            // The process is gone, or the server has no descriptors left: the next look will tell.
            Err(TooMuch::Unreadable(_)) => return (SHORTEST.max(started.elapsed() * 10), None),
        };
        let bytes_left = self.quota.bytes.saturating_sub(usage.bytes);
        let files_left = u64::from(self.quota.files).saturating_sub(usage.files);
        let soon = Duration::from_secs_f64(
            (bytes_left as f64 / BYTES_PER_SECOND as f64).min(files_left as f64 / FILES_PER_SECOND as f64),
        );
        // A look must not cost more than a tenth of a processor.
        (soon.clamp(SHORTEST, LONGEST).max(started.elapsed() * 10), excess)
    }

    fn measure(&self, pid: Option<u32>) -> io::Result<Option<String>> {
        let mut usage = Usage::default();
        match self.usage(pid, &mut usage) {
            Ok(()) => Ok(self.excess(usage)),
            Err(TooMuch::Said(message)) => Ok(Some(message)),
            Err(TooMuch::Unreadable(error)) => Err(error),
        }
    }

    fn excess(&self, usage: Usage) -> Option<String> {
        let StateQuota { bytes, files } = self.quota;
        if usage.bytes > bytes {
            return Some(format!("its directory holds more bytes than its quota `state_bytes`, {bytes}"));
        }
        if usage.files > u64::from(files) {
            return Some(format!(
                "its directory holds more files and directories than its quota `state_files`, {files}"
            ));
        }
        None
    }

    /// Adds up what is in the directory and, of a process, what it deleted and still has open. Stops where the quota is
    /// exceeded: what `usage` holds then is enough to say so.
    fn usage(&self, pid: Option<u32>, usage: &mut Usage) -> Result<(), TooMuch> {
        let directory = rustix::fs::open(&self.path, DIRECTORY, Mode::empty())?;
        let device = rustix::fs::fstat(&directory)?.st_dev;
        self.walk(directory, 0, usage)?;
        if let Some(pid) = pid
            && self.excess(*usage).is_none()
        {
            usage.bytes += deleted(pid, device)?;
        }
        Ok(())
    }

    fn walk(&self, directory: OwnedFd, depth: usize, usage: &mut Usage) -> Result<(), TooMuch> {
        if depth > MAX_DEPTH {
            return Err(TooMuch::Said(format!("its directory is nested deeper than {MAX_DEPTH} levels")));
        }
        for entry in Dir::read_from(&directory)? {
            // Removed while it is read: then nothing is in it.
            let Some(entry) = unless_gone(entry)? else { break };
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let status = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW);
            let Some(status) = unless_gone(status)? else { continue };
            usage.files += 1;
            usage.bytes += u64::try_from(status.st_blocks).unwrap_or(0) * 512;
            if self.excess(*usage).is_some() {
                return Ok(());
            }
            if FileType::from_raw_mode(status.st_mode) == FileType::Directory
                && let Some(inner) = unless_gone(rustix::fs::openat(&directory, name, DIRECTORY, Mode::empty()))?
            {
                self.walk(inner, depth + 1, usage)?;
            }
        }
        Ok(())
    }
}

const DIRECTORY: OFlags =
    OFlags::DIRECTORY.union(OFlags::RDONLY).union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Why a sum can't be given.
enum TooMuch {
    Said(String),
    Unreadable(io::Error),
}

impl From<io::Error> for TooMuch {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error)
    }
}

impl From<Errno> for TooMuch {
    fn from(error: Errno) -> Self {
        match error {
            // It runs as the same user as the server, and made a directory that only it knows how to use.
            Errno::ACCESS | Errno::PERM => {
                Self::Said("its directory holds one that the server may not read, which no quota can count".into())
            }
            error => Self::Unreadable(error.into()),
        }
    }
}

/// What was looked at, if it is still there, and still what it was when it was listed.
fn unless_gone<T>(found: rustix::io::Result<T>) -> Result<Option<T>, TooMuch> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The directory `part` of `place`, or of `data`: made if it is not there, never reached through a link.
fn enter(place: Option<&OwnedFd>, data: &Path, part: &str) -> io::Result<OwnedFd> {
    let data_directory;
    let place = match place {
        Some(place) => place.as_fd(),
        None => {
            data_directory = rustix::fs::open(data, DIRECTORY, Mode::empty())?;
            data_directory.as_fd()
        }
    };
    let part = CString::new(part)?;
    match rustix::fs::mkdirat(place, part.as_c_str(), Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(rustix::fs::openat(place, part.as_c_str(), DIRECTORY, Mode::empty())?)
}

/// The user that a plugin with this directory runs as. A new directory is given to one that no other plugin has.
fn owner(data: &Path, path: &Path, place: &OwnedFd) -> Result<Option<u32>, String> {
    let shown = path.display();
    let status = rustix::fs::fstat(place).map_err(|error| format!("reading {shown}: {error}"))?;
    if status.st_mode & 0o7777 != 0o700 {
        rustix::fs::fchmod(place, Mode::RWXU).map_err(|error| format!("making {shown} private: {error}"))?;
    }
    let own = nix::unistd::geteuid();
    if !own.is_root() {
        let is_ours = status.st_uid == own.as_raw();
        let remedy =
            format!("{shown} belongs to the user {}; give it to the server's, {own}, with `chown -R`", status.st_uid);
        return if is_ours { Ok(None) } else { Err(remedy) };
    }
    if (FIRST_UID..FIRST_UID + UIDS).contains(&status.st_uid) {
        return Ok(Some(status.st_uid));
    }
    let is_empty = fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    if !is_empty {
        return Err(format!(
            "{shown} belongs to the user {}, who is none that a plugin may run as; run the server as that user, or move \
             the directory away",
            status.st_uid
        ));
    }
    let uid = free_uid(data).map_err(|error| format!("choosing a user for {shown}: {error}"))?;
    rustix::fs::fchown(place, Some(Uid::from_raw(uid)), Some(Gid::from_raw(uid)))
        .map_err(|error| format!("giving {shown} to the user {uid}: {error}"))?;
    Ok(Some(uid))
}

/// A user of the range who owns no plugin's directory here. By chance, so that another server of this machine, whose
/// directories we don't know, has chosen another.
fn free_uid(data: &Path) -> io::Result<u32> {
    let mut taken = Vec::new();
    for entry in fs::read_dir(data.join("plugins"))? {
        if let Ok(status) = fs::symlink_metadata(entry?.path().join("state")) {
            taken.push(status.uid());
        }
    }
    for _ in 0..1000 {
        let uid = FIRST_UID + (uuid::Uuid::new_v4().as_u128() % u128::from(UIDS)) as u32;
        if !taken.contains(&uid) {
            return Ok(uid);
        }
    }
    Err(io::Error::other("none is free"))
}

/// The bytes of files on `device` that the process deleted and still has open.
fn deleted(pid: u32, device: u64) -> Result<u64, TooMuch> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let (mut bytes, mut open) = (0, Vec::new());
    for entry in fs::read_dir(process.join("fd"))? {
        // Through the link, which the kernel makes: to the file itself, whatever its name. Nothing is opened.
        let Ok(status) = fs::metadata(entry?.path()) else { continue };
        if status.dev() == device && status.nlink() == 0 && !open.contains(&status.ino()) {
            open.push(status.ino());
            bytes += status.blocks() * 512;
        }
    }
    // A file that is mapped, and neither open nor named, has a size that nobody can ask for.
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let device = format!("{major:02x}:{minor:02x}");
    for line in fs::read_to_string(process.join("maps"))?.lines().filter(|line| line.ends_with(" (deleted)")) {
        let mut fields = line.split_ascii_whitespace().skip(3);
        let is_here = fields.next() == Some(&device);
        let inode = fields.next().and_then(|inode| inode.parse().ok());
        if is_here && inode.is_some_and(|inode| !open.contains(&inode)) {
            let message =
                "it keeps a file of its directory mapped that it deleted and closed, which no quota can count";
            return Err(TooMuch::Said(message.into()));
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};

    use super::*;

    const QUOTA: StateQuota = StateQuota { bytes: 1 << 20, files: 5 };

    #[test]
    fn a_directory_is_private_and_stays_with_its_user() {
        let data = tempfile::tempdir().unwrap();
        let first = PrivateDirectory::open(data.path(), "one", QUOTA).unwrap();
        assert_eq!(fs::metadata(&first.path).unwrap().permissions().mode() & 0o7777, 0o700);
        assert_eq!(PrivateDirectory::open(data.path(), "one", QUOTA).unwrap().uid, first.uid);
        let second = PrivateDirectory::open(data.path(), "two", QUOTA).unwrap();
        assert_eq!(first.uid.is_some(), nix::unistd::geteuid().is_root());
        if let Some(uid) = first.uid {
            assert_ne!(second.uid, Some(uid));
            assert_eq!(fs::metadata(&first.path).unwrap().uid(), uid);
        }
    }

    #[test]
    fn no_link_is_followed() {
        let (data, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::create_dir_all(data.path().join("plugins/one")).unwrap();
        symlink(elsewhere.path(), data.path().join("plugins/one/state")).unwrap();
        symlink(elsewhere.path(), data.path().join("plugins/two")).unwrap();
        for name in ["one", "two"] {
            let error = PrivateDirectory::open(data.path(), name, QUOTA).unwrap_err();
            assert!(error.contains("plugins"), "{error}");
        }
        assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);

        let state = PrivateDirectory::open(data.path(), "three", QUOTA).unwrap();
        fs::write(elsewhere.path().join("large"), vec![1; 2 << 20]).unwrap();
        symlink(elsewhere.path(), state.path.join("link")).unwrap();
        assert_eq!(state.measure(None).unwrap(), None, "a link counts as itself");
    }

    #[test]
    fn bytes_files_and_depth_are_counted_and_named() {
        let data = tempfile::tempdir().unwrap();
        let open = || PrivateDirectory::open(data.path(), "one", QUOTA);
        let state = open().unwrap();
        fs::write(state.path.join("a"), vec![1; 2 << 20]).unwrap();
        let error = open().unwrap_err();
        assert!(error.contains("`state_bytes`") && error.contains("[plugins.grants.one]"), "{error}");
        fs::remove_file(state.path.join("a")).unwrap();
        for name in 0..6 {
            fs::write(state.path.join(name.to_string()), "").unwrap();
        }
        let error = open().unwrap_err();
        assert!(error.contains("`state_files`"), "{error}");
        let deep = PrivateDirectory { quota: StateQuota { bytes: 1 << 30, files: 1000 }, ..state };
        fs::create_dir_all(deep.path.join("d/".repeat(MAX_DEPTH + 2))).unwrap();
        assert!(deep.measure(None).unwrap().unwrap().contains("deeper"));
    }

    #[test]
    fn nothing_hides_in_a_directory_that_the_server_may_not_read() {
        if nix::unistd::geteuid().is_root() {
            eprintln!("skipped: root reads every directory");
            return;
        }
        let data = tempfile::tempdir().unwrap();
        let state = PrivateDirectory::open(data.path(), "one", QUOTA).unwrap();
        let hidden = state.path.join("hidden");
        // As a plugin can make it: to write files there, not to list them.
        fs::DirBuilder::new().mode(0o300).create(&hidden).unwrap();
        fs::write(hidden.join("large"), vec![1; 2 << 20]).unwrap();
        assert!(state.look(std::process::id()).1.is_some_and(|excess| excess.contains("may not read")));
        let error = PrivateDirectory::open(data.path(), "one", QUOTA).unwrap_err();
        assert!(error.contains("may not read"), "{error}");
        fs::set_permissions(&hidden, fs::Permissions::from_mode(0o700)).unwrap();
    }

    #[test]
    fn what_is_deleted_and_open_is_counted() {
        let data = tempfile::tempdir().unwrap();
        let state = PrivateDirectory::open(data.path(), "one", QUOTA).unwrap();
        let path = state.path.join("a");
        let mut file = fs::File::create(&path).unwrap();
        io::Write::write_all(&mut file, &vec![1; 2 << 20]).unwrap();
        file.sync_all().unwrap();
        fs::remove_file(&path).unwrap();
        let me = Some(std::process::id());
        assert!(state.measure(me).unwrap().unwrap().contains("`state_bytes`"));
        drop(file);
        assert_eq!(state.measure(me).unwrap(), None);
    }
}
