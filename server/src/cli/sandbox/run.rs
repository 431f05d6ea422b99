//! `photondb sandbox run` and `learn`: any program in the sandbox of any profile.

use std::collections::{BTreeMap, HashSet};
use std::io::{Write, stderr};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus};

use bytesize::ByteSize;
use clap::Args;
use photondb_plugin_host::judge::RefusedBy;
use photondb_plugin_host::{Command, CommandError, DeniedCall};
use photondb_sandbox_profiles::profile::Access;
use photondb_sandbox_profiles::{KernelFeatures, Permissions, Profiles, Report, ResolvedProfile};
use serde::Serialize;
use serde_json::json;

use super::advice::{Advice, Advisor, quoted};
use super::program::Program;
use super::{Source, absolute, host};
use crate::cli::table::{Align, Table};

/// Threads that a command may have, where the kernel counts them.
const THREADS: u32 = 64;
/// What a command gets without `--memory`.
const MEMORY: ByteSize = ByteSize::gib(1);
/// Of the calls that a command was refused, so many different ones are told.
const MAX_TOLD: usize = 10;

/// Runs a command in the sandbox of a profile, with or without a server
///
/// The command may use what the profile allows, and the files that are named here: nothing else. Its input, output and
/// exit status are those of this command (128 + N when signal N ended it); of the environment it gets only what `--env`
/// names. It starts in this directory, of which it sees no more than it was given. A line on standard error tells of each
/// file, socket or process that it was refused, and what would allow it; a call that no honest program makes ends it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    photondb sandbox run --profile strict -- ./any-static-program\n  \
    photondb sandbox run --profile dynamic --read script.py --read ./data -- python3 script.py\n  \
    photondb sandbox run --profile dynamic --write ./out --memory 4GiB --verbose -- ./program")]
pub(super) struct Run {
    #[command(flatten)]
    what: What,
    /// Say on standard error which layers are in force, and the grade
    #[arg(long)]
    verbose: bool,
    /// The same, and what was refused, as one JSON object a line
    #[arg(long)]
    json: bool,
    /// Don't tell what was refused
    #[arg(long, conflicts_with_all = ["verbose", "json"])]
    quiet: bool,
}

/// Runs a command NEARLY UNCONFINED, and lists which of its calls a profile would refuse and what would allow each
///
/// Every call of the command is let through, with your own rights: learn only from programs that you trust. The list
/// comes on standard error after the command has ended; its input, output and exit status are those of this command.
#[derive(Debug, Args)]
pub(super) struct Learn {
    #[command(flatten)]
    what: What,
    /// The list as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct What {
    /// The profile: strict (static programs), dynamic, interpreter, jit, gpu, or one of your own
    #[arg(long, value_name = "NAME")]
    profile: String,
    /// A file or directory that it may read; may be given several times
    #[arg(long, value_name = "PATH")]
    read: Vec<PathBuf>,
    /// A file or directory that it may read and write; may be given several times
    #[arg(long, value_name = "PATH")]
    write: Vec<PathBuf>,
    /// Private memory that it may have, as 512MiB
    #[arg(long, value_name = "SIZE", default_value_t = MEMORY)]
    memory: ByteSize,
    /// A variable that it gets: NAME for its value here, or NAME=VALUE; may be given several times
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    #[command(flatten)]
    source: Source,
    /// The command and its arguments, after `--`
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// What is to be run, found and resolved.
struct Plan {
    profiles: Profiles,
    resolved: ResolvedProfile,
    program: Program,
}

impl What {
    /// `Err`: there is no such program; said already, and the status to exit with.
    fn plan(&self) -> anyhow::Result<Result<Plan, ExitCode>> {
        let program = match Program::find(&self.command) {
            Ok(program) => program,
            Err(none) => {
                eprintln!("photondb: {none}");
                return Ok(Err(ExitCode::from(none.status)));
            }
        };
        let profiles = self.source.load()?;
        let paths = |paths: &[PathBuf]| paths.iter().map(|path| absolute(path)).collect::<anyhow::Result<Vec<_>>>();
        let mut read = paths(&self.read)?;
        read.extend(program.script.clone());
        let memory_bytes = self.memory.as_u64();
        let permissions =
            Permissions { memory_bytes, threads: THREADS, read, write: paths(&self.write)?, ..Permissions::default() };
        let resolved = profiles.resolve(&self.profile, &permissions)?;
        Ok(Ok(Plan { profiles, resolved, program }))
    }

