//! Measuring: what `photondb bench` and the benchmarks of this crate share.
//!
//! Every figure stands beside a baseline of the same run. [`Comparison::measure`] takes the cases in turns, over several
//! rounds, so that whatever else the machine does meets all of them alike; a ratio is always one of two figures of the same
//! round. A [`Goal`] says what such a ratio is to be. [`Report`] prints all of it, and keeps it as JSON.

mod confined;
mod data;
mod goal;
mod lanes;
mod machine;
mod options;
mod peers;
mod pin;
mod ping_pong;
mod report;
mod rounds;

pub use confined::Confined;
pub use data::Vectors;
pub use goal::{Bound, Figure, Goal, Outcome, Verdict};
pub use lanes::{ROUND_TRIP, function_number, invoke_numbers, lane_case, nops, on, round_trip, soon};
pub use machine::Machine;
pub use options::Options;
pub use peers::{Peers, Timing};
pub use pin::{Pinned, pin_process};
pub use ping_pong::{Cores, Wait, ping_pong};
pub use report::{Report, number};
pub use rounds::{Better, Case, Comparison, Latencies, Measure, ROUNDS, Spread, less, more, seconds};
