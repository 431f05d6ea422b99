//! A plugin without the SDK: it says in its handshake that it speaks a protocol that nobody knows.

use std::io;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::rc::Rc;

use photondb_ipc_schema::plugin_capnp::plugin;
use photondb_ipc_schema::{PROTOCOL_VERSION, control, descriptors};
use tokio::task::LocalSet;
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};

struct Liar {
    name: String,
}

impl plugin::Server for Liar {
    async fn handshake(
        self: Rc<Self>,
        _: plugin::HandshakeParams,
        mut results: plugin::HandshakeResults,
    ) -> capnp::Result<()> {
        let mut info = results.get().init_info();
        info.set_name(&self.name);
        info.set_version(env!("CARGO_PKG_VERSION"));
        info.set_protocol(PROTOCOL_VERSION + 41);
        Ok(())
    }
}

pub(crate) fn run(name: &str) -> ExitCode {
    match serve(name) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn serve(name: &str) -> io::Result<()> {
    let inherited = descriptors::inherited().ok_or(io::ErrorKind::NotFound)?;
    let stream = UnixStream::from(inherited.control);
    stream.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    LocalSet::new().block_on(&runtime, async {
        let (reader, writer) = tokio::net::UnixStream::from_std(stream)?.into_split();
        let server = Liar { name: name.to_owned() };
        // Ends when the server has had enough.
        let _ = control::plugin(reader.compat(), writer.compat_write(), server).await;
        Ok(())
    })
}
