//! Measuring: what `photondb bench` and the benchmarks of this crate share.
//!
//! Every figure stands beside a baseline of the same run. [`Comparison::measure`] takes the cases in turns, over several
//! rounds, so that whatever else the machine does meets all of them alike; a ratio is always one of two figures of the same
//! round. A [`Goal`] says what such a ratio is to be. [`Report`] prints all of it, and keeps it as JSON.

mod confined;
mod data;
mod goal;
mod machine;
mod options;
mod report;
mod rounds;

pub use confined::Confined;
pub use data::Vectors;
pub use goal::{Bound, Goal, Outcome, Verdict};
pub use machine::Machine;
pub use options::Options;
pub use report::{Report, number};
pub use rounds::{Better, Case, Comparison, Latencies, Measure, ROUNDS, Spread, less, more, seconds};