    /// The environment, and the directory to start in.
    fn finish(&self, mut command: Command) -> Command {
        for variable in &self.env {
            match variable.split_once('=') {
                Some((name, value)) => command = command.env(name, value),
                // Not set here: nothing to pass on.
                None => {
                    if let Ok(value) = std::env::var(variable) {
                        command = command.env(variable, &value);
                    }
                }
            }
        }
        match std::env::current_dir() {
            Ok(directory) => command.current_dir(&directory),
            Err(_) => command,
        }
    }
}

impl Run {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Plan { profiles, resolved, program } = match self.what.plan()? {
            Ok(plan) => plan,
            Err(code) => return Ok(code),
        };
        let kernel = KernelFeatures::probe();
        let command = Command::new(&program.executable, &program.arguments, &resolved, &kernel)?;
        let running = match self.what.finish(command).spawn(&host()?) {
            Ok(running) => running,
            Err(error) => return self.refused(error, &program.executable),
        };
        if self.verbose || self.json {
            self.tell(running.report());
        }
        let advisor = Advisor::new(&profiles, &self.what.profile);
        let mut told = HashSet::new();
        let ended = running.wait(|refused| {
            if !refused.is_habit && told.len() <= MAX_TOLD && told.insert(refused.call.to_string()) {
                match told.len() <= MAX_TOLD {
                    true => self.tell_of(Refusal::Refused, &refused.call, &advisor.on_refused(&refused)),
                    false => self.tell_of_more(),
                }
            }
        })?;
        if let Some(call) = &ended.denied {
            self.tell_of(Refusal::Stopped, call, &advisor.on(call));
        }
        Ok(code(ended.status))
    }

    /// The command did not start: the reason, and 126, as shells say it.
    fn refused(&self, error: CommandError, executable: &Path) -> anyhow::Result<ExitCode> {
        let CommandError::Refused(reason) = &error else { return Err(error.into()) };
        eprintln!("photondb: {} was not run: {reason}", executable.display());
        Ok(ExitCode::from(126))
    }

    fn tell(&self, report: &Report) {
        let grade = report.grade();
        if self.json {
            let shown = json!({
                "profile": report.profile,
                "grade": grade.to_string(),
                "grade_reasons": grade.reasons,
                "enforced": report.enforced,
                "missing": report.missing,
            });
            return say(&shown.to_string());
        }
        say(&format!("photondb: profile {}, grade {grade}", report.profile));
        for layer in &report.enforced {
            say(&format!("photondb:   {}: {}", layer.layer, layer.detail));
        }
        for layer in &report.missing {
            say(&format!("photondb:   without {}: {}", layer.layer, layer.detail));
        }
        for reason in grade.reasons {
            say(&format!("photondb:   {reason}"));
        }
    }

    fn tell_of(&self, refusal: Refusal, call: &DeniedCall, advice: &Advice) {
        let profile = &self.what.profile;
        let refusal = match refusal {
            _ if self.quiet => return,
            Refusal::Refused => "refused",
            Refusal::Stopped => "stopped",
        };
        if self.json {
            let shown = json!({
                refusal: { "call": call.name, "number": call.syscall, "path": call.path, "arguments": call.args },
                "profile": profile,
                "allow": advice.to_string(),
            });
            return say(&shown.to_string());
        }
        say(&format!("photondb: the profile `{profile}` {refusal} {call}; what would allow it: {advice}"));
    }

    fn tell_of_more(&self) {
        if !self.quiet && !self.json {
            say("photondb: more was refused; `photondb sandbox learn` lists it all");
        }
    }
}

/// What became of a call.
#[derive(Clone, Copy, Debug)]
enum Refusal {
    /// It got an errno.
    Refused,
    /// It ended the command.
    Stopped,
}

/// Something that a profile would have refused, however often.
#[derive(Debug, Serialize)]
struct Learned {
    call: String,
    path: Option<String>,
    /// `seccomp` or `landlock`.
    refused_by: &'static str,
    times: u64,
    allow: String,
    #[serde(skip)]
    advice: Advice,
}

