//! Open files that cross the process boundary: inherited by number, or passed over a socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

/// The control socket: Cap'n Proto RPC, a stream.
pub const CONTROL: RawFd = 3;
/// The descriptor socket: one message a descriptor (SOCK_SEQPACKET).
pub const DESCRIPTORS: RawFd = 4;
/// The region that the server writes.
pub const SERVER_REGION: RawFd = 5;
/// The region that the plugin writes.
pub const PLUGIN_REGION: RawFd = 6;

/// What a plugin process is born with, beside its standard streams.
#[derive(Debug)]
pub struct Inherited {
    /// [`CONTROL`].
    pub control: OwnedFd,
    /// [`DESCRIPTORS`].
    pub descriptors: OwnedFd,
    /// [`SERVER_REGION`].
    pub server_region: OwnedFd,
    /// [`PLUGIN_REGION`].
    pub plugin_region: OwnedFd,
}

/// Takes the inherited descriptors; `None` the second time, or when this process was not started by a server.
#[must_use]
pub fn inherited() -> Option<Inherited> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    // SAFETY: only asks whether the number is open, and holds it no longer than that. Not by fstat, which on Linux is a
    // call that could take a path, and so is forbidden to a plugin.
    let open = |number| fcntl(unsafe { BorrowedFd::borrow_raw(number) }, FcntlArg::F_GETFD).is_ok();
    if ![CONTROL, DESCRIPTORS, SERVER_REGION, PLUGIN_REGION].into_iter().all(open) || TAKEN.swap(true, Ordering::AcqRel)
    {
        return None;
    }
    // SAFETY: open, as just checked, and taken once; the host left these four to us and to nobody else.
    let take = |number| unsafe { OwnedFd::from_raw_fd(number) };
    Some(Inherited {
        control: take(CONTROL),
        descriptors: take(DESCRIPTORS),
        server_region: take(SERVER_REGION),
        plugin_region: take(PLUGIN_REGION),
    })
}

/// Sends a descriptor.
///
/// # Errors
/// When the peer is gone, or does not read.
pub fn send(socket: BorrowedFd<'_>, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let rights = [descriptor.as_raw_fd()];
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(b"d")],
        &[ControlMessage::ScmRights(&rights)],
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Receives the descriptor that was sent first; does not wait.
///
/// # Errors
/// When none was sent, or something else was.
pub fn receive(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut control = nix::cmsg_space!(RawFd);
    let mut parts = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(rights) = part
            && let [descriptor] = rights[..]
        {
            // SAFETY: the kernel just made this descriptor for us; nobody else knows its number.
            return Ok(unsafe { OwnedFd::from_raw_fd(descriptor) });
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "a message without a descriptor"))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    #[test]
    fn descriptors_arrive_in_order() {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).expect("socketpair");
        for text in ["one", "two"] {
            let mut file = tempfile::tempfile().expect("tempfile");
            file.write_all(text.as_bytes()).expect("write");
            file.rewind().expect("rewind");
            send(ours.as_fd(), file.as_fd()).expect("send");
        }
        for text in ["one", "two"] {
            let mut found = String::new();
            let mut file = std::fs::File::from(receive(theirs.as_fd()).expect("receive"));
            file.read_to_string(&mut found).expect("read");
            assert_eq!(found, text);
        }
        assert!(receive(theirs.as_fd()).is_err());
    }
}
