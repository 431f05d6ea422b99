//! The local socket `DIR/photondb.sock`, where the command line asks a running server.
//!
//! Only the server's own user and root are answered: the socket's mode keeps others from connecting, and the
//! credentials of whoever connects are checked besides, since a mode can be changed from outside.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use interprocess::local_socket::tokio::{Listener, Stream, prelude::*};
use interprocess::local_socket::traits::Stream as _;
use interprocess::local_socket::{GenericFilePath, ListenerOptions, Stream as BlockingStream};
use interprocess::os::unix::local_socket::ListenerOptionsExt;
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use super::protocol::{Reply, Request, SOCKET_NAME};
use super::status::{Change, PluginControl};
use crate::plugins::audit::AuditItem;

/// The longest request.
const REQUEST_LIMIT: u64 = 64 << 10;
/// How often a followed log is looked at: often enough to look immediate.
const FOLLOW_EVERY: Duration = Duration::from_millis(200);

/// Why the socket cannot be opened.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SocketError {
    /// A live server has it.
    #[error("{path} is in use by another server; stop that one, or choose another directory with --data", path = path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The system refused.
    #[error(
        "cannot listen on {path}: {problem}; the directory must be writable, and its path shorter than 90 bytes",
        path = path.display()
    )]
    Unusable {
        /// The socket.
        path: PathBuf,
        /// Why.
        problem: io::Error,
    },
}

/// The open socket. Dropping it removes the file.
pub struct AdminSocket {
    listener: Listener,
}

impl AdminSocket {
    /// Opens the socket in `data`, in place of one that a dead server left there. Call it within a tokio runtime.
    ///
    /// # Errors
    /// A live server has it, or the system refused.
    pub fn open(data: &Path) -> Result<Self, SocketError> {
        let path = data.join(SOCKET_NAME);
        let unusable = |problem| SocketError::Unusable { path: path.clone(), problem };
        let name = || path.as_path().to_fs_name::<GenericFilePath>().map_err(unusable);
        // Whoever answers is alive; a file that nobody answers at was left behind.
        if BlockingStream::connect(name()?).is_ok() {
            return Err(SocketError::InUse { path });
        }
        let options = ListenerOptions::new().name(name()?).mode(0o600).try_overwrite(true);
        Ok(Self { listener: options.create_tokio().map_err(unusable)? })
    }

    /// Answers until it is dropped.
    pub async fn serve(self, plugins: Arc<dyn PluginControl>) {
        loop {
            match self.listener.accept().await {
                Ok(stream) => {
                    let plugins = Arc::clone(&plugins);
                    tokio::spawn(async move {
                        if let Err(problem) = converse(&stream, plugins.as_ref()).await {
                            tracing::debug!(%problem, "a connection to the local socket ended");
                        }
                    });
                }
                Err(problem) => {
                    tracing::warn!(%problem, "cannot accept a connection to the local socket");
                    // Out of descriptors, most likely: give others the time to close some.
                    tokio::time::sleep(FOLLOW_EVERY).await;
                }
            }
        }
    }
}

/// Answers one client until it hangs up.
async fn converse(stream: &Stream, plugins: &dyn PluginControl) -> io::Result<()> {
    let own = nix::unistd::geteuid().as_raw();
    let peer = stream.peer_creds()?.euid();
    if peer != Some(own) && peer != Some(0) {
        let peer = peer.map_or_else(|| "unknown".to_owned(), |uid| uid.to_string());
        tracing::warn!(peer, "refused a connection to the local socket by another user");
        let refusal = format!("user {peer} may not steer this server; run this command as root or as user {own}");
        return send(stream, &Reply::Error(refusal)).await;
    }
    let mut requests = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let length = (&mut requests).take(REQUEST_LIMIT).read_until(b'\n', &mut line).await?;
        if length == 0 {
            return Ok(());
        }
        match serde_json::from_slice(&line) {
            Ok(request) => answer(stream, plugins, request).await?,
            Err(problem) => {
                let reply =
                    format!("the request cannot be read: {problem}; server and command line must be of one version");
                return send(stream, &Reply::Error(reply)).await;
            }
        }
    }
}

