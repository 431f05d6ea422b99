//! What listens on the network.
//!
//! - [`http`]: pages, metrics and the JSON interface;
//! - [`reql`]: the RethinkDB protocol;
//! - [`rpc`]: Cap'n Proto.

pub mod http;
pub mod reql;
pub mod rpc;

use std::os::fd::AsFd;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{setsockopt, sockopt};

/// Seconds of silence before the system asks whether the other side of a connection is still there.
const SILENCE: u32 = 60;
/// Seconds between two such questions, and how many may stay without an answer.
const QUESTION: u32 = 15;
const QUESTIONS: u32 = 4;

/// Has the system end connections whose other side is gone without a word, as after a power cut: nothing else would, and
/// each of them takes a place.
fn keep_alive(stream: &impl AsFd) -> nix::Result<()> {
    setsockopt(stream, sockopt::TcpKeepIdle, &SILENCE)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &QUESTION)?;
    setsockopt(stream, sockopt::TcpKeepCount, &QUESTIONS)?;
    setsockopt(stream, sockopt::KeepAlive, &true)
}

/// `most` connections, or fewer where the process may not open many files: most of them are left to the data, whose
/// engine stops writing when it can't open one.
fn connection_limit(most: u32) -> u32 {
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(current, _)| current);
    u32::try_from(files / 4).unwrap_or(u32::MAX).clamp(1, most)
}
