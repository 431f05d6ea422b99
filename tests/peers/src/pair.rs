//! The other process.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio, id};

use anyhow::Context;

use super::Arguments;

/// The other process, killed when dropped.
pub struct Other(pub Child);

impl Other {
    /// Starts it with `shared` as its standard input.
    pub fn start(shared: OwnedFd) -> anyhow::Result<Self> {
        Self::start_with(shared.into(), Stdio::null())
    }

    pub fn start_with(stdin: Stdio, stdout: Stdio) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe().context("this executable has no path")?);
        command.args(std::env::args_os().skip(1)).args(["--serve", "--parent"]).arg(id().to_string());
        Ok(Self(command.stdin(stdin).stdout(stdout).spawn().context("cannot start the other process")?))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// As much as is sent at once, where the system allows that much.
const SEND_BUFFER: usize = 4 << 20;

/// A pair of sockets, ours and the other process's.
pub fn sockets() -> anyhow::Result<(UnixStream, UnixStream)> {
    let (ours, theirs) = UnixStream::pair()?;
    for socket in [&ours, &theirs] {
        // Without the right to exceed the system's limit, it is that limit.
        if rustix::net::sockopt::set_socket_send_buffer_size_force(socket, SEND_BUFFER).is_err() {
            rustix::net::sockopt::set_socket_send_buffer_size(socket, SEND_BUFFER)?;
        }
    }
    Ok((ours, theirs))
}

/// What the asking process shares with this one.
pub fn inherited() -> anyhow::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?)
}

#[allow(dead_code, reason = "only some builds have a peer that names what it shares")]
impl Arguments {
    /// A name that the pair alone has.
    pub fn name(&self) -> String {
        format!("photondb-peers-{}", if self.serve { self.parent } else { id() })
    }
}
