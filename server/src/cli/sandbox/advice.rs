//! What would allow a call that a profile refuses.

use std::fmt;
use std::path::{Path, PathBuf};

use photondb_plugin_host::{DeniedCall, RefusedCall};
use photondb_sandbox_profiles::permissions::that_allows;
use photondb_sandbox_profiles::profile::Access;
use photondb_sandbox_profiles::seccomp::{Listener, Regions};
use photondb_sandbox_profiles::verdict::{Call, Verdict, verdict};
use photondb_sandbox_profiles::{Confinement, KernelFeatures, Permissions, ProfileError, Profiles};

/// The shipped profiles, from the tightest on; others come after them.
const BY_STRENGTH: [&str; 5] = ["strict", "dynamic", "interpreter", "jit", "gpu"];
/// `O_WRONLY | O_RDWR | O_CREAT | O_TRUNC`.
const WRITING: u64 = 0o1 | 0o2 | 0o100 | 0o1000;

/// What to do about a refused call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// Another profile.
    Profile(String),
    /// A file, and where this profile opens none, another profile.
    File {
        /// The other profile.
        profile: Option<String>,
        /// Reading or writing.
        access: Access,
        /// The file.
        path: PathBuf,
    },
    /// Nothing: the program does without.
    Needless,
    /// More than an option: part of a sentence.
    Other(String),
}

impl Advice {
    /// Whether it is all said by options of the command line.
    pub(super) fn is_option(&self) -> bool {
        !matches!(self, Self::Other(_))
    }

    /// The path to be opened for `access`.
    pub(super) fn file(&self, wanted: Access) -> Option<&Path> {
        match self {
            Self::File { access, path, .. } if *access == wanted => Some(path),
            _ => None,
        }
    }

    /// The profile that gives all that was advised, where the shipped profiles build on each other.
    pub(super) fn strongest<'a>(advices: impl Iterator<Item = &'a Self>) -> Option<&'a str> {
        let profiles = advices.filter_map(|advice| match advice {
            Self::Profile(profile) | Self::File { profile: Some(profile), .. } => Some(profile.as_str()),
            _ => None,
        });
        profiles.max_by_key(|profile| BY_STRENGTH.iter().position(|known| known == profile))
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Profile(profile) => write!(f, "--profile {profile}"),
            Self::File { profile, access, path } => {
                if let Some(profile) = profile {
                    write!(f, "--profile {profile} ")?;
                }
                let option = if *access == Access::Write { "--write" } else { "--read" };
                write!(f, "{option} {}", quoted(&path.display().to_string()))
            }
            Self::Needless => f.write_str("nothing: programs do without it"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// As a shell reads it back.
pub(super) fn quoted(word: &str) -> String {
    shlex::try_quote(word).map_or_else(|_| word.escape_default().to_string(), Into::into)
}

/// What the user of `photondb sandbox` can do about a refused call.
pub(super) struct Advisor<'a> {
    profiles: &'a Profiles,
    profile: &'a str,
    kernel: KernelFeatures,
}

impl<'a> Advisor<'a> {
    pub(super) fn new(profiles: &'a Profiles, profile: &'a str) -> Self {
        Self { profiles, profile, kernel: KernelFeatures::probe() }
    }

    /// What would allow this call.
    pub(super) fn on(&self, call: &DeniedCall) -> Advice {
        match access(call).zip(call.path.as_deref()) {
            Some((access, path)) => self.on_file(Path::new(path), access),
            None => self.on_call(call),
        }
    }

    /// What would allow what a command was refused.
    pub(super) fn on_refused(&self, refused: &RefusedCall) -> Advice {
        match &refused.missing {
            _ if refused.is_habit => Advice::Needless,
            Some((path, access)) => self.on_file(path, *access),
            None => self.on_call(&refused.call),
        }
    }

    fn on_file(&self, path: &Path, access: Access) -> Advice {
        let permissions = Permissions { read: vec![path.into()], ..Permissions::default() };
        let can_open = |name: &str| self.profiles.resolve(name, &permissions).is_ok();
        let other = || self.ordered().into_iter().find(|name| can_open(name)).map(str::to_owned);
        if let Some(profile) = self.ordered().into_iter().find(|name| self.gives(name, path, access)) {
            return Advice::Profile(profile.to_owned());
        }
        let profile = if can_open(self.profile) { None } else { other() };
        Advice::File { profile, access, path: path.into() }
    }

