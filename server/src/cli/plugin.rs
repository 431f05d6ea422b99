//! `photondb plugin`: asks a running server over its local socket.

use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use bytesize::ByteSize;
use clap::{Args, Subcommand};
use interprocess::local_socket::{GenericFilePath, Stream, prelude::*};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::table::{Align, Table};
use super::{audit, conformance, permissions};
use crate::admin::protocol::{Reply, Request, SOCKET_NAME};
use crate::admin::status::{GrantedPermissions, LogLine, PluginStatus};

/// Shows and steers the plugins of a running server
#[derive(Debug, Args)]
pub struct Plugin {
    #[command(subcommand)]
    action: Action,
    /// The data directory of the server
    #[arg(long, value_name = "DIR", default_value = "data", global = true)]
    data: PathBuf,
    /// One JSON object a line instead of text
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Every plugin: its state, and what it does and costs
    List,
    /// Everything about one plugin
    Info {
        /// The plugin
        name: String,
    },
    /// What a plugin declares, what it was granted, what it has of that, and what the kernel enforces
    Permissions {
        /// The plugin
        name: String,
    },
    /// Attacks a plugin's own confinement with a battery of attempts, and says what each layer stopped
    ///
    /// The attempts run beside the plugin, which goes on undisturbed. Exits with 1 if anything got through.
    Audit {
        /// The plugin
        name: String,
    },
    /// Tests a plugin: what it provides has to keep to what users and the server rely on. No server is needed
    ///
    /// Runs it in its sandbox, in a data directory of its own, with the permissions that its manifest declares, but without
    /// connections, queries and metrics unless --config grants them. Exits with 1 if a check failed.
    Test(conformance::Test),
    /// Starts a plugin that is disabled, failed or refused; [plugins.enabled] decides when the server starts again
    Enable {
        /// The plugin
        name: String,
    },
    /// Stops a plugin, and leaves it stopped
    Disable {
        /// The plugin
        name: String,
    },
    /// Replaces a running plugin by the version on disk, without a failing query
    Reload {
        /// The plugin
        name: String,
    },
    /// Stops a plugin until it is used again
    Unload {
        /// The plugin
        name: String,
        /// Even if it stores tables, which are then unavailable until it is used again, or if vector indexes are of its
        /// kinds, which are then searched exactly
        #[arg(long)]
        force: bool,
    },
    /// What plugins logged and printed
    Logs {
        /// The plugin; all of them without it
        name: Option<String>,
        /// Stay, and show lines as they come
        #[arg(long)]
        follow: bool,
    },
}

