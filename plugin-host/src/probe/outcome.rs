//! What became of an attempt, and what stopped it.

use std::fmt;

use nix::sys::signal::Signal;
use photondb_sandbox_profiles::layers::{Layer, Report};
use photondb_sandbox_profiles::seccomp::{Instruction, Listener, Regions};
use photondb_sandbox_profiles::syscalls::{self, Arch};
use photondb_sandbox_profiles::verdict::{Call, Verdict as Answer, verdict};
use photondb_sandbox_profiles::{Confinement, KernelFeatures, Permissions, Profiles};
use serde::{Deserialize, Serialize};

use super::attempt::Attempt;
use super::run::{End, Run};

/// In place of a host's token: no probe guesses it, since it tries 0 and 1 alone.
const NO_TOKEN: u64 = 0x5EED_0000_5EED_0001;

/// What stopped an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wall {
    /// The system call filter.
    Seccomp,
    /// Landlock: a file, a signal or a process outside its domain.
    Landlock,
    /// A namespace: there is no such file, process or network there.
    Namespace,
    /// A user of its own.
    Uid,
    /// A resource limit.
    Rlimit,
    /// The seals of a shared region, or that it is mapped for reading only.
    Seal,
    /// What the host leaves open and passes on: nothing.
    Descriptors,
    /// The supervisor, who counts threads and looks at the clock.
    Watchdog,
    /// The kernel's own rules for a process without rights.
    Kernel,
}

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Seccomp => "seccomp",
            Self::Landlock => "landlock",
            Self::Namespace => "namespace",
            Self::Uid => "uid",
            Self::Rlimit => "rlimit",
            Self::Seal => "seal",
            Self::Descriptors => "descriptors",
            Self::Watchdog => "watchdog",
            Self::Kernel => "kernel",
        })
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It was stopped.
    Blocked,
    /// It was not, and the profile or a permission says that it need not be: more than the strict profile gives.
    Granted,
    /// It was not: a hole.
    Succeeded,
    /// The probe did not say. Not to be taken for blocked.
    Unclear,
}

/// The result of one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The attempt's id.
    pub id: String,
    /// What was tried.
    pub name: String,
    /// How it ended.
    pub verdict: Verdict,
    /// What stopped it, where something did.
    pub layer: Option<Wall>,
    /// How that was seen: `stopped at openat`, `mmap: EPERM`, ...
    pub detail: String,
}

/// Judges the runs of one confinement.
#[derive(Debug)]
pub struct Judge {
    arch: Arch,
    filter: Vec<Instruction>,
    strict: Vec<Instruction>,
    paths: Vec<std::path::PathBuf>,
}

/// What the probe's own words say.
enum Said {
    /// The last call that it tells of: which line, with what result.
    Call {
        line: usize,
        result: i64,
        number: i64,
        arguments: [u64; 6],
    },
    Found(String),
    Nothing(String),
}

impl Judge {
    /// `None`: an architecture without a filter, where no plugin runs.
    #[must_use]
    pub fn new(confinement: &Confinement, kernel: &KernelFeatures) -> Option<Self> {
        let arch = kernel.arch?;
        let strict = Profiles::builtin().resolve("strict", &Permissions::default()).ok()?;
        // Only the filter is of interest, so it does not matter whether there is a Landlock to plan for.
        let strict = strict.compile(&KernelFeatures { landlock_abi: 1, ..kernel.clone() }).ok()?;
        let finish =
            |confinement: &Confinement| confinement.seccomp.finish(0, NO_TOKEN, Regions::Inherited, Listener::Present);
        let rules = confinement.landlock.iter().flat_map(|plan| &plan.rules);
        Some(Self {
            arch,
            filter: finish(confinement),
            strict: finish(&strict),
            paths: rules.map(|rule| rule.path.clone()).collect(),
        })
    }

    /// What became of `attempt`.
    #[must_use]
    pub fn judge(&self, attempt: &Attempt, run: &Run) -> Outcome {
        let (verdict, layer, detail) = self.look(attempt, run);
        Outcome { id: attempt.id.to_owned(), name: attempt.name.to_owned(), verdict, layer, detail }
    }

