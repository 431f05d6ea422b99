//! The RethinkDB protocol, version V1_0, so that its drivers connect unmodified.
//!
//! [`serve_reql`] takes connections. Each begins with a `handshake` (SCRAM-SHA-256 against [`Users`]) and then carries
//! frames (`frame`) with queries and responses, which `connection` passes to and from the engine's workers: no query runs on
//! a thread of the network.

mod connection;
pub(crate) mod frame;
pub(crate) mod handshake;
mod noreply;
mod scram;
mod users;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

pub use users::{Users, UsersError};

use super::connection_limit;
use crate::query::Engine;

/// Most connections at a time.
const MAX_CONNECTIONS: u32 = 4096;
/// Bytes of query texts that all connections together may have read and not yet parsed; and of long ones that are being
/// read, besides.
const MAX_UNPARSED: usize = 1 << 30;
/// How long to wait after the system refused a connection, as it does when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What all connections share.
struct Server {
    engine: Engine,
    users: Arc<Users>,
    /// For query texts that are there and not yet parsed, in kibibytes.
    unparsed: Arc<Semaphore>,
    /// For long query texts on their way, in kibibytes. Apart, so that clients that don't go on sending hold up nobody
    /// but others with long queries.
    arriving: Arc<Semaphore>,
    /// True once no more requests are taken.
    stopping: watch::Receiver<bool>,
}

/// Takes connections of ReQL drivers until `stop` is done; then lets the requests that run finish, answers them, and
/// closes the connections.
pub async fn serve_reql(listener: TcpListener, engine: Engine, users: Arc<Users>, stop: impl Future<Output = ()>) {
    let (stopped, stopping) = watch::channel(false);
    let [unparsed, arriving] = std::array::from_fn(|_| Arc::new(Semaphore::new(MAX_UNPARSED / 1024)));
    let server = Arc::new(Server { engine, users, unparsed, arriving, stopping });
    let limit = connection_limit(MAX_CONNECTIONS);
    let places = Arc::new(Semaphore::new(limit as usize));
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Ok(place) = places.clone().try_acquire_owned() else {
                    tokio::spawn(refuse(stream, limit));
                    continue;
                };
                let server = server.clone();
                tokio::spawn(async move {
                    if let Err(error) = connection::serve(stream, server).await {
                        tracing::debug!(%peer, %error, "a ReQL connection ended");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "can't take a ReQL connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    stopped.send_replace(true);
    // All places are free when the last connection is closed; the semaphore itself is never closed.
    let _ = places.acquire_many(limit).await;
}

async fn refuse(mut stream: TcpStream, limit: u32) {
    let text = format!("ERROR: This server has {limit} connections already; close some and try again.\n\0");
    // The client may be gone already; there is nobody else to tell.
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.write_all(text.as_bytes())).await;
}
