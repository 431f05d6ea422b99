//! System calls of another process that fail, or never return: it is traced, and those calls that change files are
//! counted. Or they are [recorded](mod@record), and [`power`] says what a power cut may leave of them.
//!
//! On x86-64 alone, whose registers it knows; elsewhere it fails with `ENOSYS`. The tracer waits for every child of its process, so it has a
//! process for itself.

pub mod power;
pub mod record;
#[cfg(target_arch = "x86_64")]
mod recorder;
#[cfg(target_arch = "x86_64")]
mod tracer;

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;
use nix::libc::c_long;
use nix::unistd::Pid;

use record::Record;

/// What happens at a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process ends before the call.
    Kill,
    /// The process ends when half of the bytes of a write are written.
    Tear,
    /// The call does nothing and fails: no space, or for those that put something on the disk an input/output error.
    Fail,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Kill, Self::Tear, Self::Fail];
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    /// The calls that change files, up to the end.
    pub calls: usize,
    /// What it printed.
    pub printed: String,
    /// Whether it ended by itself, successfully.
    pub is_success: bool,
    /// The call at which the fault happened: its number in the system's table.
    pub at: Option<c_long>,
}

/// What a trace saw.
struct Seen {
    calls: usize,
    at: Option<c_long>,
    is_success: bool,
    record: Record,
}

/// Runs a process that waits for a line on its standard input before it does anything, and lets `fault` happen at the
/// call of that number, from 1.
///
/// # Errors
/// When it can't be traced, or does not end in time.
pub fn run(command: &mut Command, fault: Option<(usize, Fault)>) -> anyhow::Result<Ended> {
    run_traced(command, fault, None).map(|(ended, _)| ended)
}

/// Runs such a process, and tells what it did to the files below `root`, an absolute path without links, and what it
/// printed, in order.
///
/// # Errors
/// When it can't be traced, does not end in time or by itself, or does what is not modelled.
pub fn record(command: &mut Command, root: &Path) -> anyhow::Result<Record> {
    let (ended, record) = run_traced(command, None, Some(root))?;
    anyhow::ensure!(ended.is_success, "it failed: {ended:?}");
    Ok(record)
}

fn run_traced(
    command: &mut Command,
    fault: Option<(usize, Fault)>,
    root: Option<&Path>,
) -> anyhow::Result<(Ended, Record)> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting the process")?;
    let pid = Pid::from_raw(child.id().cast_signed());
    #[cfg(target_arch = "x86_64")]
    let traced = tracer::trace(&mut child, pid, fault, root);
    #[cfg(not(target_arch = "x86_64"))]
    let traced: anyhow::Result<Seen> = {
        let _ = (pid, fault, root);
        Err(nix::errno::Errno::ENOSYS.into())
    };
    if traced.is_err() {
        let _ = child.kill();
    }
    let Seen { calls, at, is_success, record } = traced?;
    let mut printed = String::new();
    child.stdout.take().context("its output")?.read_to_string(&mut printed)?;
    Ok((Ended { calls, printed, is_success, at }, record))
}