    fn look(&self, attempt: &Attempt, run: &Run) -> (Verdict, Option<Wall>, String) {
        let blocked = |wall, detail| (Verdict::Blocked, Some(wall), detail);
        if let Some(call) = &run.stopped {
            return blocked(Wall::Seccomp, format!("stopped at {call}"));
        }
        match run.end {
            End::Signaled(Signal::SIGSYS) => return blocked(Wall::Seccomp, "killed by SIGSYS".to_owned()),
            End::Signaled(Signal::SIGXFSZ) => return blocked(Wall::Rlimit, "killed by SIGXFSZ".to_owned()),
            End::Signaled(Signal::SIGSEGV) if attempt.is_deed() => {
                return blocked(attempt.behind, "killed by SIGSEGV".to_owned());
            }
            End::TooManyThreads(count) => return blocked(Wall::Watchdog, format!("killed with {count} threads")),
            End::Signaled(signal) => return unclear(format!("the probe died of {signal}: {}", run.error_line())),
            End::TimedOut => return unclear("the probe did not end".to_owned()),
            End::Exited(_) => {}
        }
        match said(&run.output) {
            Some(Said::Nothing(text)) => blocked(attempt.behind, text),
            Some(Said::Found(text)) => (Verdict::Succeeded, None, text),
            Some(Said::Call { line, result, number, arguments }) => {
                let name = self.name(number);
                let errno = (-4095..0).contains(&result).then(|| i32::try_from(-result).unwrap_or(0));
                let shown = |errno| format!("{name}: {}", errno_name(errno));
                match errno {
                    None if line + 1 < attempt.steps() => unclear(format!("the probe ended after {name}")),
                    None => self.success(attempt, number, arguments, format!("{name} answered {result}")),
                    Some(errno) if line + 1 >= attempt.steps() && attempt.reached.contains(&errno) => {
                        self.success(attempt, number, arguments, shown(errno))
                    }
                    Some(errno) => blocked(self.wall(attempt, &run.report, number, arguments, errno), shown(errno)),
                }
            }
            // It was executed over, or ended without a word.
            None if attempt.steps() > 0 && run.end == End::Exited(0) && !attempt.is_deed() => {
                (Verdict::Succeeded, None, "the probe became another program".to_owned())
            }
            None => unclear(format!("the probe said nothing: {}", run.error_line())),
        }
    }

    /// A hole, unless the profile openly gives this.
    fn success(
        &self,
        attempt: &Attempt,
        number: i64,
        arguments: [u64; 6],
        detail: String,
    ) -> (Verdict, Option<Wall>, String) {
        let strict_refuses = !matches!(self.answer(&self.strict, number, arguments), Answer::Allow);
        let is_given = match attempt.behind {
            // Nothing else would stop it: who is given the call is given what it does.
            Wall::Seccomp => strict_refuses,
            Wall::Landlock => attempt
                .path()
                .is_some_and(|path| self.paths.iter().any(|given| std::path::Path::new(path).starts_with(given))),
            _ => false,
        };
        (if is_given { Verdict::Granted } else { Verdict::Succeeded }, None, detail)
    }

    /// Who answered with `errno`: the filter, if its program says so, or something behind it.
    fn wall(&self, attempt: &Attempt, report: &Report, number: i64, arguments: [u64; 6], errno: i32) -> Wall {
        let answer = self.answer(&self.filter, number, arguments);
        if answer == Answer::Errno(errno.unsigned_abs()) {
            return Wall::Seccomp;
        }
        // Without a listener, or with one that refuses and lets go on.
        if answer == Answer::Stop && errno == libc::EPERM {
            return Wall::Seccomp;
        }
        match errno {
            libc::ENOENT | libc::ENOTDIR if report.has(Layer::MountNamespace) => Wall::Namespace,
            libc::ESRCH if attempt.behind != Wall::Seccomp => Wall::Namespace,
            libc::ENETUNREACH => Wall::Namespace,
            libc::EACCES if attempt.behind == Wall::Seal => Wall::Seal,
            libc::EACCES if report.has(Layer::Landlock) => Wall::Landlock,
            libc::EMFILE | libc::ENOMEM | libc::EAGAIN | libc::EFBIG => Wall::Rlimit,
            libc::EPERM if attempt.behind != Wall::Seccomp => attempt.behind,
            _ => Wall::Kernel,
        }
    }

    fn answer(&self, filter: &[Instruction], number: i64, arguments: [u64; 6]) -> Answer {
        // The kernel looks at the lower half of the number's register.
        let number = (number & 0xFFFF_FFFF) as u32;
        verdict(filter, &Call { arch: self.arch.audit(), number, args: arguments })
    }

    fn name(&self, number: i64) -> String {
        i32::try_from(number)
            .map_or_else(|_| format!("call {number}"), |number| syscalls::describe(self.arch.audit(), number))
    }
}

fn unclear(detail: String) -> (Verdict, Option<Wall>, String) {
    (Verdict::Unclear, None, detail)
}

/// The last thing that the probe said; what tidies up after success does not count.
fn said(output: &str) -> Option<Said> {
    let line = output.lines().rfind(|line| !line.is_empty())?;
    if let Some(text) = line.strip_prefix("found ") {
        return Some(Said::Found(text.to_owned()));
    }
    if let Some(text) = line.strip_prefix("nothing ") {
        return Some(Said::Nothing(format!("nothing {text}")));
    }
    let mut words = line.strip_prefix("call ")?.split(' ');
    let (line, result, number) =
        (words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    let mut arguments = [0; 6];
    for argument in &mut arguments {
        *argument = words.next()?.parse().ok()?;
    }
    Some(Said::Call { line, result, number, arguments })
}

/// `EPERM`, or the number.
fn errno_name(errno: i32) -> String {
    match nix::errno::Errno::from_raw(errno) {
        nix::errno::Errno::UnknownErrno => format!("errno {errno}"),
        known => format!("{known:?}"),
    }
}
