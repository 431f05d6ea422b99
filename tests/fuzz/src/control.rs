//! What a plugin and its host write to their sockets and pipes.

use std::io::{IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::AsyncWrite;
use futures::executor::LocalPool;
use futures::io::Cursor;
use futures::task::LocalSpawnExt;
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};
use photondb_ipc_schema::control as rpc;
use photondb_ipc_schema::plugin_capnp::plugin;
use photondb_plugin_host::{DeniedCalls, read_reply};
use photondb_plugin_sdk::manifest::Manifest;
use photondb_sandbox_profiles::syscalls;
use photondb_server::fuzzing;

/// Takes everything.
struct Sink;

impl AsyncWrite for Sink {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn manifest() -> Manifest {
    let text = "[plugin]\nname = \"fuzz\"\nversion = \"1.0.0\"\nprotocol = 1\nexecutable = \"fuzz\"\n\n[provides]\n\
                functions = [\"f\"]\nvector_indexes = [\"v\"]\n";
    Manifest::parse(text).expect("a manifest")
}

/// Everything that a plugin says on its control socket, to a server that shakes hands and pings. The first byte says
/// whether it may call services.
pub fn control(bytes: &[u8]) {
    let [first, bytes @ ..] = bytes else { return };
    let callable = if first & 1 == 0 { rpc::Callable::Nothing } else { rpc::Callable::Services };
    let mut pool = LocalPool::new();
    let (system, client) = rpc::server(Cursor::new(bytes.to_vec()), Sink, callable, |_| {});
    pool.spawner().spawn_local(async { drop(system.await) }).expect("the pool runs");
    pool.run_until(async {
        let _ = fuzzing::handshake(&client, &manifest()).await;
        let _ = client.ping_request().send().promise.await;
    });
}

/// An answer to the handshake that the RPC system let through: a message with the results of the method.
pub fn handshake_reply(bytes: &[u8]) {
    struct Liar(Vec<u8>);

    impl plugin::Server for Liar {
        async fn handshake(
            self: std::rc::Rc<Self>,
            _: plugin::HandshakeParams,
            mut results: plugin::HandshakeResults,
        ) -> capnp::Result<()> {
            let mut options = capnp::message::ReaderOptions::new();
            options.traversal_limit_in_words(Some(1 << 17)).nesting_limit(16);
            let message = capnp::serialize::read_message(&self.0[..], options)?;
            results.set(message.get_root::<plugin::handshake_results::Reader<'_>>()?)
        }
    }

    let client: plugin::Client = capnp_rpc::new_client(Liar(bytes.to_vec()));
    let _ = LocalPool::new().run_until(fuzzing::handshake(&client, &manifest()));
}

/// What a host writes to its report pipe.
pub fn host_report(bytes: &[u8]) {
    let _ = read_reply(bytes);
}

/// A packet on the descriptor socket, where the host sends its listener, with none to three descriptors; and the names
/// of a call that was stopped.
pub fn listener(bytes: &[u8]) {
    let [count, arch, number, packet @ ..] = bytes else { return };
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).expect("socketpair");
    let sent = [theirs.as_raw_fd(); 3];
    let rights = [ControlMessage::ScmRights(&sent[..usize::from(*count % 4)])];
    let rights = if count % 4 == 0 { &[][..] } else { &rights[..] };
    for _ in 0..2 {
        let _ = sendmsg::<()>(theirs.as_raw_fd(), &[IoSlice::new(packet)], rights, MsgFlags::MSG_DONTWAIT, None);
    }
    let _ = DeniedCalls::receive(ours.as_fd(), Vec::new());
    let arch = [0xc000_003e, 0xc000_00b7, 0x4000_0003, u32::from(*arch)][usize::from(arch % 4)];
    let name = syscalls::describe(arch, i32::from(*number) << (count / 4 % 32));
    let _ = syscalls::path_argument(&name);
    std::io::sink().write_all(name.as_bytes()).expect("a sink");
}
