//! Ways in for the fuzz targets (`tests/fuzz`) to parsers that nothing else outside of this crate needs.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use nix::sys::memfd::{MFdFlags, memfd_create};
use photondb_ipc_schema::plugin_capnp::plugin;
use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::manifest::Manifest;

use crate::config::{self, Config};
use crate::plugins::discover::Package;
use crate::plugins::handshake::{Provided, handshake as shake_hands};
use crate::plugins::output::Lines;
use crate::plugins::services::Services;
use crate::vector::saved::SavedGraph;

pub use crate::cli::import::npy::Vectors;
pub use crate::network::reql::frame::{read_body, read_header};
pub use crate::network::reql::handshake::accept;

/// Reads `text` as `photondb.toml`; the error is the line that the operator would see.
///
/// # Errors
/// What is wrong with it.
pub fn config(text: &str) -> Result<Config, String> {
    let mut config = Config::default();
    config::file::apply(&mut config, Path::new("photondb.toml"), text).map_err(|error| error.to_string())?;
    Ok(config)
}

/// Reads a saved graph; how many rows it has and how many bytes are the plugin's.
#[must_use]
pub fn saved_graph(bytes: &[u8]) -> Option<(usize, usize)> {
    SavedGraph::parse(bytes).map(|saved| (saved.rows.len(), saved.graph.len()))
}

/// The lines that are kept of what a plugin prints, piece by piece.
#[must_use]
pub fn lines<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Vec<String> {
    let (mut lines, mut kept, now) = (Lines::default(), Vec::new(), Instant::now());
    for piece in pieces {
        lines.push(piece, now, |line| kept.push(line.to_owned()));
    }
    lines.finish(|line| kept.push(line.to_owned()));
    kept
}

/// Shakes hands with the plugin behind `client`, which claims to be the one of `manifest`.
///
/// # Errors
/// The sentence that the operator would see.
pub async fn handshake(client: &plugin::Client, manifest: &Manifest) -> Result<Provided, String> {
    let executable = memfd_create("fuzzing", MFdFlags::MFD_CLOEXEC).map_err(|error| error.to_string())?;
    let package = Package { directory: "/".into(), manifest: manifest.clone(), executable: Arc::new(executable) };
    shake_hands(client, &package, &Datum::Null, Services::default(), 0).await.map_err(|error| error.error.to_string())
}
