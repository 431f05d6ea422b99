//! Write PhotonDB plugins.
//!
//! A plugin is a small program of its own. The server starts it in a sandbox and calls it through shared memory; the
//! plugin's author sees none of that:
//!
//! ```no_run
#![doc = include_str!("../examples/hello.rs")]
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | [`prelude`] | the names that a plugin needs |
//! | [`datum`] | the values |
//! | [`kinds`] | one trait for each kind of plugin |
//! | [`indexing`] | what every vector index needs |
//! | [`registry`] | what a plugin provides |
//! | [`batch`] | rows as typed columns |
//! | [`services`] | what the server does for a plugin: queries, connections, metrics, a directory |
//! | [`manifest`] | `plugin.toml` |
//! | [`engine`] | storage engines over a lane; used by the server and by [`testing`] |
//! | [`distances`] | distances over a lane; used by the server and by [`testing`] |
//! | [`calls`] | what each call looks like on a lane; used by the server and by [`testing`] |
//! | [`runtime`] | the process side: handshake, serving lanes, panics become errors |
//! | [`testing`] | runs a plugin without a server |

#![forbid(unsafe_code)]

pub mod batch;
pub mod calls;
mod cancel;
pub mod datum;
pub mod distances;
pub mod engine;
mod error;
mod export;
pub mod indexing;
pub mod kinds;
pub mod manifest;
pub mod prelude;
pub mod registry;
pub mod runtime;
pub mod services;
pub mod testing;

pub use cancel::Cancel;
pub use datum::Datum;
pub use error::{Cause, PluginError};
/// Distances between vectors, for index plugins.
pub use photondb_distance as distance;
/// Vector columns, which the server owns and index plugins read in place.
pub use photondb_ipc_schema::column;
