//! Attacks from within: what a plugin's confinement stops, found by trying.
//!
//! An [`Attempt`] is one thing that a hostile plugin would do: a few system calls with their arguments, as data
//! ([`battery`]). A [`Prober`] starts a process exactly as a plugin is started, with the same confinement, whose program
//! is this crate's own executable; told by its name that it is a probe ([`program`]), it makes that one attempt. A
//! refused call may be its last, hence one process each. What happened is judged here ([`Outcome`]): by the listener
//! that names a stopped call, by how the process ended, and by what the kernel answered.
//!
//! An attempt says nothing about what it does not try: the battery proves the walls that it ran against, no others.

mod attempt;
pub mod battery;
mod outcome;
#[expect(unsafe_code, reason = "a probe makes raw system calls: that is what it is for")]
pub mod program;
mod run;

pub use attempt::{Argument, Attempt, Step, Target};
pub use outcome::{Judge, Outcome, Verdict, Wall};
pub use run::{End, Prober, Run};