impl Plugin {
    /// Runs the command.
    ///
    /// # Errors
    /// No server answers there, or it refused.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let mut output = io::stdout().lock();
        let request = match self.action {
            Action::Test(test) => return test.run(self.json, &mut output),
            Action::List => Request::PluginList,
            Action::Info { name } => Request::PluginInfo { name },
            Action::Permissions { name } => Request::PluginPermissions { name },
            Action::Audit { name } => Request::PluginAudit { name },
            Action::Enable { name } => Request::PluginEnable { name },
            Action::Disable { name } => Request::PluginDisable { name },
            Action::Reload { name } => Request::PluginReload { name },
            Action::Unload { name, force } => Request::PluginUnload { name, force },
            Action::Logs { name, follow } => Request::PluginLogs { name, follow },
        };
        let items = ask(&self.data, &request)?;
        if let Request::PluginAudit { .. } = request {
            return audit::show(items, self.json, &mut output);
        }
        if self.json {
            for item in items {
                writeln!(output, "{}", item?)?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        match request {
            Request::PluginList => write!(output, "{}", list(items)?)?,
            Request::PluginPermissions { .. } => write!(output, "{}", permissions::show(&only(items)?))?,
            Request::PluginInfo { .. } => write!(output, "{}", info(&only(items)?))?,
            Request::PluginLogs { .. } => {
                for item in items {
                    let line: LogLine = read(item?)?;
                    writeln!(output, "{} {} {}: {}", clock(line.time), line.plugin, line.source, line.text)?;
                }
            }
            _ => {
                let status: PluginStatus = only(items)?;
                writeln!(output, "{} {} is {}", status.name, status.version, status.state)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Sends `request` to the server of `data` and gives the items of its answer as they come.
fn ask(data: &Path, request: &Request) -> anyhow::Result<impl Iterator<Item = anyhow::Result<Value>>> {
    let path = data.join(SOCKET_NAME);
    let mut stream = path
        .as_path()
        .to_fs_name::<GenericFilePath>()
        .and_then(Stream::connect)
        .with_context(|| format!("no server answers at {}; name its data directory with --data", path.display()))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut lines = BufReader::new(stream).lines();
    let mut ended = false;
    Ok(std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let reply = lines.next().map(|line| Ok(serde_json::from_str::<Reply>(&line?)?));
        ended = !matches!(reply, Some(Ok(Reply::Item(_))));
        match reply {
            Some(Ok(Reply::Item(item))) => Some(Ok(item)),
            Some(Ok(Reply::Done)) => None,
            Some(Ok(Reply::Error(message))) => Some(Err(anyhow::Error::msg(message))),
            Some(Err(error)) => Some(Err(error)),
            None => Some(Err(anyhow::Error::msg("the server hung up before it had answered; see its log"))),
        }
    }))
}

pub(super) fn read<T: DeserializeOwned>(item: Value) -> anyhow::Result<T> {
    serde_json::from_value(item)
        .context("the server's answer cannot be read; server and command line must be of one version")
}

fn only<T: DeserializeOwned>(mut items: impl Iterator<Item = anyhow::Result<Value>>) -> anyhow::Result<T> {
    match items.next() {
        Some(item) => read(item?),
        None => bail!("the server answered without a status; server and command line must be of one version"),
    }
}

fn list(items: impl Iterator<Item = anyhow::Result<Value>>) -> anyhow::Result<Table<10>> {
    let mut table = Table::new([
        ("NAME", Align::Left),
        ("VERSION", Align::Left),
        ("STATE", Align::Left),
        ("GRADE", Align::Left),
        ("PID", Align::Right),
        ("MEMORY", Align::Right),
        ("CALLS", Align::Right),
        ("ERRORS", Align::Right),
        ("P99", Align::Right),
        ("RESTARTS", Align::Right),
    ]);
    for item in items {
        let status: PluginStatus = read(item?)?;
        table.row([
            status.name,
            status.version,
            status.state,
            status.grade.unwrap_or_else(|| "-".into()),
            or_dash(status.pid),
            or_dash(status.memory_bytes.map(ByteSize::b)),
            status.calls.to_string(),
            status.errors.to_string(),
            or_dash(status.p99_ms.map(|ms| format!("{ms:.2} ms"))),
            status.restarts.to_string(),
        ]);
    }
    Ok(table)
}

fn info(status: &PluginStatus) -> Table<2> {
    let mut table = Table::new([("plugin", Align::Left), (&status.name, Align::Left)]);
    let mut row = |name: &str, value: String| table.row([name.into(), value]);
    let granted = &status.permissions;
    row("version", status.version.clone());
    row("state", status.state.clone());
    if let Some(error) = &status.error {
        row("error", error.clone());
    }
    row("breaker", status.breaker.clone());
    row("provides", or_none(&status.provides, ", "));
    row("on failure", or_none(&status.on_failure, ", "));
    row("permissions", permissions(granted));
    row("grade", status.grade.clone().unwrap_or_else(|| "-".into()));
    row("not better because", or_none(&status.grade_reasons, "; "));
    row("layers", or_none(&status.layers, ", "));
    row("pid", or_dash(status.pid));
    row("memory", or_dash(status.memory_bytes.map(ByteSize::b)));
    row("threads", or_dash(status.threads));
    row("processor time", or_dash(status.cpu_seconds.map(|seconds| format!("{seconds:.1} s"))));
    row("restarts", format!("{}, {} in the last minute", status.restarts, status.restarts_in_last_minute));
    row("calls", format!("{}, {} of them failed", status.calls, status.errors));
    row("half are under", or_dash(status.p50_ms.map(|ms| format!("{ms:.3} ms"))));
    row("99 % are under", or_dash(status.p99_ms.map(|ms| format!("{ms:.3} ms"))));
    row("bytes shared", ByteSize::b(status.bytes_shared).to_string());
    row("bytes copied", ByteSize::b(status.bytes_copied).to_string());
    table
}

/// All that a plugin was granted, as an operator writes it.
fn permissions(granted: &GrantedPermissions) -> String {
    let mut parts = vec![
        format!("profile {}", granted.profile),
        format!("memory {}", ByteSize::b(granted.memory_bytes)),
        format!("threads {}", granted.threads),
    ];
    if let Some(state) = granted.state {
        parts.push(format!("state of {} and {} files", ByteSize::b(state.bytes), state.files));
    }
    for (name, list) in [("connect", &granted.connect), ("query", &granted.query)] {
        parts.extend(list.iter().map(|item| format!("{name} {item}")));
    }
    if granted.metrics {
        parts.push("metrics".into());
    }
    parts.join(", ")
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

fn or_none(values: &[String], separator: &str) -> String {
    if values.is_empty() { "-".into() } else { values.join(separator) }
}

/// The time of day (UTC) of a number of seconds since 1970.
fn clock(time: f64) -> String {
    let ms = (time * 1000.0).max(0.0) as u64 % 86_400_000;
    format!("{:02}:{:02}:{:02}.{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60, ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plugin_that_never_ran_is_listed_with_dashes() {
        let status = PluginStatus { name: "geo".into(), state: "refused".into(), ..PluginStatus::default() };
        let table = list([Ok(serde_json::to_value(&status).unwrap())].into_iter()).unwrap().to_string();
        let row: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(row, ["geo", "refused", "-", "-", "-", "0", "0", "-", "0"]);
        assert!(info(&status).to_string().contains("state"));
    }

    #[test]
    fn times_are_shown_to_the_millisecond() {
        assert_eq!(clock(86_400.0 * 3.0 + 3723.5), "01:02:03.500");
        assert_eq!(clock(-1.0), "00:00:00.000");
    }
}
