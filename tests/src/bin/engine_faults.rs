//! `engine_faults ENGINE [POINTS]`: ends a process that writes to a storage engine at its system calls, one after the
//! other or POINTS of them, or lets them fail, and checks each time what the next process finds.
//!
//! A program of its own, since it waits for all of its children.

#![forbid(unsafe_code)]

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, bail, ensure};
use nix::errno::Errno;
use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::kinds::storage::{StorageConfig, StorageEngine, StorageEnginePlugin};
use photondb_plugin_sdk::registry::{Plugin, PluginRegistry};
use photondb_plugin_sdk::testing::engine::crash::{self, Told};
use photondb_server::storage::FjallEngine;
use photondb_tests::faults::{self, Fault};

/// What the process is told that writes.
const WRITE: &str = "--write";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        [WRITE, engine, directory] => write(engine, Path::new(directory)),
        [engine] => check_all(engine, usize::MAX),
        [engine, points] => points.parse().context("POINTS is a number").and_then(|points| check_all(engine, points)),
        _ => Err(anyhow::anyhow!("usage: engine_faults ENGINE [POINTS]")),
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
    let place = tempfile::tempdir()?;
    let directory: PathBuf = place.path().join("engine");
    std::fs::create_dir(&directory)?;
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
