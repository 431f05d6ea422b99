//! Descriptors 0 to 9, and no other.

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use photondb_sandbox_profiles::confinement::fd;

use crate::refusal::Refusal;
use crate::start::Reply;

/// The report pipe, taken first so that every later failure has somewhere to go.
pub fn take_reply() -> Result<Reply, Refusal> {
    for number in 0..fd::COUNT {
        // SAFETY: used only to ask whether the number is open, and EBADF is a good answer.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        fcntl(borrowed, FcntlArg::F_GETFD).map_err(|error| {
            Refusal::new(
                &format!("use descriptor {number}, which the server passes (it is not started by hand)"),
                error,
            )
        })?;
    }
    Ok(Reply::new(take(fd::REPORT)))
}

/// The executable.
pub fn take_executable() -> OwnedFd {
    take(fd::EXECUTABLE)
}

/// The start message.
pub fn take_start() -> OwnedFd {
    take(fd::START)
}

fn take(number: RawFd) -> OwnedFd {
    // SAFETY: open, since `take_reply` looked at every number of the protocol before anything else ran, and nothing
    // closes one; each number is taken once, by the one function above that names it.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Closes everything from 10 on, and marks 7, 8 and 9 to be closed when the plugin begins.
pub fn keep_the_protocol() -> Result<(), Refusal> {
    let first = fd::COUNT.unsigned_abs();
    // SAFETY: closes only numbers that nothing in this process owns: it has opened nothing itself yet.
    let status = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0u32) };
    if status != 0 {
        return Err(Refusal::new("close what it inherited beyond its own descriptors", io::Error::last_os_error()));
    }
    close_later(&[fd::EXECUTABLE, fd::START, fd::REPORT])
}

/// A command has no control socket and no regions: marks those to be closed too.
pub fn keep_the_standard_ones() -> Result<(), Refusal> {
    close_later(&[fd::CONTROL, fd::PASSING, fd::SERVER_REGION, fd::PLUGIN_REGION])
}

fn close_later(numbers: &[RawFd]) -> Result<(), Refusal> {
    for number in numbers {
        // SAFETY: open, as `take_reply` saw, and borrowed for this line only.
        let borrowed = unsafe { BorrowedFd::borrow_raw(*number) };
        fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
            .map_err(|error| Refusal::new(&format!("close descriptor {number} on exec"), error))?;
    }
    Ok(())
}
