//! Cap'n Proto RPC for clients. RPC objects belong to a thread, so all connections share one.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use photondb_ipc_schema::control;
use photondb_ipc_schema::endpoint_capnp::endpoint;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::LocalSet;
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};

/// Connections at a time; further ones wait to be accepted.
const MAX_CONNECTIONS: u32 = 256;

/// Answers clients on a thread of its own until the process ends.
///
/// # Errors
/// When the thread or its runtime can't be started.
pub fn serve_rpc(listener: std::net::TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _guard = runtime.enter();
        TcpListener::from_std(listener)?
    };
    thread::Builder::new().name("rpc".into()).spawn(move || LocalSet::new().block_on(&runtime, accept(listener)))?;
    Ok(())
}

async fn accept(listener: TcpListener) {
    let room = Arc::new(Semaphore::new(super::connection_limit(MAX_CONNECTIONS) as usize));
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::task::spawn_local(async move {
                    serve(stream).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "an RPC connection can't be accepted");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream) {
    // Small messages, answered at once.
    let _ = stream.set_nodelay(true);
    let _ = super::keep_alive(&stream);
    let (reader, writer) = stream.into_split();
    if let Err(error) = control::endpoint(reader.compat(), writer.compat_write(), Endpoint).await {
        tracing::debug!(%error, "an RPC connection ended");
    }
}

struct Endpoint;

impl endpoint::Server for Endpoint {
    async fn info(self: Rc<Self>, _: endpoint::InfoParams, mut results: endpoint::InfoResults) -> capnp::Result<()> {
        let mut results = results.get();
        results.set_name("PhotonDB");
        results.set_version(env!("CARGO_PKG_VERSION"));
        Ok(())
    }
}
