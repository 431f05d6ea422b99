//! `photondb plugin test`: a plugin's conformance, without a server.

use std::fs;
use std::io::{BufRead, BufReader, IsTerminal, Write, stderr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::manifest::Manifest;
use serde_json::json;

use super::table::{Align, Table};
use crate::config::{Config, Flags, Grant};
use crate::conformance::{Outcome, Subject};
use crate::plugins::discover::{Found, load};
use crate::plugins::{Place, PluginManager};
use crate::server::plugin_host;

/// What `photondb plugin test` takes.
#[derive(Debug, Args)]
pub(super) struct Test {
    /// The plugin's folder, or the executable or the plugin.toml in it
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// A photondb.toml with settings and grants for it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Values that its functions or types take, one JSON value a line, to be tried beside others
    #[arg(long, value_name = "FILE")]
    samples: Option<PathBuf>,
}

impl Test {
    /// Runs the test.
    ///
    /// # Errors
    /// There is no plugin there, or it does not start.
    pub(super) fn run(self, json: bool, output: &mut impl Write) -> anyhow::Result<ExitCode> {
        let (folder, manifest) = find(&self.path)?;
        let samples = self.samples.as_deref().map(read_samples).transpose()?.unwrap_or_default();
        let place = tempfile::tempdir().context("making a directory for it")?;
        let plugins = place.path().join("plugins");
        let name = &manifest.plugin.name;
        fs::create_dir(&plugins).and_then(|()| symlink(&folder, plugins.join(name))).context("installing it")?;
        let data = place.path().join("data");
        let mut config = Config::load(&Flags {
            config: self.config,
            data: Some(data.clone()),
            plugin_dirs: vec![plugins],
            ..Flags::default()
        })?;
        config.plugins.enabled.insert(name.clone(), true);
        grant(config.plugins.grants.entry(name.clone()).or_default(), &manifest);
        fs::create_dir_all(&data).context("making a data directory")?;
        // A failed check panics, and is told of as what it is.
        std::panic::set_hook(Box::new(|_| {}));
        let runtime = tokio::runtime::Runtime::new()?;
        let place = Place { host: plugin_host()?, data: data.clone(), ports: Vec::new() };
        let manager = runtime.block_on(PluginManager::start(place, config.plugins, config.sandbox))?;
        let code = test(&manager, name, &data, samples, json, output);
        runtime.block_on(manager.shutdown());
        code
    }
}

fn test(
    manager: &PluginManager,
    name: &str,
    data: &Path,
    samples: Vec<Datum>,
    json: bool,
    output: &mut impl Write,
) -> anyhow::Result<ExitCode> {
    let subject = Subject::new(manager, name, data, samples).map_err(anyhow::Error::msg)?;
    let watched = stderr().is_terminal() && !json;
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut written = Ok(());
    subject.run(&mut |outcome| {
        if json && written.is_ok() {
            written = writeln!(output, "{}", json!(outcome));
        }
        if watched {
            eprint!("\r\x1b[K{} checks; {}: {}", outcomes.len() + 1, outcome.part, outcome.check);
        }
        outcomes.push(outcome);
    });
    written?;
    if watched {
        eprint!("\r\x1b[K");
    }
    let failed = outcomes.iter().filter(|outcome| outcome.failure.is_some()).count();
    if !json {
        write!(output, "{}", table(&outcomes))?;
        for outcome in &outcomes {
            if let Some(failure) = &outcome.failure {
                writeln!(output, "\n{}: {}:\n    {failure}", outcome.part, outcome.check)?;
            }
        }
        let skipped = outcomes.iter().filter(|outcome| outcome.skipped.is_some()).count();
        writeln!(output, "\n{name}: {} checks, {failed} failed, {skipped} skipped", outcomes.len())?;
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn table(outcomes: &[Outcome]) -> Table<4> {
    let headings = [("PART", Align::Left), ("CHECK", Align::Left), ("SECONDS", Align::Right), ("OUTCOME", Align::Left)];
    let mut table = Table::new(headings);
    for outcome in outcomes {
        let word = match outcome {
            Outcome { failure: Some(_), .. } => "FAILED".to_owned(),
            Outcome { skipped: Some(why), .. } => format!("skipped: {why}"),
            _ => "ok".to_owned(),
        };
        table.row([outcome.part.clone(), outcome.check.clone(), format!("{:.2}", outcome.seconds), word]);
    }
    table
}

/// The folder of a plugin, and its manifest.
fn find(path: &Path) -> anyhow::Result<(PathBuf, Manifest)> {
    let path = fs::canonicalize(path).with_context(|| format!("{} can't be found", path.display()))?;
    let folder = if path.is_dir() { path.as_path() } else { path.parent().unwrap_or(&path) };
    match load(folder) {
        Found::Package(package) => Ok((folder.to_owned(), package.manifest)),
        Found::Broken { reason, .. } | Found::Ignored { reason, .. } => {
            bail!("{} is no plugin that can be tested: {reason}", folder.display())
        }
    }
}

/// Grants what the manifest declares and what harms nobody: the test is not of an operator's grants.
fn grant(grant: &mut Grant, manifest: &Manifest) {
    let declared = &manifest.permissions;
    grant.memory = grant.memory.or(Some(declared.memory.as_u64()));
    grant.threads = grant.threads.or(Some(u32::from(declared.threads)));
    grant.state |= declared.state;
}

fn read_samples(path: &Path) -> anyhow::Result<Vec<Datum>> {
    let file = fs::File::open(path).with_context(|| format!("{} can't be read", path.display()))?;
    let mut samples = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line?;
        if !line.trim().is_empty() {
            let place = || format!("{}:{}", path.display(), number + 1);
            let value = serde_json::from_str(&line).with_context(place)?;
            samples.push(Datum::from_json(&value).with_context(place)?);
        }
    }
    Ok(samples)
}
