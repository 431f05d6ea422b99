//! The RethinkDB protocol, version V1_0, so that its drivers connect unmodified.
//!
//! [`serve_reql`] takes connections. Each begins with a [`handshake`] (SCRAM-SHA-256 against [`Users`]) and then carries
//! [`frame`]s with queries and responses, which [`connection`] passes to and from the engine's workers: no query runs on
//! a thread of the network.

mod connection;
mod frame;
mod handshake;
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
use tokio::sync::Semaphore;

pub use users::{Users, UsersError};

use crate::query::Engine;

/// Most connections at a time.
const MAX_CONNECTIONS: usize = 4096;
/// Bytes of query texts that all connections together may have read and not yet parsed.
const MAX_UNPARSED: usize = 1 << 30;
/// How long to wait after the system refused a connection, as it does when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What all connections share.
struct Server {
    engine: Engine,
    users: Arc<Users>,
    /// In kibibytes.
    unparsed: Arc<Semaphore>,
}

/// Takes connections of ReQL drivers until `stop` is done. Connections then open are closed as their tasks end with
/// the runtime.
pub async fn serve_reql(listener: TcpListener, engine: Engine, users: Arc<Users>, stop: impl Future<Output = ()>) {
    let server = Arc::new(Server { engine, users, unparsed: Arc::new(Semaphore::new(MAX_UNPARSED / 1024)) });
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Ok(place) = places.clone().try_acquire_owned() else {
                    tokio::spawn(refuse(stream));
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
}

async fn refuse(mut stream: TcpStream) {
    let text = format!("ERROR: This server has {MAX_CONNECTIONS} connections already; close some and try again.\n\0");
    // The client may be gone already; there is nobody else to tell.
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.write_all(text.as_bytes())).await;
}
