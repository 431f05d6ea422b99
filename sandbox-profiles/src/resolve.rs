//! From a profile's name and one plugin's permissions to a [`Confinement`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::confinement::Confinement;
use crate::error::ProfileError;
use crate::landlock::{self, PathRule};
use crate::layers::{Layer, Letter};
use crate::limits;
use crate::permissions::{COMMAND, Permissions, STATE};
use crate::probe::KernelFeatures;
use crate::profile::{
    Access, Allow, Alternative, Answer, GradeCap, LimitsTable, Namespace, PROBE_CALL, Profile, Profiles, parse,
};
use crate::seccomp::{self, Listener, Program, Regions};
use crate::syscalls::{self, Arch};
use crate::verdict::{Call, Verdict, verdict};

/// Calls of a command that its user is told of when they are refused: the others are refused to programs that go on without.
const TOLD: &[&str] = &[
    "open",
    "openat",
    "creat",
    "truncate",
    "mkdir",
    "mkdirat",
    "unlink",
    "unlinkat",
    "rmdir",
    "rename",
    "renameat",
    "renameat2",
    "link",
    "linkat",
    "symlink",
    "symlinkat",
    "chmod",
    "fchmodat",
    "chown",
    "lchown",
    "fchownat",
    "socket",
    "fork",
    "vfork",
    "clone",
    "execve",
    "execveat",
    "kill",
    "tkill",
    "tgkill",
];

/// What happens to one system call.
#[derive(Clone, Debug)]
pub(crate) struct CallPolicy {
    /// `Some` and empty: let through with any arguments.
    pub(crate) allow: Option<Vec<Alternative>>,
    pub(crate) otherwise: Answer,
    /// The listener hears of every such call, and answers as this says.
    pub(crate) told: bool,
    pub(crate) arch: Option<Arch>,
    /// The file whose entry this is, for messages.
    pub(crate) file: String,
    /// The reason in that file.
    pub(crate) why: String,
}

/// A profile with everything that it extends, joined with the permissions of one plugin.
#[derive(Clone, Debug)]
pub struct ResolvedProfile {
    name: String,
    calls: BTreeMap<String, CallPolicy>,
    excused: Vec<String>,
    files: Vec<PathRule>,
    limits: LimitsTable,
    namespaces: Vec<Namespace>,
    grade: Option<GradeCap>,
    permissions: Permissions,
    required: Vec<Layer>,
    accepted: Vec<Layer>,
}

/// What [`ResolvedProfile::compile_learning`] makes.
#[derive(Clone, Debug)]
pub struct Learning {
    /// What the program runs with. It confines nothing.
    pub confinement: Confinement,
    /// What the profile would confine it with.
    pub would: Confinement,
}

impl Profiles {
    /// Joins profile `name`, what it extends, and what a plugin was granted.
    ///
    /// # Errors
    /// An unknown name or parent, a circle, or a permission that the profile cannot use.
    pub fn resolve(&self, name: &str, permissions: &Permissions) -> Result<ResolvedProfile, ProfileError> {
        let mut resolved = ResolvedProfile {
            name: name.to_owned(),
            calls: BTreeMap::new(),
            excused: Vec::new(),
            files: Vec::new(),
            limits: LimitsTable::default(),
            // A profile that does not say gets them all.
            namespaces: Namespace::ALL.to_vec(),
            grade: None,
            permissions: permissions.clone(),
            required: vec![
                Layer::Seccomp,
                Layer::NoNewPrivs,
                Layer::Landlock,
                Layer::Capabilities,
                Layer::Rlimits,
                Layer::Session,
                Layer::ParentDeath,
            ],
            accepted: Vec::new(),
        };
        for (file, profile) in self.chain(name)? {
            resolved.add(file, profile);
            let adds = !profile.allow.is_empty() || !profile.files.is_empty();
            if adds && !Self::is_shipped(file) {
                let why = format!("profile `{}` is the operator's own, and allows more", profile.name);
                resolved.cap(GradeCap { at_most: Letter::B, why });
            }
        }
        resolved.add_permissions()?;
        Ok(resolved)
    }
}

