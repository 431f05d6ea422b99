//! Cap'n Proto RPC, with plugins over the inherited socket and with clients over TCP. The limits of every message are set here and nowhere else.

use capnp::message::ReaderOptions;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::twoparty::VatNetwork;
use capnp_rpc::{RpcSystem, new_client};
use futures::{AsyncRead, AsyncWrite};

use crate::endpoint_capnp::endpoint;
use crate::plugin_capnp::plugin;

/// The most words of a control message: 1 MiB. Larger things go through lanes or as descriptors.
const MAX_WORDS: usize = (1 << 20) / 8;
/// The deepest nesting of a control message; honest ones need five.
const MAX_NESTING: i32 = 16;

fn network<R, W>(reader: R, writer: W, side: Side) -> Box<VatNetwork<R>>
where
    R: AsyncRead + Unpin + 'static,
    W: AsyncWrite + Unpin + 'static,
{
    let mut options = ReaderOptions::new();
    options.traversal_limit_in_words(Some(MAX_WORDS)).nesting_limit(MAX_NESTING);
    Box::new(VatNetwork::new(reader, writer, side, options))
}

/// The server's end: the RPC system, to be driven on this thread, and the plugin's interface.
pub fn server<R, W>(reader: R, writer: W) -> (RpcSystem<Side>, plugin::Client)
where
    R: AsyncRead + Unpin + 'static,
    W: AsyncWrite + Unpin + 'static,
{
    let mut system = RpcSystem::new(network(reader, writer, Side::Client), None);
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
