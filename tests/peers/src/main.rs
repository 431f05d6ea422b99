//! Asks another process in one way, many times, and prints one line of JSON with how long that took, in nanoseconds:
//! `{"p50":330.0,"p99":530.0,"mean":380.0}`.
//!
//! The other process is this executable again, started with `--serve`; the two share what is on its standard input: a
//! socket, or memory.

#[cfg(feature = "libraries")]
mod capnp;
#[cfg(feature = "libraries")]
mod echo_capnp;
#[cfg(feature = "libraries")]
mod grpc;
#[cfg(feature = "libraries")]
mod iceoryx;
mod json;
mod pair;
mod ping_pong;
mod shared;
mod socket;
mod timing;

use std::time::Duration;

use anyhow::Context;
use clap::{Parser, ValueEnum};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{CpuSet, sched_setaffinity};

/// Asks another process in one way, and prints how long that took as a line of JSON
#[derive(Clone, Debug, Parser)]
struct Arguments {
    /// How to ask; without it, what this build knows is listed
    peer: Option<Peer>,
    /// Where the two processes run
    #[arg(long, default_value = "cross")]
    cores: Cores,
    /// Round trips that count
    #[arg(long, default_value_t = 100_000)]
    calls: usize,
    /// Round trips before that
    #[arg(long, default_value_t = 5_000)]
    warm_up: usize,
    /// Microseconds of sleep before each round trip, which are not part of it
    #[arg(long, default_value_t = 0)]
    gap_us: u64,
    /// Bytes of a request. Up to 64 come back; of more, read as 32-bit floats, the sum
    #[arg(long, default_value_t = 64)]
    bytes: usize,
    /// For `json`: rows of a request, one number each, that come back plus one; 0 for a text of `bytes`
    #[arg(long, default_value_t = 0)]
    rows: usize,
    /// Be the other process
    #[arg(long, hide = true)]
    serve: bool,
    /// The asking process
    #[arg(long, hide = true, default_value_t = 0)]
    parent: u32,
}

/// Ways to ask another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Peer {
    /// Shared memory, both sides spinning
    Spin,
    /// Shared memory, both sides sleeping in a futex
    Futex,
    /// A Unix socket, blocking
    Socket,
    /// Lines of JSON over a pair of pipes
    Json,
    /// iceoryx2 request-response, both sides polling
    #[cfg(feature = "libraries")]
    Iceoryx2,
    /// Cap'n Proto RPC over a Unix socket
    #[cfg(feature = "libraries")]
    Capnp,
    /// gRPC (tonic) over a Unix socket
    #[cfg(feature = "libraries")]
    Tonic,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Cores {
    /// The asking process on core 0, the other one on core 1
    Cross,
    /// Both on core 0
    Same,
    /// Wherever the system puts them
    Free,
}

impl Arguments {
    fn round_trips(&self) -> usize {
        self.warm_up + self.calls
    }

    fn gap(&self) -> Duration {
        Duration::from_micros(self.gap_us)
    }

    /// Whether the answer is a sum, and not what was sent.
    fn sums(&self) -> bool {
        self.bytes > 64
    }

    /// What is sent: whole 32-bit floats.
    fn payload(&self) -> Vec<u8> {
        (0..self.bytes / 4).flat_map(|at| ((at % 16) as f32).to_le_bytes()).collect()
    }

    fn pin(&self) -> anyhow::Result<()> {
        let core = match (self.cores, self.serve) {
            (Cores::Free, _) => return Ok(()),
            (Cores::Cross, true) => 1,
            _ => 0,
        };
        let mut set = CpuSet::new();
        set.set(core);
        sched_setaffinity(None, &set).with_context(|| format!("cannot run on core {core}"))
    }
}

/// What a server does with a large payload.
fn sum(bytes: &[u8]) -> f32 {
    let mut sums = [0.0f32; 16];
    for block in bytes.chunks_exact(64) {
        for (sum, number) in sums.iter_mut().zip(block.as_chunks().0) {
            *sum += f32::from_le_bytes(*number);
        }
    }
    sums.iter().sum()
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let Some(peer) = arguments.peer else {
        let names = Peer::value_variants().iter().filter_map(ValueEnum::to_possible_value);
        names.for_each(|name| println!("{}", name.get_name()));
        return Ok(());
    };
    if arguments.serve {
        set_parent_process_death_signal(Some(Signal::KILL))?;
    }
    arguments.pin()?;
    match (peer, arguments.serve) {
        (Peer::Spin, false) => ping_pong::ask::<ping_pong::Spin>(&arguments),
        (Peer::Spin, true) => ping_pong::serve::<ping_pong::Spin>(&arguments),
        (Peer::Futex, false) => ping_pong::ask::<ping_pong::Futex>(&arguments),
        (Peer::Futex, true) => ping_pong::serve::<ping_pong::Futex>(&arguments),
        (Peer::Socket, false) => socket::ask(&arguments),
        (Peer::Socket, true) => socket::serve(&arguments),
        (Peer::Json, false) => json::ask(&arguments),
        (Peer::Json, true) => json::serve(&arguments),
        #[cfg(feature = "libraries")]
        (Peer::Iceoryx2, false) => iceoryx::ask(&arguments),
        #[cfg(feature = "libraries")]
        (Peer::Iceoryx2, true) => iceoryx::serve(&arguments),
        #[cfg(feature = "libraries")]
        (Peer::Capnp, false) => capnp::ask(&arguments),
        #[cfg(feature = "libraries")]
        (Peer::Capnp, true) => capnp::serve(&arguments),
        #[cfg(feature = "libraries")]
        (Peer::Tonic, false) => grpc::ask(&arguments),
        #[cfg(feature = "libraries")]
        (Peer::Tonic, true) => grpc::serve(&arguments),
    }
}
