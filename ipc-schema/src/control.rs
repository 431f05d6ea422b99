//! Cap'n Proto RPC, with plugins over the inherited socket and with clients over TCP. The limits of every message are set here and nowhere else.
//!
//! What a peer asks for, an RPC system remembers until the peer says that it may forget it, which is without bound. So a
//! plugin's messages pass a guard (`control/guard.rs`) first: it may answer, and, where it was granted a service, call
//! that within the limits below. Anything else ends the connection, and the server is told why.

mod guard;
mod token_bucket;

use capnp::message::ReaderOptions;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::twoparty;
use capnp_rpc::{RpcSystem, new_client};
use futures::{AsyncRead, AsyncWrite};

use crate::endpoint_capnp::endpoint;
use crate::plugin_capnp::plugin;
pub use guard::{Callable, Limit, Violation};
pub use token_bucket::TokenBucket;

/// The most words of a control message: 1 MiB. Larger things go through lanes or as descriptors.
const MAX_WORDS: usize = (1 << 20) / 8;
/// The deepest nesting of a control message; honest ones need five.
const MAX_NESTING: i32 = 16;

/// Calls to services that the SDK of a plugin has in flight at most; further ones wait in the plugin.
pub const CALLS_IN_FLIGHT: usize = 16;
/// Calls to services that a plugin can have in flight. One is in flight until its answer has been written to the socket,
/// so a plugin that asks and does not read is stopped here too. Twice what the SDK does: no honest plugin comes close.
const MAX_CALLS_IN_FLIGHT: usize = 2 * CALLS_IN_FLIGHT;
/// The largest message that is no answer: a ReQL term with what it writes. With the limit of calls in flight, 8 MiB are
/// the most that a plugin's arguments can take up here.
pub const MAX_CALL_BYTES: u64 = 256 << 10;
/// Calls a second that the SDK of a plugin makes at most; further ones wait in the plugin. Each of them takes the server
/// some 50 µs or more, so this is a quarter of a processor.
pub const CALLS_PER_SECOND: u32 = 5_000;
/// Messages a second that are no answers. A call is one message and at most one more, its Finish.
const MAX_MESSAGES_PER_SECOND: u32 = 3 * CALLS_PER_SECOND;
/// Bytes a second of such messages that the SDK of a plugin sends at most.
pub const BYTES_PER_SECOND: u32 = 8 << 20;
/// Bytes a second of such messages: copying them takes the server a hundredth of a processor.
const MAX_BYTES_PER_SECOND: u32 = 3 * BYTES_PER_SECOND;

fn network<R, W>(reader: R, writer: W, side: Side) -> Box<twoparty::VatNetwork<R>>
where
    R: AsyncRead + Unpin + 'static,
    W: AsyncWrite + Unpin + 'static,
{
    let mut options = ReaderOptions::new();
    options.traversal_limit_in_words(Some(MAX_WORDS)).nesting_limit(MAX_NESTING);
    Box::new(twoparty::VatNetwork::new(reader, writer, side, options))
}

/// The server's end: the RPC system, to be driven on this thread, and the plugin's interface.
///
/// `callable`: whether the plugin is handed a service that it may call. `violated` is told, once, when the plugin does
/// what it must not do; the connection ends then.
pub fn server<R, W>(
    reader: R,
    writer: W,
    callable: Callable,
    violated: impl FnOnce(Violation) + 'static,
) -> (RpcSystem<Side>, plugin::Client)
where
    R: AsyncRead + Unpin + 'static,
    W: AsyncWrite + Unpin + 'static,
{
    let network = guard::guarded(|reader| network(reader, writer, Side::Client), reader, callable, violated);
    let mut system = RpcSystem::new(network, None);
    let plugin = system.bootstrap(Side::Server);
    (system, plugin)
}

/// The plugin's end, to be driven until it ends: then the server is gone.
pub fn plugin<R, W>(reader: R, writer: W, plugin: impl plugin::Server + 'static) -> RpcSystem<Side>
where
    R: AsyncRead + Unpin + 'static,
    W: AsyncWrite + Unpin + 'static,
{
    let client: plugin::Client = new_client(plugin);
    RpcSystem::new(network(reader, writer, Side::Server), Some(client.client))
}

/// The server's end of a client's connection, to be driven until it ends.
pub fn endpoint<R, W>(reader: R, writer: W, endpoint: impl endpoint::Server + 'static) -> RpcSystem<Side>
where
    R: AsyncRead + Unpin + 'static,
    W: AsyncWrite + Unpin + 'static,
{
    let client: endpoint::Client = new_client(endpoint);
    RpcSystem::new(network(reader, writer, Side::Server), Some(client.client))
}