    fn on_call(&self, call: &DeniedCall) -> Advice {
        if let Some(profile) = self.ordered().into_iter().find(|name| self.allows(name, call)) {
            return Advice::Profile(profile.to_owned());
        }
        let own = format!(
            "a profile of your own, in a directory for --profiles, that extends `{}` and allows {}",
            self.profile, call.name
        );
        Advice::Other(match that_allows(&call.name) {
            Some("state") => format!("--write DIR, or {own}"),
            Some(permission) => format!("for a plugin the permission `{permission}`; for a command {own}"),
            None => format!("{own}; no shipped one does"),
        })
    }

    /// The other profiles, tightest first.
    fn ordered(&self) -> Vec<&str> {
        let names = self.profiles.names();
        let known = BY_STRENGTH.into_iter().filter(|name| names.contains(name));
        let others = names.iter().copied().filter(|name| !BY_STRENGTH.contains(name));
        known.chain(others).filter(|name| *name != self.profile).collect()
    }

    /// Whether the files of `profile` are enough to open this one.
    fn gives(&self, profile: &str, path: &Path, access: Access) -> bool {
        let Ok(confinement) = self.compiled(profile) else { return false };
        let canonical = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let path = canonical(path);
        let mut rules = confinement.landlock.iter().flat_map(|plan| &plan.rules);
        rules.any(|rule| {
            let is_enough = access == Access::Read || matches!(rule.access, Access::Write | Access::Device);
            is_enough && path.starts_with(canonical(&rule.path))
        })
    }

    fn compiled(&self, profile: &str) -> Result<Confinement, ProfileError> {
        // On a kernel with everything: what a profile says does not depend on this one.
        let kernel = KernelFeatures { landlock_abi: 7, ..self.kernel.clone() };
        self.profiles.resolve(profile, &Permissions::default())?.for_command()?.compile(&kernel)
    }

    /// Whether the filter of `profile` lets this very call through.
    fn allows(&self, profile: &str, call: &DeniedCall) -> bool {
        let Ok(confinement) = self.compiled(profile) else { return false };
        let program = confinement.seccomp.finish(call.pid, u64::MAX, Regions::Absent, Listener::Present);
        let seen = Call { arch: call.arch, number: call.syscall.unsigned_abs(), args: call.args };
        verdict(&program, &seen) == Verdict::Allow
    }
}

/// What a call wants to do with the path that it names.
fn access(call: &DeniedCall) -> Option<Access> {
    let flags = match call.name.as_str() {
        "open" => call.args[1],
        "openat" | "openat2" => call.args[2],
        "creat" | "mkdir" | "mkdirat" | "unlink" | "unlinkat" | "rmdir" | "rename" | "renameat" | "renameat2" => {
            WRITING
        }
        _ => return None,
    };
    // The flags of openat2 are in memory: reading is the more likely wish.
    Some(if call.name != "openat2" && flags & WRITING != 0 { Access::Write } else { Access::Read })
}

#[cfg(test)]
mod tests {
    use photondb_sandbox_profiles::syscalls;

    use super::*;

    fn call(name: &str, args: [u64; 6], path: Option<&str>) -> DeniedCall {
        let arch = syscalls::Arch::x86_64;
        DeniedCall {
            pid: 7,
            syscall: arch.number(name).unwrap().cast_signed(),
            name: name.into(),
            args,
            arch: arch.audit(),
            path: path.map(str::to_owned),
        }
    }

    #[test]
    fn the_advice_is_what_to_write() {
        let profiles = Profiles::builtin();
        let advice = |profile: &str, call: &DeniedCall| Advisor::new(&profiles, profile).on(call).to_string();
        let read = call("openat", [0; 6], Some("/etc/passwd"));
        assert_eq!(advice("strict", &read), "--profile dynamic --read /etc/passwd");
        assert_eq!(advice("dynamic", &read), "--read /etc/passwd");
        // What another profile's own directories have needs no option of its own.
        assert_eq!(advice("strict", &call("openat", [0; 6], Some("/usr/lib/x.so"))), "--profile dynamic");
        let write = call("openat", [0, 0, 0o101, 0, 0, 0], Some("/srv/x"));
        assert_eq!(advice("dynamic", &write), "--write /srv/x");
        assert_eq!(advice("strict", &call("mmap", [0, 0, 5, 2, 0, 0], None)), "--profile dynamic");
        assert_eq!(advice("strict", &call("getdents64", [0; 6], None)), "--profile dynamic");
        // Executable memory that was written, and not at once.
        assert_eq!(advice("strict", &call("mprotect", [0, 0, 5, 0, 0, 0], None)), "--profile jit");
        assert!(advice("strict", &call("socket", [2, 1, 0, 0, 0, 0], None)).contains("no shipped one"));
        assert!(advice("strict", &call("setsockopt", [0; 6], None)).contains("`connect`"));
    }
}
