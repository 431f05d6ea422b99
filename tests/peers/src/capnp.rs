//! Cap'n Proto RPC over a Unix socket.

use std::os::unix::net::UnixStream;
use std::rc::Rc;

use capnp::message::ReaderOptions;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{RpcSystem, new_client, twoparty};
use tokio::task::{LocalSet, spawn_local};
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};

use super::echo_capnp::echo;
use super::pair::{Other, inherited, sockets};
use super::timing::Timing;
use super::{Arguments, sum};

fn network(
    stream: UnixStream,
    side: Side,
) -> anyhow::Result<Box<twoparty::VatNetwork<impl futures::AsyncRead + Unpin>>> {
    stream.set_nonblocking(true)?;
    let (reader, writer) = tokio::net::UnixStream::from_std(stream)?.into_split();
    let mut options = ReaderOptions::new();
    options.traversal_limit_in_words(None);
    Ok(Box::new(twoparty::VatNetwork::new(reader.compat(), writer.compat_write(), side, options)))
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    LocalSet::new().block_on(&runtime, work)
}

pub fn ask(arguments: &Arguments) -> anyhow::Result<()> {
    let (ours, theirs) = sockets()?;
    let _other = Other::start(theirs.into())?;
    let payload = arguments.payload();
    block_on(async {
        let mut system = RpcSystem::new(network(ours, Side::Client)?, None);
        let client: echo::Client = system.bootstrap(Side::Server);
        spawn_local(system);
        Timing::new(arguments)
            .run_async(async || {
                if arguments.sums() {
                    let mut request = client.sum_request();
                    request.get().set_data(&payload);
                    std::hint::black_box(request.send().promise.await?.get()?.get_sum());
                } else {
                    let mut request = client.echo_request();
                    request.get().set_data(&payload);
                    std::hint::black_box(request.send().promise.await?.get()?.get_data()?);
                }
                Ok(())
            })
            .await
    })
}

struct Server;

impl echo::Server for Server {
    async fn echo(
        self: Rc<Self>,
        params: echo::EchoParams,
        mut results: echo::EchoResults,
    ) -> Result<(), capnp::Error> {
        results.get().set_data(params.get()?.get_data()?);
        Ok(())
    }

    async fn sum(self: Rc<Self>, params: echo::SumParams, mut results: echo::SumResults) -> Result<(), capnp::Error> {
        results.get().set_sum(sum(params.get()?.get_data()?));
        Ok(())
    }
}

pub fn serve(_: &Arguments) -> anyhow::Result<()> {
    let stream = UnixStream::from(inherited()?);
    block_on(async {
        let client: echo::Client = new_client(Server);
        Ok(RpcSystem::new(network(stream, Side::Server)?, Some(client.client)).await?)
    })
}
