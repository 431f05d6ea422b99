//! `photondb bench`: what this machine makes of it. Needs no server, and no source tree.

mod ipc;
mod query;
mod show;
mod vector;

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};

use crate::bench::{Confined, ROUNDS, Report};
use crate::config::PluginsConfig;
use crate::server::plugin_host;

/// Measures this machine: calls of plugins, vector search, queries
///
/// Every figure stands beside a baseline of the same run. The cases take turns over several rounds, so that whatever else the
/// machine does meets all of them alike: look at the ratios, and at how far they spread. An idle machine gives the best
/// figures; the load is told at the start and at the end.
#[derive(Debug, Args)]
pub struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Ipc(ipc::Ipc),
    Vector(vector::Vector),
    Query(query::Query),
    Show(show::Show),
}

impl Bench {
    /// Runs the command.
    ///
    /// # Errors
    /// What it needs is missing, or the machine refuses something.
    pub fn run(self) -> anyhow::Result<()> {
        match self.what {
            What::Ipc(ipc) => ipc.run(),
            What::Vector(vector) => vector.run(),
            What::Query(query) => query.run(),
            What::Show(show) => show.run(),
        }
    }
}

/// What all of them take.
#[derive(Debug, Args)]
struct Common {
    /// Prints the report as JSON
    #[arg(long)]
    json: bool,
    /// How often each case is measured
    #[arg(long, value_name = "N", default_value_t = ROUNDS, value_parser = at_least_one)]
    rounds: usize,
    /// A directory with one folder a plugin; may be given several times [default: `plugins` beside this program, and where
    /// `photondb serve` looks]
    #[arg(long, value_name = "DIR")]
    plugin_dir: Vec<PathBuf>,
}

impl Common {
    fn report(&self, title: &str) -> Report {
        if self.json { Report::silent(title) } else { Report::begin(title) }
    }

    /// Prints the rest of the report.
    fn end(&self, report: Report) -> anyhow::Result<()> {
        if self.json {
            println!("{:#}", report.to_json());
        }
        report.end(None)
    }

    /// Where plugins are looked for: directories that exist.
    fn plugin_dirs(&self) -> anyhow::Result<Vec<PathBuf>> {
        if !self.plugin_dir.is_empty() {
            return Ok(self.plugin_dir.clone());
        }
        let program = std::env::current_exe().context("cannot find this program's own path")?;
        let beside = program.with_file_name("plugins");
        let places = [vec![beside], PluginsConfig::default().paths].concat();
        // By their real names: started beside the program, two of them are the same.
        let mut found: Vec<PathBuf> = places.iter().filter_map(|directory| directory.canonicalize().ok()).collect();
        found.dedup();
        Ok(found)
    }

    /// Starts the plugins, each in its sandbox.
    fn confined(&self) -> anyhow::Result<Confined> {
        let host = plugin_host().context("cannot find this program's own path")?;
        anyhow::ensure!(
            host.is_file(),
            "{} is missing: it belongs beside `photondb`, and confines the plugins that are measured",
            host.display()
        );
        let directories = self.plugin_dirs()?;
        anyhow::ensure!(!directories.is_empty(), "no plugins were found; say where they are with --plugin-dir DIR");
        Confined::start_with(host, directories)
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err("write a whole number from 1 on".into()),
    }
}
