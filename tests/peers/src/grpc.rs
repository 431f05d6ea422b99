//! gRPC over a Unix socket, by tonic: windows of 8 MiB, frames of 16 MiB.

use std::os::unix::net::UnixStream;

use anyhow::Context;
use hyper_util::rt::TokioIo;
use tonic::transport::{Endpoint, Server};
use tonic::{Request, Response, Status};

use super::pair::{Other, inherited, sockets};
use super::timing::Timing;
use super::{Arguments, sum};

#[allow(missing_docs, clippy::all, reason = "generated")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/peers.Echo.rs"));
}
use generated::echo_client::EchoClient;
use generated::echo_server::{Echo, EchoServer};

const WINDOW: u32 = 8 << 20;
const FRAME: u32 = (1 << 24) - 1;
const MESSAGE: usize = 64 << 20;

#[derive(Clone, PartialEq, prost::Message)]
pub struct Bytes {
    #[prost(bytes = "bytes", tag = "1")]
    pub data: tonic::codegen::Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub struct Sum {
    #[prost(float, tag = "1")]
    pub sum: f32,
}

fn stream(stream: UnixStream) -> anyhow::Result<tokio::net::UnixStream> {
    stream.set_nonblocking(true)?;
    Ok(tokio::net::UnixStream::from_std(stream)?)
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

pub fn ask(arguments: &Arguments) -> anyhow::Result<()> {
    let (ours, theirs) = sockets()?;
    let _other = Other::start(theirs.into())?;
    let data = tonic::codegen::Bytes::from(arguments.payload());
    block_on(async {
        let mut once = Some(TokioIo::new(stream(ours)?));
        let endpoint = Endpoint::from_static("http://peer")
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        let connect = tower::service_fn(move |_| {
            let stream = once.take().ok_or_else(|| std::io::Error::other("connected twice"));
            std::future::ready(stream)
        });
        let channel = endpoint.connect_with_connector(connect).await.context("cannot connect")?;
        let client = EchoClient::new(channel).max_decoding_message_size(MESSAGE).max_encoding_message_size(MESSAGE);
        Timing::new(arguments)
            .run_async(async || {
                let (mut client, request) = (client.clone(), Bytes { data: data.clone() });
                if arguments.sums() {
                    std::hint::black_box(client.sum(request).await?.into_inner().sum);
                } else {
                    std::hint::black_box(client.echo(request).await?.into_inner().data);
                }
                Ok(())
            })
            .await
    })
}

struct Service;

#[tonic::async_trait]
impl Echo for Service {
    async fn echo(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Status> {
        Ok(Response::new(request.into_inner()))
    }

    async fn sum(&self, request: Request<Bytes>) -> Result<Response<Sum>, Status> {
        Ok(Response::new(Sum { sum: sum(&request.into_inner().data) }))
    }
}

pub fn serve(_: &Arguments) -> anyhow::Result<()> {
    let accepted = UnixStream::from(inherited()?);
    block_on(async {
        let connections = futures::stream::iter([stream(accepted).map_err(std::io::Error::other)]);
        // It would stop serving when no further connection can come.
        let connections = futures::StreamExt::chain(connections, futures::stream::pending());
        let service = EchoServer::new(Service).max_decoding_message_size(MESSAGE).max_encoding_message_size(MESSAGE);
        Server::builder()
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW)
            .max_frame_size(FRAME)
            .add_service(service)
            .serve_with_incoming(connections)
            .await?;
        Ok(())
    })
}
