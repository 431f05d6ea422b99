//! Cap'n Proto RPC, with plugins over the inherited socket and with clients over TCP. The limits of every message are set here and nowhere else.

use capnp::Error;
use capnp::capability::Promise;
use capnp::message::ReaderOptions;
use capnp_rpc::rpc_capnp::message;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::twoparty;
use capnp_rpc::{Connection, IncomingMessage, OutgoingMessage, RpcSystem, VatNetwork, new_client};
use futures::{AsyncRead, AsyncWrite};

use crate::endpoint_capnp::endpoint;
use crate::plugin_capnp::plugin;

/// The most words of a control message: 1 MiB. Larger things go through lanes or as descriptors.
const MAX_WORDS: usize = (1 << 20) / 8;
/// The deepest nesting of a control message; honest ones need five.
const MAX_NESTING: i32 = 16;

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
pub fn server<R, W>(reader: R, writer: W) -> (RpcSystem<Side>, plugin::Client)
where
    R: AsyncRead + Unpin + 'static,
    W: AsyncWrite + Unpin + 'static,
{
    let network = AnswersOnly(network(reader, writer, Side::Client));
    let mut system = RpcSystem::new(Box::new(network), None);
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

/// A network, or a connection of it, whose peer may answer and do nothing else: anything else ends the connection.
///
/// What a peer asks for, the RPC system remembers until the peer says that it may forget it, which is without bound.
struct AnswersOnly<T>(T);

impl<N: VatNetwork<Side>> VatNetwork<Side> for AnswersOnly<Box<N>> {
    fn connect(&mut self, host: Side) -> Option<Box<dyn Connection<Side>>> {
        self.0.connect(host).map(answers_only)
    }

    fn accept(&mut self) -> Promise<Box<dyn Connection<Side>>, Error> {
        let accepted = self.0.accept();
        Promise::from_future(async { accepted.await.map(answers_only) })
    }

    fn drive_until_shutdown(&mut self) -> Promise<(), Error> {
        self.0.drive_until_shutdown()
    }
}

fn answers_only(connection: Box<dyn Connection<Side>>) -> Box<dyn Connection<Side>> {
    Box::new(AnswersOnly(connection))
}

impl Connection<Side> for AnswersOnly<Box<dyn Connection<Side>>> {
    fn get_peer_vat_id(&self) -> Side {
        self.0.get_peer_vat_id()
    }

    fn new_outgoing_message(&mut self, first_segment_word_size: u32) -> Box<dyn OutgoingMessage> {
        self.0.new_outgoing_message(first_segment_word_size)
    }

    fn receive_incoming_message(&mut self) -> Promise<Option<Box<dyn IncomingMessage>>, Error> {
        let received = self.0.receive_incoming_message();
        Promise::from_future(async {
            let received = received.await?;
            if let Some(message) = &received {
                match message.get_body()?.get_as::<message::Reader<'_>>()?.which()? {
                    message::Return(_) | message::Abort(_) => {}
                    _ => return Err(Error::failed("a message that is no answer".into())),
                }
            }
            Ok(received)
        })
    }

    fn shutdown(&mut self, result: capnp::Result<()>) -> Promise<(), Error> {
        self.0.shutdown(result)
    }
}