impl Learn {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let Plan { profiles, resolved, program } = match self.what.plan()? {
            Ok(plan) => plan,
            Err(code) => return Ok(code),
        };
        let kernel = KernelFeatures::probe();
        let command = Command::learning(&program.executable, &program.arguments, &resolved, &kernel)?;
        let running = self.what.finish(command).spawn(&host()?)?;
        let advisor = Advisor::new(&profiles, &self.what.profile);
        let mut learned: BTreeMap<(String, Option<String>, String), Learned> = BTreeMap::new();
        let status = running.learn(|seen| {
            let advice = advisor.on_refused(&seen);
            let refused_by = match seen.refused_by {
                RefusedBy::Seccomp(_) => "seccomp",
                RefusedBy::Landlock(_) => "landlock",
            };
            let (call, path) = (seen.call.name, seen.call.path);
            let key = (call.clone(), path.clone(), advice.to_string());
            let new = Learned { call, path, refused_by, times: 0, allow: advice.to_string(), advice };
            learned.entry(key).or_insert(new).times += 1;
        })?;
        self.tell(learned.into_values().collect())?;
        Ok(code(status))
    }

    fn tell(&self, learned: Vec<Learned>) -> anyhow::Result<()> {
        let needed = self.command_line(&learned);
        let mut output = stderr().lock();
        if self.json {
            let shown = json!({ "profile": self.what.profile, "refused": learned, "command_line": needed });
            writeln!(output, "{shown}")?;
            return Ok(());
        }
        if learned.is_empty() {
            writeln!(output, "photondb: the profile `{}` would refuse nothing of it", self.what.profile)?;
            return Ok(());
        }
        let mut table = Table::new([
            ("CALL", Align::Left),
            ("TIMES", Align::Right),
            ("REFUSED BY", Align::Left),
            ("PATH", Align::Left),
            ("WHAT WOULD ALLOW IT", Align::Left),
        ]);
        for row in learned {
            let path = row.path.unwrap_or_else(|| "-".into());
            table.row([row.call, row.times.to_string(), row.refused_by.into(), path, row.allow]);
        }
        write!(output, "photondb: the profile `{}` would refuse:\n{table}", self.what.profile)?;
        if let Some(needed) = needed {
            writeln!(output, "photondb: with all of this: {needed}")?;
        }
        Ok(())
    }

    /// One command line that has every option which was advised; `None` where options are not enough.
    fn command_line(&self, learned: &[Learned]) -> Option<String> {
        let advices = learned.iter().map(|learned| &learned.advice);
        let profile = Advice::strongest(advices.clone()).unwrap_or(&self.what.profile);
        let mut line = format!("photondb sandbox run --profile {profile}");
        for (option, access) in [("--write", Access::Write), ("--read", Access::Read)] {
            let given = if access == Access::Write { &self.what.write } else { &self.what.read };
            let mut paths: Vec<PathBuf> = given.iter().filter_map(|path| absolute(path).ok()).collect();
            let advised = advices.clone().filter_map(|advice| advice.file(access));
            // What is not there was looked for in vain, and can be again.
            paths.extend(advised.filter(|path| path.exists()).map(Path::to_owned));
            paths.sort();
            paths.dedup();
            for path in paths {
                line += &format!(" {option} {}", quoted(&path.display().to_string()));
            }
        }
        if self.what.memory != MEMORY {
            line += &format!(" --memory {}B", self.what.memory.as_u64());
        }
        for variable in &self.what.env {
            line += &format!(" --env {}", quoted(variable));
        }
        if let Some(directory) = &self.what.source.profiles {
            line += &format!(" --profiles {}", quoted(&directory.display().to_string()));
        }
        line += " --";
        for word in &self.what.command {
            line += &format!(" {}", quoted(word));
        }
        learned.iter().all(|learned| learned.advice.is_option()).then_some(line)
    }
}

/// A line on standard error. That nobody reads it is no reason to fail.
fn say(line: &str) {
    // At once, so that it stays one line between those of the command.
    let _ = stderr().write_all(format!("{line}\n").as_bytes());
}

fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
