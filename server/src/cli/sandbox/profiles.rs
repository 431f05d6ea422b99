//! `photondb sandbox profiles` and `show`.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use photondb_sandbox_profiles::landlock::PathRule;
use photondb_sandbox_profiles::layers::Letter;
use photondb_sandbox_profiles::limits::{Limit, Resource};
use photondb_sandbox_profiles::profile::{Access, Answer, GradeCap, Namespace};
use photondb_sandbox_profiles::syscalls::Arch;
use photondb_sandbox_profiles::{
    CallDescription, KernelFeatures, Permissions, Profiles, ResolvedProfile, StateDirectory,
};
use serde::Serialize;

use super::Source;
use crate::cli::table::{Align, Table};

/// Lists the profiles: what each is for, how much it allows, how it is graded
#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    source: Source,
    /// One JSON object a line instead of a table
    #[arg(long)]
    json: bool,
}

/// Shows all that a profile allows: calls with their reasons and rules, files, limits, namespaces
///
/// What is not listed is refused.
#[derive(Debug, Args)]
pub(super) struct Show {
    /// The profile
    name: String,
    /// Adds what this permission adds; may be given several times
    #[arg(long, value_name = "NAME")]
    permission: Vec<Permission>,
    #[command(flatten)]
    source: Source,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// A permission that adds to a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Permission {
    /// A directory of its own
    State,
    /// Connections that the server makes for it
    Connect,
}

