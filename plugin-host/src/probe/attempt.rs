//! An attack as data, and the script that it becomes.

use std::fmt::Write;

use photondb_sandbox_profiles::syscalls::Arch;

use super::outcome::Wall;
use super::program;

/// One thing that a hostile plugin would try.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// Letter and number of the attack's family, and which of that family: `A1a`.
    pub id: &'static str,
    /// What is tried, in a few words.
    pub name: &'static str,
    /// The calls. It has succeeded when all of them have.
    pub(super) steps: &'static [Step],
    /// What puts things right where it has succeeded.
    pub(super) tidy: &'static [Step],
    /// Errors of the last call with which the kernel did what was to be prevented, or would have done it had there been
    /// anything to do it to.
    pub(super) reached: &'static [i32],
    /// What else would stop it if the filter did not.
    pub(super) behind: Wall,
}

/// One part of an attempt.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// A system call by name. An attempt is left out where the architecture has none of that name.
    Call(&'static str, &'static [Argument]),
    /// A system call by number, whatever it means.
    Number(i64, &'static [Argument]),
    /// The same call again and again: it succeeds if none of so many is refused.
    Repeat(u32, &'static str, &'static [Argument]),
    /// Something that `program` knows how to do; alone in its attempt.
    Deed(&'static str),
    /// The same, with the number of threads that are allowed.
    DeedWithThreads(&'static str),
}

/// An argument of a call.
#[derive(Clone, Copy, Debug)]
pub enum Argument {
    /// A number.
    Is(i64),
    /// A pointer to this text; `SERVER` in it stands for the server's process id.
    Text(&'static str),
    /// A pointer to these words.
    Words(&'static [u64]),
    /// A pointer to so many zero bytes.
    Zeros(u32),
    /// The result of an earlier step.
    Result(u32),
    /// The server's process id, and something added to it.
    Server(i64),
    /// The negated process id: the group of processes.
    ServerGroup,
    /// The clock of the server's processor time.
    ServerClock,
    /// The probe's own process id.
    Own,
}

/// What attempts are directed against.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The server's process id.
    pub server: u32,
    /// The most threads that the plugin may have.
    pub threads: u64,
    /// The architecture.
    pub arch: Arch,
}

impl Attempt {
    /// What the probe is told; `None` where this architecture has no such call.
    pub fn script(&self, target: &Target) -> Option<String> {
        let mut script = String::from(program::PREFIX);
        match self.steps {
            [Step::Deed("int80")] if target.arch != Arch::x86_64 => return None,
            [Step::Deed(name)] => script += name,
            [Step::DeedWithThreads(name)] => {
                let _ = write!(script, "{name} {}", target.threads);
            }
            steps => {
                script += "chain";
                for step in steps {
                    script += "\n";
                    script += &step.line(target)?;
                }
                for step in self.tidy {
                    let _ = write!(script, "\n{}{}", program::TIDY, step.line(target)?);
                }
            }
        }
        Some(script)
    }

    /// Whether it takes as much as it can get, and so should not share a limit with anybody.
    #[must_use]
    pub fn is_exhausting(&self) -> bool {
        self.id.starts_with('G')
    }

    /// How many of the calls are the attempt itself.
    pub(super) fn steps(&self) -> usize {
        self.steps.len()
    }

    /// Whether all its steps are in the program's own words, and it says what it found.
    pub(super) fn is_deed(&self) -> bool {
        matches!(self.steps, [Step::Deed(_) | Step::DeedWithThreads(_)])
    }

    /// The path that it tries to open, if that is what it tries.
    pub(super) fn path(&self) -> Option<&'static str> {
        self.steps.iter().find_map(|step| match step {
            Step::Call("openat" | "truncate", arguments) => arguments.iter().find_map(|argument| match argument {
                Argument::Text(path) => Some(*path),
                _ => None,
            }),
            _ => None,
        })
    }
}

impl Step {
    fn line(&self, target: &Target) -> Option<String> {
        let (times, number, arguments) = match self {
            Self::Call(name, arguments) => (1, i64::from(target.arch.number(name)?), arguments),
            Self::Number(number, arguments) => (1, *number, arguments),
            Self::Repeat(times, name, arguments) => (*times, i64::from(target.arch.number(name)?), arguments),
            // Alone in an attempt, and not a line of a chain.
            Self::Deed(_) | Self::DeedWithThreads(_) => return None,
        };
        let mut line = if times == 1 { number.to_string() } else { format!("{times}*{number}") };
        for argument in *arguments {
            line += " ";
            line += &argument.word(target);
        }
        Some(line)
    }
}

impl Argument {
    fn word(&self, target: &Target) -> String {
        let server = i64::from(target.server);
        match self {
            Self::Is(value) => value.to_string(),
            Self::Text(text) => text_word(&text.replace("SERVER", &server.to_string())),
            Self::Words(words) => {
                format!("w{}", words.iter().map(u64::to_string).collect::<Vec<_>>().join(","))
            }
            Self::Zeros(count) => format!("b{count}"),
            Self::Result(step) => format!("r{step}"),
            Self::Server(more) => (server + more).to_string(),
            Self::ServerGroup => (-server).to_string(),
            // CPUCLOCK_SCHED of a process, as clock_getcpuclockid makes it.
            Self::ServerClock => ((!server << 3) | 2).to_string(),
            Self::Own => "p".to_owned(),
        }
    }
}

/// A C string, as a script spells it.
fn text_word(text: &str) -> String {
    text.bytes().fold(String::from("s"), |mut word, byte| {
        let _ = write!(word, "{byte:02x}");
        word
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_spells_every_argument() {
        let attempt = Attempt {
            id: "X1",
            name: "",
            steps: &[
                Step::Call("openat", &[Argument::Is(-100), Argument::Text("/proc/SERVER"), Argument::Words(&[1, 2])]),
                Step::Repeat(3, "close", &[Argument::Result(0), Argument::Own]),
            ],
            tidy: &[Step::Number(7, &[Argument::Server(1)])],
            reached: &[],
            behind: Wall::Seccomp,
        };
        let target = Target { server: 12, threads: 1, arch: Arch::x86_64 };
        let script = attempt.script(&target).expect("calls of this architecture");
        assert_eq!(script, "probe chain\n257 -100 s2f70726f632f3132 w1,2\n3*3 r0 p\n+7 13");
        assert_eq!(attempt.path(), Some("/proc/SERVER"));
    }
}
