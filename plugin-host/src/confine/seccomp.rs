//! The filter, its listener, and the two calls that only the host can make under it.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;
use std::{mem, process, thread};

use photondb_sandbox_profiles::confinement::{LISTENER_PACKET, fd};
use photondb_sandbox_profiles::layers::{Layer, Report};
use photondb_sandbox_profiles::seccomp::{Instruction, Listener, Regions};
use photondb_sandbox_profiles::{Launch, StartMessage};

use crate::refusal::Refusal;
use crate::weak;

/// How often, and how long apart, the listener is sent again: two seconds, well within the time that a start may take.
const CROWDED_TRIES: u32 = 100;
const CROWDED_PAUSE: Duration = Duration::from_millis(20);

/// A filter in force.
pub struct Filter {
    listener: Option<OwnedFd>,
    /// In the sixth register it opens `sendmsg` and `execveat`. Gone with this memory when the plugin begins.
    token: u64,
}

/// Installs the program, with a listener where the kernel gives one, and looks whether it is in force.
pub fn install(message: &StartMessage, report: &mut Report) -> Result<Filter, Refusal> {
    if weak::leaves_out(Layer::Seccomp, report) {
        return Ok(Filter { listener: None, token: 0 });
    }
    let token = random().map_err(|error| Refusal::new("get a random number", error))?;
    let regions = match message.launch {
        Launch::Plugin => Regions::Inherited,
        Launch::Command { .. } => Regions::Absent,
    };
    let program = &message.confinement.seccomp;
    let load = |listener, flags| load(&program.finish(process::id(), token, regions, listener), flags);
    let listener = match load(Listener::Present, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER) {
        Ok(number) => {
            // SAFETY: the kernel has just made this descriptor for us, and nobody else has its number.
            Some(unsafe { OwnedFd::from_raw_fd(number) })
        }
        // EBUSY: an outer sandbox has a listener already. EINVAL: before Linux 5.0.
        Err(_) => {
            load(Listener::Absent, 0).map_err(|error| Refusal::new("install its seccomp filter", error))?;
            None
        }
    };
    check()?;
    report.enforced(Layer::Seccomp, format!("{} instructions", program.len()));
    match listener {
        Some(_) => report.enforced(Layer::DeniedCallListener, "stopped calls are named"),
        None => report.missing(Layer::DeniedCallListener, "the kernel gave no listener: stopped calls die unnamed"),
    }
    Ok(Filter { listener, token })
}

/// Loads it; with the listener flag the result is a descriptor.
fn load(program: &[Instruction], flags: libc::c_ulong) -> io::Result<RawFd> {
    let translate = |i: &Instruction| libc::sock_filter { code: i.code, jt: i.jt, jf: i.jf, k: i.k };
    let filter: Vec<libc::sock_filter> = program.iter().map(translate).collect();
    let length = u16::try_from(filter.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let program = libc::sock_fprog { len: length, filter: filter.as_ptr().cast_mut() };
    // SAFETY: `program` points to `length` instructions, which the kernel copies and checks during the call.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(RawFd::try_from(result).unwrap_or(-1)) }
}

/// `getppid` always succeeds, and no profile may allow it: if it fails, the filter is there.
fn check() -> Result<(), Refusal> {
    // SAFETY: takes no argument.
    let result = unsafe { libc::syscall(libc::SYS_getppid) };
    let error = io::Error::last_os_error();
    if result == -1 && error.raw_os_error() == Some(libc::EPERM) {
        return Ok(());
    }
    Err(Refusal::new("trust its seccomp filter", "a call that it refuses went through"))
}

fn random() -> io::Result<u64> {
    let mut bytes = [0u8; 8];
    // SAFETY: the kernel writes at most the eight bytes of `bytes`.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    if got == 8 { Ok(u64::from_ne_bytes(bytes)) } else { Err(io::Error::last_os_error()) }
}

impl Filter {
    /// The token, for `execveat`.
    pub fn token(&self) -> u64 {
        self.token
    }

    /// Sends the listener to the server, over the descriptor socket, and keeps none.
    pub fn send_listener(&self) -> Result<(), Refusal> {
        let Some(listener) = &self.listener else { return Ok(()) };
        let mut tries = 0;
        loop {
            let Err(error) = self.send(listener.as_raw_fd()) else { return Ok(()) };
            // The kernel counts the descriptors that a user has under way, whichever process sent them: others of our
            // user may have some there just now.
            if error.raw_os_error() != Some(libc::ETOOMANYREFS) || tries == CROWDED_TRIES {
                return Err(Refusal::new("send the server its listener for stopped calls", error));
            }
            thread::sleep(CROWDED_PAUSE);
            tries += 1;
        }
    }

    fn send(&self, descriptor: RawFd) -> io::Result<()> {
        /// A control message with one descriptor, aligned as the kernel wants it.
        #[repr(C)]
        struct Rights {
            header: libc::cmsghdr,
            descriptor: RawFd,
        }
        let rights = Rights {
            header: libc::cmsghdr {
                cmsg_len: mem::offset_of!(Rights, descriptor) + size_of::<RawFd>(),
                cmsg_level: libc::SOL_SOCKET,
                cmsg_type: libc::SCM_RIGHTS,
            },
            descriptor,
        };
        let mut payload =
            libc::iovec { iov_base: LISTENER_PACKET.as_ptr().cast_mut().cast(), iov_len: LISTENER_PACKET.len() };
        // SAFETY: integers and pointers only, for which zero and null are values.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        message.msg_iov = &raw mut payload;
        message.msg_iovlen = 1;
        message.msg_control = (&raw const rights).cast_mut().cast();
        message.msg_controllen = size_of::<Rights>();
        let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
        // SAFETY: `message` and what it points to live until the call returns, and the kernel only reads them. The
        // arguments beyond the third are not the kernel's, but the filter's.
        let sent = unsafe {
            libc::syscall(libc::SYS_sendmsg, fd::PASSING, &raw const message, flags, 0usize, 0usize, self.token)
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
