//! `engine_faults ENGINE [POINTS]`: ends a process that writes to a storage engine at its system calls, one after the
//! other or POINTS of them, or lets them fail, and checks each time what the next process finds.
//!
//! `engine_faults ENGINE --power [POINTS [SEED]]`: records what such a process does to its files, and checks what the next
//! one finds when the power fails, after each thing that was done or POINTS of them; and for some of these, what is found
//! when it fails again while the engine is opened. Chance decides what is lost: another seed, other losses.
//!
//! A program of its own, since it waits for all of its children.

#![forbid(unsafe_code)]

use std::io::{self, BufRead, Write};
use std::ops::RangeInclusive;
use std::panic;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};
use nix::errno::Errno;
use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::kinds::storage::{Durability, StorageConfig, StorageEngine, StorageEnginePlugin, WriteBatch};
use photondb_plugin_sdk::registry::{Plugin, PluginRegistry};
use photondb_plugin_sdk::testing::engine::crash::{self, Told};
use photondb_plugin_sdk::testing::vector::data::Numbers;
use photondb_server::storage::FjallEngine;
use photondb_tests::faults::power::{Cut, Loss};
use photondb_tests::faults::record::{Op, Record};
use photondb_tests::faults::{self, Fault};
use tempfile::TempDir;

/// What the process is told that writes.
const WRITE: &str = "--write";
/// What the process is told that only opens the engine.
const OPEN: &str = "--open";
/// That the power fails.
const POWER: &str = "--power";
/// The engine's, in a place of its own.
const DIRECTORY: &str = "engine";
/// Of what is chosen by chance.
const SEED: u64 = 0x9e37_79b9;
/// So many failures are told in full.
const TOLD: usize = 5;
/// Of so many moments one is looked at more closely, and of what is done then so many.
const MENDED: (usize, usize) = (8, 6);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        [WRITE, engine, directory] => write(engine, Path::new(directory)),
        [OPEN, engine, directory] => open_only(engine, Path::new(directory)),
        [engine] => check_all(engine, usize::MAX),
        [engine, POWER] => check_power(engine, usize::MAX, SEED),
        [engine, POWER, points] => number(points).and_then(|points| check_power(engine, points, SEED)),
        [engine, POWER, points, seed] => number(points)
            .and_then(|points| Ok((points, number(seed)?)))
            .and_then(|(points, seed)| check_power(engine, points, SEED ^ seed as u64)),
        [engine, points] => number(points).and_then(|points| check_all(engine, points)),
        _ => Err(anyhow::anyhow!(
            "usage: engine_faults ENGINE [POINTS], or engine_faults ENGINE --power [POINTS [SEED]]"
        )),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if matches!(error.downcast_ref(), Some(&(Errno::EPERM | Errno::ENOSYS))) => {
            println!("SKIPPED: nobody can trace a child here: {error:#}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("engine_faults: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> anyhow::Result<usize> {
    text.parse().context("POINTS and SEED are numbers")
}

fn open(engine: &str, directory: &Path) -> anyhow::Result<Box<dyn StorageEngine>> {
    let options = Datum::object::<&str, Datum>([]);
    let config = StorageConfig { directory: directory.to_owned(), cache_bytes: 1 << 20, options };
    Ok(match engine {
        "default" => Box::new(FjallEngine::open(&config)?),
        "redb" => photondb_plugin_redb::Redb.open(&config)?,
        "columnar" => photondb_plugin_columnar::Columnar.open(&config)?,
        "encrypted" => encrypted()?.storage_engines()[0].open(&config)?,
        "timeseries" => photondb_plugin_timeseries::TimeSeries.open(&config)?,
        _ => bail!("there is no durable engine `{engine}`"),
    })
}

/// The plugin `encrypted`, with a key.
fn encrypted() -> anyhow::Result<PluginRegistry> {
    let mut plugin = photondb_plugin_encrypted::Encrypted::default();
    plugin.configure(&Datum::object([("secrets", Datum::object([("a", "5e".repeat(32))]))]))?;
    Ok(PluginRegistry::of(&plugin))
}

/// Writes when told to, and prints what becomes of each step.
fn write(engine: &str, directory: &Path) -> anyhow::Result<()> {
    io::stdin().lock().read_line(&mut String::new())?;
    // Whether it fails to open, or later, is all the same.
    let Ok(engine) = open(engine, directory) else { return Ok(()) };
    crash::write(&*engine, &mut |number, told| {
        // One write a line: what was printed is printed whole.
        let _ = io::stdout().lock().write_all(format!("{number} {}\n", word(told)).as_bytes());
    });
    Ok(())
}

/// Opens and closes an engine when told to.
fn open_only(engine: &str, directory: &Path) -> anyhow::Result<()> {
    io::stdin().lock().read_line(&mut String::new())?;
    open(engine, directory).map(drop)
}

const WORDS: [(Told, &str); 5] = [
    (Told::Begun, "begun"),
    (Told::Hard, "hard"),
    (Told::Soft, "soft"),
    (Told::Failed, "failed"),
    (Told::Unknown, "unknown"),
];

fn word(told: Told) -> &'static str {
    WORDS.iter().find(|(known, _)| *known == told).map_or("", |(_, word)| word)
}

fn read(printed: &str) -> anyhow::Result<Vec<(u32, Told)>> {
    let line = |line: &str| {
        let (number, word) = line.split_once(' ')?;
        let told = WORDS.iter().find(|(_, known)| *known == word)?.0;
        Some((number.parse().ok()?, told))
    };
    printed.lines().map(|text| line(text).with_context(|| format!("it printed `{text}`"))).collect()
}

/// One process, with a fault; then what the next one finds. Says how many calls there were.
fn check_one(engine: &str, fault: Option<(usize, Fault)>) -> anyhow::Result<usize> {
    let place = new_place()?;
    let directory = place.path().join(DIRECTORY);
    let mut command = Command::new(std::env::current_exe()?);
    command.args([WRITE, engine]).arg(&directory);
    let ended = faults::run(&mut command, fault)?;
    let told = read(&ended.printed)?;
    let is_killed = matches!(fault, Some((_, Fault::Kill | Fault::Tear))) && ended.at.is_some();
    ensure!(ended.is_success != is_killed, "it ended otherwise than it should: {ended:?}");
    let check = || {
        let opened = open(engine, &directory)?;
        crash::check(&*opened, crash::possible(&told)).map_err(anyhow::Error::msg)
    };
    check().with_context(|| format!("after {fault:?} (system call {:?}), told {:?}", ended.at, told.last()))?;
    Ok(ended.calls)
}

fn check_all(engine: &str, points: usize) -> anyhow::Result<()> {
    let calls = check_one(engine, None)?;
    ensure!(calls > 20, "only {calls} calls were seen");
    let step = (calls / points.max(1)).max(1);
    for fault in Fault::ALL {
        for number in (1..=calls).step_by(step) {
            check_one(engine, Some((number, fault)))?;
        }
    }
    println!("{engine}: {calls} calls that change files; ended or failed at every {step}. of them");
    Ok(())
}

/// Checks an engine after power cuts.
fn check_power(engine: &str, points: usize, seed: u64) -> anyhow::Result<()> {
    let place = new_place()?;
    let root = place.path().canonicalize()?;
    let record = record(engine, WRITE, &root)?;
    let done = record.ops.len() - record.found;
    ensure!(done > 100, "only {done} things were done");
    // A process that panics has failed like any other, and is told below.
    panic::set_hook(Box::new(|_| {}));
    let (mut cuts, mut failed) = (0, Vec::new());
    for (number, moment) in moments(&record, points, seed).into_iter().enumerate() {
        let printed = record.ops[..moment].iter().filter_map(|op| match op {
            Op::Print(text) => Some(&text[..]),
            _ => None,
        });
        let told = read(&String::from_utf8(printed.collect::<Vec<_>>().concat())?)?;
        let possible = crash::possible(&told);
        for loss in Loss::ALL {
            cuts += 1;
            let cut = || Cut::new(&record.ops, moment, loss, seed);
            let mut checked = check_left(engine, &possible, cut(), &root);
            if checked.is_ok() && number.is_multiple_of(MENDED.0) {
                checked = check_mending(engine, &possible, cut(), &root, seed).map(|more| cuts += more);
            }
            if let Err(error) = checked {
                failed.push((moment, loss, error));
            }
        }
    }
    println!("{engine}: {done} things done, {cuts} power cuts, after {} of them something was wrong", failed.len());
    for (moment, loss, error) in failed.iter().take(TOLD) {
        println!("power cut before {moment}, {loss:?} lost: {error:#}\n{}", last_of(&record.ops[..*moment]));
    }
    ensure!(failed.is_empty(), "something was wrong after {} of {cuts} power cuts", failed.len());
    Ok(())
}

/// The end of what was done, a line each.
fn last_of(ops: &[Op]) -> String {
    let from = ops.len().saturating_sub(20);
    let lines = ops.iter().enumerate().skip(from).map(|(at, op)| format!("    {at} {}", op.shown()));
    lines.collect::<Vec<_>>().join("\n")
}

fn new_place() -> anyhow::Result<TempDir> {
    // In memory where that can be: a disk would take its time for each sync, and no check here is of a disk.
    let place = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    std::fs::create_dir(place.path().join(DIRECTORY))?;
    Ok(place)
}

/// What a process does that is told `what`.
fn record(engine: &str, what: &str, root: &Path) -> anyhow::Result<Record> {
    let mut command = Command::new(std::env::current_exe()?);
    faults::record(command.args([what, engine]).arg(root.join(DIRECTORY)), root)
}

/// All moments of a record, or so many that are spread over it. Every other one is just after something was printed: then
/// a sync that is missing shows most.
fn moments(record: &Record, points: usize, seed: u64) -> Vec<usize> {
    let done = record.ops.len() - record.found;
    if points > done {
        return (record.found..=record.ops.len()).collect();
    }
    let mut numbers = Numbers(seed);
    let draw = |point: usize| {
        let (from, to) = (point * done / points, (point + 1) * done / points);
        let drawn = record.found + from + numbers.draw() as usize % (to - from) + 1;
        let printed = record.ops[drawn..].iter().position(|op| matches!(op, Op::Print(_)));
        printed.filter(|_| point % 2 == 1).map_or(drawn, |behind| drawn + behind + 1)
    };
    (0..points).map(draw).collect()
}

/// Opens what one power cut leaves: it is whole, can be written to, and stays so.
fn check_left(engine: &str, possible: &RangeInclusive<u32>, cut: Cut<'_>, root: &Path) -> anyhow::Result<()> {
    let place = new_place()?;
    let directory = place.path().join(DIRECTORY);
    cut.leave(root, place.path())?;
    let check = || {
        let opened = open(engine, &directory).context("opening it")?;
        crash::check(&*opened, possible.clone()).map_err(anyhow::Error::msg)?;
        let mut batch = WriteBatch::default();
        batch.put("after", *b"k", *b"v");
        opened.commit(&batch, Durability::Hard).context("writing to it")?;
        drop(opened);
        let opened = open(engine, &directory).context("opening it again")?;
        ensure!(opened.get("after", b"k")?.as_deref() == Some(b"v"), "what was written then is lost");
        crash::check(&*opened, possible.clone()).map_err(anyhow::Error::msg)
    };
    let checked = panic::catch_unwind(panic::AssertUnwindSafe(check));
    checked.unwrap_or_else(|panicked| {
        let text = panicked.downcast_ref::<String>().map(String::as_str);
        bail!("it panicked: {}", text.or_else(|| panicked.downcast_ref::<&str>().copied()).unwrap_or("without a word"))
    })
}

/// Opens what one power cut leaves, and lets the power fail again meanwhile. Says how often.
fn check_mending(
    engine: &str,
    possible: &RangeInclusive<u32>,
    cut: Cut<'_>,
    root: &Path,
    seed: u64,
) -> anyhow::Result<usize> {
    let place = new_place()?;
    let mended = place.path().canonicalize()?;
    cut.leave(root, &mended)?;
    let record = record(engine, OPEN, &mended)?;
    let moments = moments(&record, MENDED.1, seed);
    for moment in &moments {
        for loss in Loss::ALL {
            let again = Cut::new(&record.ops, *moment, loss, seed);
            check_left(engine, possible, again, &mended).with_context(|| {
                format!("after a second one, {loss:?} lost of\n{}\nand", last_of(&record.ops[record.found..*moment]))
            })?;
        }
    }
    Ok(moments.len() * Loss::ALL.len())
}