impl ResolvedProfile {
    /// The profile's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn calls(&self) -> &BTreeMap<String, CallPolicy> {
        &self.calls
    }

    /// Every call that is let through here, with any or with some arguments, with the reason; sorted by name. The two
    /// calls that only the host can make are among them.
    pub fn allowed_calls(&self) -> BTreeMap<&str, &str> {
        Arch::current().map(|arch| self.allowed_calls_on(arch)).unwrap_or_default()
    }

    /// The same for another architecture.
    pub fn allowed_calls_on(&self, arch: Arch) -> BTreeMap<&str, &str> {
        let policy = self.calls.iter().filter(|(name, policy)| {
            policy.allow.is_some() && policy.arch.is_none_or(|only| only == arch) && arch.number(name).is_some()
        });
        let host = seccomp::HOST_CALLS.iter().map(|call| (call.name, call.why));
        host.chain(policy.map(|(name, policy)| (name.as_str(), policy.why.as_str()))).collect()
    }

    /// How many of the allowed calls have conditions on their arguments.
    pub fn conditional_calls(&self) -> usize {
        let policies = self.calls.values();
        let conditional = policies.filter(|policy| policy.allow.as_ref().is_some_and(|when| !when.is_empty()));
        conditional.count() + seccomp::HOST_CALLS.len()
    }

    /// Refuse to start without these layers as well (`[sandbox] require`).
    #[must_use]
    pub fn require(mut self, layers: &[Layer]) -> Self {
        self.required.extend_from_slice(layers);
        self
    }

    /// Start without these layers where the machine lacks them (`[sandbox] accept_degraded`, for this plugin).
    ///
    /// # Errors
    /// [`ProfileError::NotNegotiable`] for seccomp and no_new_privs.
    pub fn accept_degraded(mut self, layers: &[Layer]) -> Result<Self, ProfileError> {
        if let Some(layer) = layers.iter().find(|layer| !layer.is_negotiable()) {
            return Err(ProfileError::NotNegotiable { layer: *layer });
        }
        self.accepted.extend_from_slice(layers);
        Ok(self)
    }

    /// The same for a command that is no plugin, started by `photondb sandbox run`: what programs do by habit at their
    /// start is allowed or refused with an errno, where it would stop a plugin. What its user may have meant it to do, as
    /// opening a file, is told to the listener whatever the answer is.
    ///
    /// # Errors
    /// None with the file that we ship.
    pub fn for_command(mut self) -> Result<Self, ProfileError> {
        let habits = parse(COMMAND.file, COMMAND.text)?;
        self.extend(COMMAND.file, &habits);
        self.excused.extend(habits.excuse.into_iter().map(|excuse| excuse.path));
        for (name, policy) in &mut self.calls {
            policy.told = TOLD.contains(&name.as_str());
        }
        Ok(self)
    }

    /// Compiles for the machine that `kernel` describes. About 0.1 ms; the result can be reused for every instance.
    ///
    /// # Errors
    /// Where the machine lacks a layer that is required, or a rule cannot be compiled.
    pub fn compile(&self, kernel: &KernelFeatures) -> Result<Confinement, ProfileError> {
        let arch =
            kernel.arch.ok_or_else(|| ProfileError::UnsupportedArch { arch: std::env::consts::ARCH.to_owned() })?;
        if !kernel.has_seccomp() {
            return Err(ProfileError::SeccompMissing);
        }
        let landlock = if kernel.landlock_abi == 0 && self.files.is_empty() {
            if !self.accepted.contains(&Layer::Landlock) {
                return Err(ProfileError::LandlockMissing { profile: self.name.clone() });
            }
            None
        } else {
            Some(landlock::plan(kernel.landlock_abi, self.files.clone())?)
        };
        let mut required = self.required.clone();
        required.retain(|layer| !self.accepted.contains(layer));
        required.sort();
        required.dedup();
        let seccomp = seccomp::compile(&self.name, arch, &self.calls)?;
        Ok(Confinement {
            profile: self.name.clone(),
            generates_code: generates_code(arch, &seccomp),
            seccomp,
            landlock,
            state: self.permissions.state.as_ref().map(|state| state.path.clone()),
            limits: limits::limits(&self.limits, &self.permissions)?,
            threads_max: limits::threads_max(&self.limits, self.permissions.threads),
            namespaces: self.namespaces.clone(),
            run_as: None,
            cgroup: None,
            required,
            excused: self.excused.clone(),
            grade: self.grade.clone(),
        })
    }

    /// Compiles a pair: what to run a program with that is to be learned from, and what it would be confined by. Every
    /// call that the profile refuses, and every call that names a path, goes to a listener, which lets it through
    /// ([`DeniedCalls::learn`](../photondb_plugin_host/struct.DeniedCalls.html)): **nothing is refused, so run only what
    /// you trust.**
    ///
    /// # Errors
    /// As [`compile`](Self::compile).
    pub fn compile_learning(&self, kernel: &KernelFeatures) -> Result<Learning, ProfileError> {
        let would = self.compile(kernel)?;
        let arch = kernel.arch.ok_or(ProfileError::SeccompMissing)?;
        let name = format!("{}, learning", self.name);
        let why = "learning: every call is made, and those that would be refused are written down".to_owned();
        let confinement = Confinement {
            seccomp: seccomp::compile(&name, arch, &self.learning_calls(arch))?,
            profile: name,
            landlock: None,
            state: None,
            generates_code: true,
            limits: would.limits.iter().copied().filter(|limit| limit.resource == limits::Resource::Core).collect(),
            namespaces: Vec::new(),
            required: vec![Layer::DeniedCallListener, Layer::Session, Layer::ParentDeath],
            excused: Vec::new(),
            grade: Some(GradeCap { at_most: Letter::C, why }),
            ..would.clone()
        };
        Ok(Learning { confinement, would })
    }

    /// As they are, but what is refused or names a path asks the listener.
    fn learning_calls(&self, arch: Arch) -> BTreeMap<String, CallPolicy> {
        let ask = || CallPolicy {
            allow: None,
            otherwise: Answer::Stop,
            told: false,
            arch: None,
            file: String::new(),
            why: String::new(),
        };
        let mut calls = BTreeMap::new();
        for name in (0..=arch.last_number()).filter_map(|number| arch.name(number)) {
            // The host still looks whether the filter is in force.
            if name != PROBE_CALL {
                calls.insert(name.to_owned(), ask());
            }
        }
        for (name, policy) in &self.calls {
            if policy.allow.is_some() && syscalls::path_argument(name).is_none() {
                calls.insert(name.clone(), CallPolicy { otherwise: Answer::Stop, told: false, ..policy.clone() });
            }
        }
        calls
    }

    /// A child's entry replaces its parent's for the same call. Denials first, so that an `allow` with conditions
    /// answers the rest as the same profile's (or its parent's) `deny` says.
    fn add(&mut self, file: &str, profile: &Profile) {
        for deny in &profile.deny {
            for call in &deny.calls {
                let policy = CallPolicy {
                    allow: None,
                    otherwise: deny.answer,
                    told: false,
                    arch: None,
                    file: file.to_owned(),
                    why: deny.why.clone(),
                };
                self.calls.insert(call.clone(), policy);
            }
        }
        for allow in &profile.allow {
            for call in &allow.calls {
                self.allow(file, call, allow);
            }
        }
        self.excused.extend(profile.excuse.iter().map(|excuse| excuse.path.clone()));
        for files in &profile.files {
            let rule = |path: &PathBuf| PathRule { path: path.clone(), access: files.access, must_exist: false };
            self.files.extend(files.paths.iter().map(rule));
        }
        if let Some(limits) = &profile.limits {
            let old = &self.limits;
            self.limits = LimitsTable {
                open_files: limits.open_files.or(old.open_files),
                stack_bytes: limits.stack_bytes.or(old.stack_bytes),
                extra_address_space_bytes: limits.extra_address_space_bytes.or(old.extra_address_space_bytes),
                extra_threads: limits.extra_threads.or(old.extra_threads),
            };
        }
        if let Some(namespaces) = &profile.namespaces {
            self.namespaces = namespaces.wanted.clone();
            self.namespaces.sort();
            self.namespaces.dedup();
        }
        if let Some(grade) = &profile.grade {
            self.cap(grade.clone());
        }
    }

    /// A child cannot be graded better than what it builds on.
    fn cap(&mut self, cap: GradeCap) {
        if self.grade.as_ref().is_none_or(|old| cap.at_most >= old.at_most) {
            self.grade = Some(cap);
        }
    }

    fn allow(&mut self, file: &str, call: &str, allow: &Allow) {
        let denied = self.calls.get(call).map(|policy| policy.otherwise);
        let policy = CallPolicy {
            allow: Some(allow.when.clone()),
            otherwise: allow.otherwise.or(denied).unwrap_or(Answer::Eperm),
            told: false,
            arch: allow.arch,
            file: file.to_owned(),
            why: allow.why.clone(),
        };
        self.calls.insert(call.to_owned(), policy);
    }

    /// What a permission adds to the calls of its profile: new ones, and further alternatives for those that have
    /// conditions. What is allowed already stays so, and a refusal looks as before.
    fn extend(&mut self, file: &str, addition: &Profile) {
        for deny in &addition.deny {
            for call in &deny.calls {
                if let Some(policy) = self.calls.get_mut(call) {
                    policy.otherwise = deny.answer;
                }
            }
        }
        for allow in &addition.allow {
            for call in &allow.calls {
                let Some(CallPolicy { allow: Some(alternatives), arch, .. }) = self.calls.get_mut(call) else {
                    self.allow(file, call, allow);
                    continue;
                };
                if alternatives.is_empty() || allow.when.is_empty() {
                    alternatives.clear();
                } else {
                    alternatives.extend(allow.when.iter().cloned());
                }
                *arch = arch.filter(|only| allow.arch == Some(*only));
            }
        }
        if let Some(limits) = &addition.limits {
            self.limits.open_files = self.limits.open_files.max(limits.open_files);
        }
    }

    fn add_permissions(&mut self) -> Result<(), ProfileError> {
        let permissions = self.permissions.clone();
        for path in permissions.read.iter().chain(&permissions.write) {
            check_path(path)?;
            if !self.can_open() {
                return Err(ProfileError::CannotOpenFiles { profile: self.name.clone(), path: path.clone() });
            }
        }
        if !permissions.write.is_empty() {
            // Written as the state directory is, without its quota.
            self.extend(STATE.file, &parse(STATE.file, STATE.text)?);
        }
        for addition in permissions.additions() {
            self.extend(addition.file, &parse(addition.file, addition.text)?);
        }
        let state = permissions.state.map(|state| state.path);
        state.iter().try_for_each(|path| check_path(path))?;
        let reads = permissions.read.into_iter().map(|path| (path, Access::Read));
        let writes = permissions.write.into_iter().chain(state).map(|path| (path, Access::Write));
        let rule = |(path, access)| PathRule { path, access, must_exist: true };
        self.files.extend(reads.chain(writes).map(rule));
        Ok(())
    }

    fn can_open(&self) -> bool {
        let opens = ["open", "openat", "openat2"];
        opens.iter().any(|call| self.calls.get(*call).is_some_and(|policy| policy.allow.is_some()))
    }
}