/// A profile with what it extends and the permissions that were asked for.
#[derive(Debug, Serialize)]
struct Summary {
    name: String,
    summary: String,
    extends: Option<String>,
    /// Calls that are let through, the two of the host included.
    calls: usize,
    /// Those with rules for their arguments.
    conditional_calls: usize,
    instructions: usize,
    /// The best grade that it can have.
    grade: Letter,
    grade_reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct Everything {
    #[serde(flatten)]
    summary: Summary,
    allowed: Vec<CallDescription>,
    files: Vec<PathRule>,
    excused: Vec<String>,
    limits: Vec<Limit>,
    threads_max: u64,
    namespaces: Vec<Namespace>,
}

impl List {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let profiles = self.source.load()?;
        let mut output = io::stdout().lock();
        let mut table = Table::new([
            ("NAME", Align::Left),
            ("CALLS", Align::Right),
            ("WITH RULES", Align::Right),
            ("GRADE", Align::Left),
            ("EXTENDS", Align::Left),
            ("FOR", Align::Left),
        ]);
        for name in profiles.names() {
            let resolved = profiles.resolve(name, &Permissions::default())?;
            let summary = Summary::of(&profiles, &resolved)?;
            if self.json {
                writeln!(output, "{}", serde_json::to_string(&summary)?)?;
                continue;
            }
            table.row([
                summary.name,
                summary.calls.to_string(),
                summary.conditional_calls.to_string(),
                summary.grade.to_string(),
                summary.extends.unwrap_or_else(|| "-".into()),
                summary.summary,
            ]);
        }
        if !self.json {
            write!(output, "{table}")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Show {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let profiles = self.source.load()?;
        let permissions = Permissions {
            // Stands for the directory that each plugin has.
            state: self.permission.contains(&Permission::State).then(|| StateDirectory {
                path: PathBuf::from("/DATA/plugins/NAME/state"),
                bytes: 1 << 30,
                files: 10_000,
            }),
            connect: self.permission.contains(&Permission::Connect),
            ..Permissions::default()
        };
        let resolved = profiles.resolve(&self.name, &permissions)?;
        let everything = Everything::of(&profiles, &resolved)?;
        let mut output = io::stdout().lock();
        if self.json {
            writeln!(output, "{}", serde_json::to_string(&everything)?)?;
        } else {
            everything.print(&mut output)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// A machine with everything, so that a profile can be shown on one without.
fn any_kernel() -> KernelFeatures {
    let kernel = KernelFeatures::probe();
    KernelFeatures { landlock_abi: kernel.landlock_abi.max(7), seccomp_actions: Vec::new(), ..kernel }
}

impl Summary {
    fn of(profiles: &Profiles, resolved: &ResolvedProfile) -> anyhow::Result<Self> {
        let confinement = resolved.compile(&any_kernel())?;
        let written = profiles.get(resolved.name());
        let (grade, grade_reason) = match confinement.grade {
            Some(GradeCap { at_most, why }) => (at_most, Some(why)),
            None => (Letter::A, None),
        };
        Ok(Self {
            name: resolved.name().to_owned(),
            summary: written.map(|profile| profile.summary.clone()).unwrap_or_default(),
            extends: written.and_then(|profile| profile.extends.clone()),
            calls: resolved.allowed_calls().len(),
            conditional_calls: resolved.conditional_calls(),
            instructions: confinement.seccomp.len(),
            grade,
            grade_reason,
        })
    }
}

impl Everything {
    fn of(profiles: &Profiles, resolved: &ResolvedProfile) -> anyhow::Result<Self> {
        let confinement = resolved.compile(&any_kernel())?;
        Ok(Self {
            summary: Summary::of(profiles, resolved)?,
            allowed: Arch::current().map(|arch| resolved.describe_calls(arch)).unwrap_or_default(),
            files: confinement.landlock.map(|plan| plan.rules).unwrap_or_default(),
            excused: confinement.excused,
            limits: confinement.limits,
            threads_max: confinement.threads_max,
            namespaces: confinement.namespaces,
        })
    }

    fn print(&self, output: &mut impl Write) -> io::Result<()> {
        let summary = &self.summary;
        writeln!(output, "{}: {}", summary.name, summary.summary)?;
        if let Some(parent) = &summary.extends {
            writeln!(output, "extends {parent}")?;
        }
        let reason = summary.grade_reason.as_ref().map(|reason| format!(", because: {reason}")).unwrap_or_default();
        writeln!(output, "best grade {}{reason}", summary.grade)?;
        writeln!(
            output,
            "{} calls, {} of them with rules for their arguments; {} instructions",
            summary.calls, summary.conditional_calls, summary.instructions
        )?;
        for call in &self.allowed {
            writeln!(output, "\n{}: {}", call.name, call.why)?;
            for (index, alternative) in call.when.iter().enumerate() {
                writeln!(output, "    {} {alternative}", if index == 0 { "if" } else { "or" })?;
            }
            if !call.when.is_empty() {
                writeln!(output, "    else {}", answer(call.otherwise))?;
            }
        }
        writeln!(output, "\nfiles: {}", if self.files.is_empty() { "none" } else { "only these" })?;
        for rule in &self.files {
            writeln!(output, "    {}: {}", access(rule.access), rule.path.display())?;
        }
        if !self.excused.is_empty() {
            writeln!(output, "opening these is refused without a stop: {}", self.excused.join(", "))?;
        }
        writeln!(output, "limits, with the permissions that every plugin has:")?;
        for limit in &self.limits {
            writeln!(output, "    {}", self::limit(*limit))?;
        }
        writeln!(output, "    threads: {}", self.threads_max)?;
        let namespaces = self.namespaces.iter().map(|namespace| format!("{namespace:?}").to_lowercase());
        writeln!(output, "namespaces: {}", namespaces.collect::<Vec<_>>().join(", "))
    }
}

fn answer(answer: Answer) -> &'static str {
    match answer {
        Answer::Stop => "it is stopped, and named",
        Answer::Kill => "it is killed",
        Answer::Eperm => "EPERM",
        Answer::Enosys => "ENOSYS",
    }
}

fn access(access: Access) -> &'static str {
    match access {
        Access::Read => "read",
        Access::Execute => "read, map executable",
        Access::Write => "read, write",
        Access::Device => "read, write, ioctl",
    }
}

/// A limit in words.
pub(in crate::cli) fn limit(limit: Limit) -> String {
    let bytes = |name: &str| format!("{name}: {}", ByteSize::b(limit.value));
    match limit.resource {
        Resource::Data => bytes("private memory"),
        Resource::AddressSpace => bytes("address space"),
        Resource::FileSize => bytes("size of files"),
        Resource::Core => bytes("core dump"),
        Resource::Stack => bytes("stack"),
        Resource::LockedMemory => bytes("locked memory"),
        Resource::MessageQueue => bytes("message queues"),
        Resource::OpenFiles => format!("open descriptors: {}", limit.value),
        Resource::RealtimePriority => format!("real-time priority: {}", limit.value),
    }
}
