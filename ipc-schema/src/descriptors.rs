//! Open files that cross the process boundary: inherited by number, or passed over a socket.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
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

/// Sends a descriptor as the packet `number`; does not wait.
///
/// # Errors
/// When the peer is gone, or does not read.
pub fn send(socket: BorrowedFd<'_>, number: u32, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let rights = [descriptor.as_raw_fd()];
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(&number.to_le_bytes())],
        &[ControlMessage::ScmRights(&rights)],
        MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// Descriptors as they arrive. The messages that speak of them go another way, and are not answered in order: so each
/// packet has a number.
#[derive(Debug)]
pub struct Arrivals {
    socket: OwnedFd,
    early: HashMap<u32, OwnedFd>,
}

impl Arrivals {
    /// Nothing has arrived yet.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, early: HashMap::new() }
    }

    /// Takes the packet `number`, which was sent already; does not wait.
    ///
    /// # Errors
    /// When it was not sent, or is no descriptor.
    pub fn take(&mut self, number: u32) -> io::Result<OwnedFd> {
        if let Some(descriptor) = self.early.remove(&number) {
            return Ok(descriptor);
        }
        loop {
            let (arrived, descriptor) = receive(self.socket.as_fd())?;
            if arrived == number {
                return Ok(descriptor);
            }
            self.early.insert(arrived, descriptor);
        }
    }
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<(u32, OwnedFd)> {
    let mut number = [0; 4];
    let mut control = nix::cmsg_space!(RawFd);
    let mut parts = [IoSliceMut::new(&mut number)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let mut descriptor = None;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(rights) = part
            && let [received] = rights[..]
        {
            // SAFETY: the kernel just made this descriptor for us; nobody else knows its number.
            descriptor = Some(unsafe { OwnedFd::from_raw_fd(received) });
        }
    }
    let descriptor = descriptor
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a message without a descriptor, or the end"))?;
    Ok((u32::from_le_bytes(number), descriptor))
}

/// The plugin's end of the pipe that tells event loops of the server to look for answers (`lane/task.rs`).
#[derive(Debug)]
pub struct Bell(OwnedFd);

impl Bell {
    /// The write end of a pipe.
    #[must_use]
    pub fn new(pipe: OwnedFd) -> Self {
        Self(pipe)
    }

    /// Rings. Where the pipe is full, or nobody listens any more, nothing more is to be said.
    pub fn ring(&self) {
        let _ = nix::unistd::write(&self.0, &[0]);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Seek, Write};

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    #[test]
    fn descriptors_are_taken_by_their_numbers_in_any_order() {
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).expect("socketpair");
        for (number, text) in [(7, "one"), (8, "two"), (9, "three")] {
            let mut file = tempfile::tempfile().expect("tempfile");
            file.write_all(text.as_bytes()).expect("write");
            file.rewind().expect("rewind");
            send(ours.as_fd(), number, file.as_fd()).expect("send");
        }
        let mut arrivals = Arrivals::new(theirs);
        for (number, text) in [(8, "two"), (7, "one"), (9, "three")] {
            let mut found = String::new();
            File::from(arrivals.take(number).expect("arrived")).read_to_string(&mut found).expect("read");
            assert_eq!(found, text);
        }
        assert!(arrivals.take(7).is_err(), "each is taken once");
        drop(ours);
        assert!(arrivals.take(10).is_err());
    }
}