async fn answer(stream: &Stream, plugins: &dyn PluginControl, request: Request) -> io::Result<()> {
    let (change, name) = match request {
        Request::PluginList => {
            for status in plugins.list() {
                send(stream, &item(&status)?).await?;
            }
            return send(stream, &Reply::Done).await;
        }
        Request::PluginInfo { name } => {
            let Some(status) = plugins.list().into_iter().find(|status| status.name == name) else {
                return send(stream, &Reply::Error(no_such_plugin(plugins, &name))).await;
            };
            send(stream, &item(&status)?).await?;
            return send(stream, &Reply::Done).await;
        }
        Request::PluginPermissions { name } => {
            let Some(permissions) = plugins.permissions(&name) else {
                return send(stream, &Reply::Error(no_such_plugin(plugins, &name))).await;
            };
            send(stream, &item(&permissions)?).await?;
            return send(stream, &Reply::Done).await;
        }
        Request::PluginAudit { name } => return send_audit(stream, plugins, &name).await,
        Request::PluginLogs { name, follow } => return send_logs(stream, plugins, name.as_deref(), follow).await,
        Request::PluginEnable { name } => (Change::Enable, name),
        Request::PluginDisable { name } => (Change::Disable, name),
        Request::PluginReload { name } => (Change::Reload, name),
        Request::PluginUnload { name, force: true } => (Change::ForceUnload, name),
        Request::PluginUnload { name, force: false } => (Change::Unload, name),
    };
    match plugins.change(change, &name).await {
        Ok(status) => {
            send(stream, &item(&status)?).await?;
            send(stream, &Reply::Done).await
        }
        Err(error) => send(stream, &Reply::Error(error.to_string())).await,
    }
}

async fn send_audit(stream: &Stream, plugins: &dyn PluginControl, name: &str) -> io::Result<()> {
    let Some(confined) = plugins.confined(name) else {
        let message = match plugins.list().iter().any(|status| status.name == name) {
            true => format!(
                "plugin {name} has not run yet, so there is no confinement to attack; see `photondb plugin info {name}`"
            ),
            false => no_such_plugin(plugins, name),
        };
        return send(stream, &Reply::Error(message)).await;
    };
    let mut items = match confined.audit() {
        Ok(items) => items,
        Err(message) => return send(stream, &Reply::Error(message)).await,
    };
    while let Some(part) = items.recv().await {
        if let AuditItem::Failed(message) = part {
            return send(stream, &Reply::Error(message)).await;
        }
        send(stream, &item(&part)?).await?;
    }
    send(stream, &Reply::Done).await
}

async fn send_logs(stream: &Stream, plugins: &dyn PluginControl, name: Option<&str>, follow: bool) -> io::Result<()> {
    if let Some(name) = name
        && !plugins.list().iter().any(|status| status.name == name)
    {
        return send(stream, &Reply::Error(no_such_plugin(plugins, name))).await;
    }
    let mut last = 0;
    loop {
        for line in plugins.logs(name) {
            if line.id > last {
                last = line.id;
                send(stream, &item(&line)?).await?;
            }
        }
        if !follow {
            return send(stream, &Reply::Done).await;
        }
        let mut hung_up = [0];
        let mut client = stream;
        tokio::select! {
            // A client that follows says nothing more: whatever arrives is the end.
            _ = client.read(&mut hung_up) => return Ok(()),
            () = tokio::time::sleep(FOLLOW_EVERY) => {}
        }
    }
}

fn no_such_plugin(plugins: &dyn PluginControl, name: &str) -> String {
    let known: Vec<_> = plugins.list().into_iter().map(|status| status.name).collect();
    match known.is_empty() {
        true => format!("there is no plugin `{name}`, nor any other; see plugins.paths of photondb.toml"),
        false => format!("there is no plugin `{name}`; there are {}", known.join(", ")),
    }
}

fn item(value: &impl serde::Serialize) -> io::Result<Reply> {
    Ok(Reply::Item(serde_json::to_value(value)?))
}

async fn send(mut stream: &Stream, reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    stream.write_all(&line).await
}

#[cfg(test)]
mod tests;