/// Whether `mprotect` may make memory executable.
fn generates_code(arch: Arch, program: &Program) -> bool {
    let program = program.finish(0, 0, Regions::Absent, Listener::Present);
    let protect = |number| Call { arch: arch.audit(), number, args: [0, 4096, 5, 0, 0, 0] };
    arch.number("mprotect").is_some_and(|number| verdict(&program, &protect(number)) == Verdict::Allow)
}

fn check_path(path: &Path) -> Result<(), ProfileError> {
    if path.is_absolute() { Ok(()) } else { Err(ProfileError::RelativePath { path: path.to_owned() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_cannot_be_granted_where_nothing_opens_them() {
        let permissions = Permissions { read: vec!["/srv".into()], ..Permissions::default() };
        let error = Profiles::builtin().resolve("strict", &permissions).unwrap_err().to_string();
        assert!(error.contains("dynamic") && error.contains("/srv"), "{error}");
        assert!(Profiles::builtin().resolve("dynamic", &permissions).is_ok());
        let permissions = Permissions { read: vec!["srv".into()], ..Permissions::default() };
        assert!(Profiles::builtin().resolve("dynamic", &permissions).is_err());
    }

    #[test]
    fn unknown_profiles_name_the_nearest() {
        let error = Profiles::builtin().resolve("strikt", &Permissions::default()).unwrap_err().to_string();
        assert!(error.contains("`strict`"), "{error}");
    }

    #[test]
    fn without_landlock_a_plugin_starts_only_if_the_operator_accepted_it() {
        let kernel = KernelFeatures { landlock_abi: 0, ..KernelFeatures::probe() };
        let resolved = Profiles::builtin().resolve("strict", &Permissions::default()).unwrap();
        assert!(resolved.compile(&kernel).unwrap_err().to_string().contains("accept_degraded"));
        let accepted = resolved.clone().accept_degraded(&[Layer::Landlock]).unwrap();
        let confinement = accepted.compile(&kernel).unwrap();
        assert!(confinement.landlock.is_none() && !confinement.required.contains(&Layer::Landlock));
        assert!(resolved.accept_degraded(&[Layer::Seccomp]).is_err());
    }

    /// Without it, or before it can keep a file from being truncated, the directory would be any directory.
    #[test]
    fn a_directory_is_never_given_where_landlock_cannot_keep_to_it() {
        let state = crate::permissions::StateDirectory { path: "/srv/state".into(), bytes: 1 << 20, files: 10 };
        let permissions = Permissions { state: Some(state), ..Permissions::default() };
        let accepted = Profiles::builtin().resolve("strict", &permissions).unwrap();
        let accepted = accepted.accept_degraded(&[Layer::Landlock]).unwrap();
        let compile = |landlock_abi| accepted.compile(&KernelFeatures { landlock_abi, ..KernelFeatures::probe() });
        for abi in 0..3 {
            let error = compile(abi).unwrap_err().to_string();
            assert!(error.contains("ABI 3") && error.contains("Linux 6.2"), "{error}");
        }
        assert_eq!(compile(3).unwrap().landlock.unwrap().rules.len(), 1);
    }
}
