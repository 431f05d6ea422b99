//! Starting a plugin host from the server.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, Signal};
use photondb_sandbox_profiles::HostReply;
use photondb_sandbox_profiles::confinement::fd;

/// Longer replies are no replies.
const MAX_REPLY_BYTES: u64 = 64 << 10;

/// How often a memfd is sealed that the kernel says is busy: about a second.
const SEALING_ATTEMPTS: u32 = 15;

/// What a host inherits, beside `/dev/null` as its standard input. The names are those of
/// [`photondb_sandbox_profiles::confinement::fd`].
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "described where the numbers are")]
pub struct Descriptors<'a> {
    pub stdout: BorrowedFd<'a>,
    pub stderr: BorrowedFd<'a>,
    pub control: BorrowedFd<'a>,
    pub passing: BorrowedFd<'a>,
    pub server_region: BorrowedFd<'a>,
    pub plugin_region: BorrowedFd<'a>,
    pub executable: BorrowedFd<'a>,
    pub start: BorrowedFd<'a>,
    pub report: BorrowedFd<'a>,
}

/// Starts `host` with exactly `descriptors` and an empty environment, and returns its process id.
///
/// Call it from a thread that lives as long as the server: the kernel ends a plugin when the *thread* that started it
/// ends. The caller then closes its copies of the plugin's ends, reads the reply ([`read_reply`]), takes the listener
/// ([`crate::DeniedCalls::receive`]), and reaps the process when it ends.
///
/// # Errors
/// If `host` cannot be started.
pub fn spawn(host: &Path, descriptors: &Descriptors<'_>) -> io::Result<i32> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    spawn_with_stdin(host, null.as_fd(), descriptors)
}

/// The same with a standard input: for a command, whose caller gives it its own.
pub(crate) fn spawn_with_stdin(host: &Path, stdin: BorrowedFd<'_>, descriptors: &Descriptors<'_>) -> io::Result<i32> {
    let numbered = [
        (stdin, fd::STDIN),
        (descriptors.stdout, fd::STDOUT),
        (descriptors.stderr, fd::STDERR),
        (descriptors.control, fd::CONTROL),
        (descriptors.passing, fd::PASSING),
        (descriptors.server_region, fd::SERVER_REGION),
        (descriptors.plugin_region, fd::PLUGIN_REGION),
        (descriptors.executable, fd::EXECUTABLE),
        (descriptors.start, fd::START),
        (descriptors.report, fd::REPORT),
    ];
    let mut actions = PosixSpawnFileActions::init()?;
    // Copied above the protocol's numbers, so that no copy overwrites one that is still needed; open until the child
    // has its own.
    let mut copies = Vec::with_capacity(numbered.len());
    for (descriptor, number) in numbered {
        let copy = above_protocol(descriptor)?;
        actions.add_dup2(copy.as_raw_fd(), number)?;
        copies.push(copy);
    }
    let mut attributes = PosixSpawnAttr::init()?;
    let mut ignored = SigSet::empty();
    ignored.add(Signal::SIGPIPE);
    attributes.set_sigdefault(&ignored)?;
    attributes.set_sigmask(&SigSet::empty())?;
    attributes.set_flags(PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF | PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK)?;
    let arguments = [c"photondb-plugin-host", c"become"];
    let environment: [CString; 0] = [];
    Ok(posix_spawn(host, &actions, &attributes, &arguments, &environment)?.as_raw())
}

/// Reads what a host wrote to the report pipe, until it became the plugin, gave up or died. The caller has closed the
/// write end, and bounds the wait by killing the host.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] if the host died without a word, [`io::ErrorKind::InvalidData`] if it said
/// something else.
pub fn read_reply(report: impl Read) -> io::Result<HostReply> {
    let mut text = String::new();
    report.take(MAX_REPLY_BYTES).read_to_string(&mut text)?;
    // A report, and after it an error if the last step failed: the last line counts.
    let last = text.lines().last().ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(serde_json::from_str(last)?)
}

/// What a sealed memfd is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// A message: never executable.
    Data,
    /// A plugin's executable.
    Executable,
}

/// A memfd with `bytes`, sealed: nobody can change it any more, the caller included.
///
/// # Errors
/// If there is no memory for it.
pub fn memfd(name: &str, bytes: &[u8], usage: Use) -> io::Result<OwnedFd> {
    let base = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let modern = match usage {
        Use::Data => MFdFlags::from_bits_retain(0x8),        // MFD_NOEXEC_SEAL
        Use::Executable => MFdFlags::from_bits_retain(0x10), // MFD_EXEC
    };
    let memfd = match memfd_create(name, base | modern) {
        // Before Linux 6.3 every memfd can be executed.
        Err(nix::Error::EINVAL) => memfd_create(name, base)?,
        other => other?,
    };
    let mut file = File::from(memfd);
    file.write_all(bytes)?;
    seal(&file)?;
    // A host reads its message from the start, and the offset is shared.
    io::Seek::rewind(&mut file)?;
    Ok(file.into())
}

/// Seals a memfd. While the kernel moves one of its pages, as it does when memory is short, it takes the page for one that
/// somebody may still write to; it waits for that, some 75 ms a time, and then says that it is busy.
fn seal(memfd: &File) -> io::Result<()> {
    let mut sealed_now = Ok(0);
    for _ in 0..SEALING_ATTEMPTS {
        sealed_now = fcntl(memfd, FcntlArg::F_ADD_SEALS(sealed()));
        if sealed_now != Err(nix::Error::EBUSY) {
            break;
        }
    }
    sealed_now?;
    Ok(())
}

/// The seals of a memfd that nobody changes any more.
pub fn sealed() -> SealFlag {
    SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE
}

/// A copy with a number that the protocol does not use.
fn above_protocol(descriptor: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    // The kernel gives the lowest free number: hold the low ones until it gives a higher one.
    let mut low = Vec::new();
    loop {
        let copy = descriptor.try_clone_to_owned()?;
        if copy.as_raw_fd() >= fd::COUNT {
            return Ok(copy);
        }
        low.push(copy);
    }
}
