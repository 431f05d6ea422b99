//! The TOML model of a profile, and the set of profiles that a server knows.
//!
//! Unknown keys are refused with the nearest known one. Every entry carries its reason (`why`): an entry without one
//! does not parse.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{ProfileError, nearest};
use crate::landlock::NEWEST_TESTED_ABI;
use crate::never;
use crate::permissions::Permissions;
use crate::probe::KernelFeatures;
use crate::syscalls::{self, Arch};

/// The profiles that ship with the server, in the order in which they build on each other.
const BUILTIN: &[(&str, &str)] = &[
    ("strict.toml", include_str!("../profiles/strict.toml")),
    ("dynamic.toml", include_str!("../profiles/dynamic.toml")),
    ("interpreter.toml", include_str!("../profiles/interpreter.toml")),
    ("jit.toml", include_str!("../profiles/jit.toml")),
    ("gpu.toml", include_str!("../profiles/gpu.toml")),
];

/// The call that the host makes to see that the filter is in force; no profile may allow it.
pub const PROBE_CALL: &str = "getppid";

/// One profile as written, before `extends` is followed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What manifests call it.
    pub name: String,
    /// One sentence for the operator.
    pub summary: String,
    /// The profile that this one adds to.
    pub extends: Option<String>,
    /// Calls that are let through.
    #[serde(default)]
    pub allow: Vec<Allow>,
    /// How refusals look that are not the default EPERM.
    #[serde(default)]
    pub deny: Vec<Deny>,
    /// Files that language runtimes look at by habit: the open is refused, without stopping the plugin.
    #[serde(default)]
    pub excuse: Vec<Excuse>,
    /// Directories and files that may be opened (Landlock); anything else may not.
    #[serde(default)]
    pub files: Vec<Files>,
    /// Resource limits other than the memory that is granted.
    pub limits: Option<LimitsTable>,
    /// The namespaces to ask for; what the machine does not give is reported.
    pub namespaces: Option<Namespaces>,
    /// Why a plugin with this profile is graded lower than one with `strict`.
    pub grade: Option<GradeCap>,
}

/// Calls that are let through, all of them with the same conditions.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// Names of system calls.
    pub calls: Vec<String>,
    /// Which code needs it, and what the conditions keep out.
    pub why: String,
    /// Only on this architecture; elsewhere the entry is as if absent.
    pub arch: Option<Arch>,
    /// Alternatives: the call passes if the arguments satisfy one of them. None: any arguments pass.
    #[serde(default)]
    pub when: Vec<Alternative>,
    /// What a call answers that satisfies no alternative.
    pub otherwise: Option<Answer>,
}

/// Conditions on arguments, all of which must hold.
pub type Alternative = BTreeMap<ArgName, Condition>;

/// The position of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "argN is argument N, counted from 0")]
pub enum ArgName {
    Arg0,
    Arg1,
    Arg2,
    Arg3,
    Arg4,
    Arg5,
}

/// What one argument must be. Where several keys are given, all must hold.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// How much of the register the kernel itself looks at; a comparison of less would be a hole, of more a nuisance.
    #[serde(rename = "type")]
    pub width: Width,
    /// Equal to one of these, once the bits of `ignoring` are cleared.
    #[serde(default)]
    pub is: Vec<Value>,
    /// Bits that do not matter to `is`.
    #[serde(default)]
    pub ignoring: Vec<Value>,
    /// Equal to none of these.
    #[serde(default)]
    pub not: Vec<Value>,
    /// No bit set outside these.
    #[serde(default)]
    pub within: Vec<Value>,
    /// All of these bits set.
    #[serde(default)]
    pub has: Vec<Value>,
}

/// The C type of an argument, as far as it matters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Width {
    /// 32 bits: `int`, `unsigned`, `pid_t`, a descriptor. The kernel drops the upper half, and so does the filter.
    #[default]
    Int,
    /// 64 bits: `long`, `size_t`, a pointer.
    Long,
}

/// A number, or constant names joined by `|`.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
#[allow(missing_docs, reason = "the type's own sentence says it")]
pub enum Value {
    Number(u64),
    Name(String),
}

impl Value {
    pub(crate) fn get(&self) -> Result<u64, String> {
        match self {
            Self::Number(number) => Ok(*number),
            Self::Name(name) => syscalls::constant(name),
        }
    }
}

/// What a refused call answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// The call never runs, the process is stopped, and the supervisor is told which call it was. Where the kernel
    /// gives no listener: `Kill`, or `EPERM` for calls that can be excused.
    #[serde(rename = "stop")]
    Stop,
    /// The process dies of SIGSYS at once, without a name in the report.
    #[serde(rename = "kill")]
    Kill,
    /// "Not permitted": what a library reports upwards.
    #[serde(rename = "EPERM")]
    Eperm,
    /// "No such system call": what a library falls back on.
    #[serde(rename = "ENOSYS")]
    Enosys,
}

/// How the refusal of some calls looks.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deny {
    /// Names of system calls.
    pub calls: Vec<String>,
    /// What is answered.
    pub answer: Answer,
    /// Why not the default.
    pub why: String,
}

/// A file that honest runtimes try to open.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Excuse {
    /// The exact path.
    pub path: String,
    /// Which code opens it, and how it copes without.
    pub why: String,
}

/// Files that may be opened.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// Files and directories; those that do not exist on this machine are passed over.
    pub paths: Vec<PathBuf>,
    /// What may be done with them.
    pub access: Access,
    /// Which code needs them.
    pub why: String,
}

/// What may be done with a path and what is below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Open for reading, list.
    Read,
    /// Read, and map executable.
    Execute,
    /// Read, create, write, remove.
    Write,
    /// Read, write and ioctl, for device nodes.
    Device,
}

/// Limits other than memory. Each has a default that `strict` states.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsTable {
    /// Descriptors that may be open at once.
    pub open_files: Option<u64>,
    /// Stack of the main thread.
    pub stack_bytes: Option<u64>,
    /// Address space beyond the memory that is granted: lanes, columns, reserved but unused ranges.
    pub extra_address_space_bytes: Option<u64>,
    /// Threads beyond those granted: the SDK's own.
    pub extra_threads: Option<u32>,
}

/// The namespaces to ask for.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespaces {
    /// Which ones.
    pub wanted: Vec<Namespace>,
    /// Why these.
    pub why: String,
}

/// A kind of namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the kernel's own names")]
pub enum Namespace {
    User,
    Net,
    Ipc,
    Uts,
    Mount,
    Cgroup,
}

impl Namespace {
    /// Every kind, in the order in which they are made.
    pub const ALL: [Self; 6] = [Self::User, Self::Net, Self::Ipc, Self::Uts, Self::Mount, Self::Cgroup];
}

/// The best grade that a profile can have.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GradeCap {
    /// No better than this.
    pub at_most: crate::layers::Letter,
    /// Why, as the operator reads it.
    pub why: String,
}

/// The profiles that a server knows, by name.
#[derive(Clone, Debug)]
pub struct Profiles {
    profiles: BTreeMap<String, (String, Profile)>,
}

impl Profiles {
    /// The profiles that ship with the server.
    ///
    /// # Panics
    /// Never: that they parse, join and compile is tested.
    pub fn builtin() -> Self {
        let mut profiles = Self { profiles: BTreeMap::new() };
        for (file, text) in BUILTIN {
            profiles.add(file, text).expect("the embedded profiles parse: tests/profiles.rs reads each of them");
        }
        profiles
    }

    /// Adds every `*.toml` of a directory: the operator's own profiles. They may extend the shipped ones and each other;
    /// a name that exists already is an error, and so is what no profile may allow (`never.rs`). Each is compiled for
    /// every architecture, so that what is wrong with it is said now.
    ///
    /// # Errors
    /// The first file that cannot be read or used, by name; nothing is added then.
    pub fn load_dir(&mut self, directory: &Path) -> Result<(), ProfileError> {
        let read_error = |path: &Path, source| ProfileError::Read { path: path.to_owned(), source };
        let mut files = fs::read_dir(directory)
            .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, std::io::Error>>())
            .map_err(|source| read_error(directory, source))?;
        files.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
        files.sort();
        let mut joined = self.clone();
        for path in files {
            let text = fs::read_to_string(&path).map_err(|source| read_error(&path, source))?;
            joined.add(&path.display().to_string(), &text)?;
        }
        // A parent may come after its child in the directory: checked once all are there.
        for (name, (file, profile)) in &joined.profiles {
            if !self.profiles.contains_key(name) {
                never::check_entries(file, profile)?;
                joined.check(file, name)?;
            }
        }
        *self = joined;
        Ok(())
    }

    /// Joins and compiles an operator's profile, and compares with the shipped one that it builds on: what that one lets
    /// through (`gpu` does, for its driver) was decided there.
    fn check(&self, file: &str, name: &str) -> Result<(), ProfileError> {
        let base = self.chain(name)?.into_iter().rev().find(|(file, _)| Self::is_shipped(file));
        for arch in Arch::ALL {
            let kernel =
                KernelFeatures { arch: Some(arch), landlock_abi: NEWEST_TESTED_ABI, ..KernelFeatures::default() };
            let program = |name: &str| {
                Ok::<_, ProfileError>(self.resolve(name, &Permissions::default())?.compile(&kernel)?.seccomp)
            };
            let base = base.map(|(_, profile)| program(&profile.name)).transpose()?;
            never::check_program(file, arch, &program(name)?, base.as_ref())?;
        }
        Ok(())
    }

    /// Whether a profile is a shipped one.
    pub(crate) fn is_shipped(file: &str) -> bool {
        BUILTIN.iter().any(|(shipped, _)| *shipped == file)
    }

    /// Every name, sorted.
    pub fn names(&self) -> Vec<&str> {
        self.profiles.keys().map(String::as_str).collect()
    }

    /// A profile as written.
    pub fn get(&self, name: &str) -> Option<&Profile> {
        self.profiles.get(name).map(|(_, profile)| profile)
    }

    /// The profile called `name` and those it extends, ancestors first, each with the file that it came from.
    pub(crate) fn chain(&self, name: &str) -> Result<Vec<(&str, &Profile)>, ProfileError> {
        let unknown = || ProfileError::UnknownProfile {
            name: name.to_owned(),
            nearest: nearest(name, self.names()),
            known: self.names().join(", "),
        };
        let mut chain: Vec<(&str, &Profile)> = Vec::new();
        let mut next = self.profiles.get(name).ok_or_else(unknown)?;
        loop {
            let (file, profile) = next;
            if chain.iter().any(|(_, seen)| seen.name == profile.name) {
                let mut names: Vec<_> = chain.iter().map(|(_, seen)| seen.name.as_str()).collect();
                names.push(&profile.name);
                return Err(ProfileError::ExtendsCycle { chain: names.join(" -> ") });
            }
            chain.push((file, profile));
            let Some(parent) = &profile.extends else { break };
            next = self.profiles.get(parent).ok_or_else(|| ProfileError::UnknownParent {
                file: file.clone(),
                name: profile.name.clone(),
                parent: parent.clone(),
                known: self.names().join(", "),
            })?;
        }
        chain.reverse();
        Ok(chain)
    }

    fn add(&mut self, file: &str, text: &str) -> Result<(), ProfileError> {
        let profile = parse(file, text)?;
        if let Some((other, _)) = self.profiles.get(&profile.name) {
            return Err(ProfileError::DuplicateProfile {
                file: file.to_owned(),
                name: profile.name,
                other: other.clone(),
            });
        }
        self.profiles.insert(profile.name.clone(), (file.to_owned(), profile));
        Ok(())
    }
}

/// Reads one profile. `file` is for messages.
pub(crate) fn parse(file: &str, text: &str) -> Result<Profile, ProfileError> {
    let failed = |message: String| ProfileError::Parse { file: file.to_owned(), message };
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| failed(error.to_string()))?;
    check_keys(file, &table)?;
    let profile: Profile = toml::from_str(text).map_err(|error| failed(error.to_string()))?;
    check_name(file, &profile.name)?;
    check_calls(file, &profile)?;
    check_paths(&profile)?;
    Ok(profile)
}

/// Keys of each table. `deny_unknown_fields` would refuse them too, without naming the nearest.
const KEYS: &[(&str, &[&str])] = &[
    (
        "the profile",
        &["name", "summary", "extends", "allow", "deny", "excuse", "files", "limits", "namespaces", "grade"],
    ),
    ("allow", &["calls", "why", "arch", "when", "otherwise"]),
    ("deny", &["calls", "answer", "why"]),
    ("excuse", &["path", "why"]),
    ("files", &["paths", "access", "why"]),
    ("limits", &["open_files", "stack_bytes", "extra_address_space_bytes", "extra_threads"]),
    ("namespaces", &["wanted", "why"]),
    ("grade", &["at_most", "why"]),
    ("when", &["arg0", "arg1", "arg2", "arg3", "arg4", "arg5"]),
    ("a condition", &["type", "is", "ignoring", "not", "within", "has"]),
];

fn check_keys(file: &str, table: &toml::Table) -> Result<(), ProfileError> {
    check_table(file, "the profile", table)?;
    for (key, value) in table {
        for entry in tables(value) {
            check_table(file, key, entry)?;
            for alternative in entry.get("when").into_iter().flat_map(tables) {
                check_table(file, "when", alternative)?;
                for condition in alternative.values().flat_map(tables) {
                    check_table(file, "a condition", condition)?;
                }
            }
        }
    }
    Ok(())
}

fn check_table(file: &str, place: &str, table: &toml::Table) -> Result<(), ProfileError> {
    let known = KEYS.iter().find(|(name, _)| *name == place).map_or(&[][..], |(_, known)| known);
    match table.keys().find(|key| !known.contains(&key.as_str())) {
        Some(key) => Err(ProfileError::UnknownKey {
            file: file.to_owned(),
            place: place.to_owned(),
            key: key.clone(),
            nearest: nearest(key, known.iter().copied()),
            known: known.join(", "),
        }),
        None => Ok(()),
    }
}

/// The tables directly inside a value: itself, or the members of an array.
fn tables(value: &toml::Value) -> Vec<&toml::Table> {
    match value {
        toml::Value::Table(table) => vec![table],
        toml::Value::Array(array) => array.iter().filter_map(toml::Value::as_table).collect(),
        _ => Vec::new(),
    }
}

fn check_name(file: &str, name: &str) -> Result<(), ProfileError> {
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(is_plain) {
        return Ok(());
    }
    Err(ProfileError::BadName { file: file.to_owned(), name: name.to_owned() })
}

fn check_paths(profile: &Profile) -> Result<(), ProfileError> {
    let mut paths = profile.files.iter().flat_map(|files| &files.paths);
    paths.find(|path| !path.is_absolute()).map_or(Ok(()), |path| Err(ProfileError::RelativePath { path: path.clone() }))
}

/// Refuses names that are no calls, names that appear twice, and conditions that say nothing.
fn check_calls(file: &str, profile: &Profile) -> Result<(), ProfileError> {
    let mut allowed = Vec::new();
    for allow in &profile.allow {
        for call in &allow.calls {
            check_call(file, call)?;
            if call == PROBE_CALL {
                return Err(ProfileError::ReservedCall { file: file.to_owned(), call: call.clone() });
            }
            if allowed.contains(&call) {
                return Err(ProfileError::DuplicateCall { file: file.to_owned(), call: call.clone() });
            }
            allowed.push(call);
            for alternative in &allow.when {
                check_alternative(alternative).map_err(|message| ProfileError::BadRule {
                    file: file.to_owned(),
                    call: call.clone(),
                    message,
                })?;
            }
        }
    }
    let mut denied = Vec::new();
    for call in profile.deny.iter().flat_map(|deny| &deny.calls) {
        check_call(file, call)?;
        if denied.contains(&call) {
            return Err(ProfileError::DuplicateCall { file: file.to_owned(), call: call.clone() });
        }
        denied.push(call);
    }
    Ok(())
}

fn check_call(file: &str, call: &str) -> Result<(), ProfileError> {
    if syscalls::is_known(call) {
        return Ok(());
    }
    Err(ProfileError::UnknownCall { file: file.to_owned(), call: call.to_owned(), nearest: syscalls::nearest(call) })
}

fn check_alternative(alternative: &Alternative) -> Result<(), String> {
    if alternative.is_empty() {
        return Err("an empty alternative would let every argument through; leave `when` out to mean that".to_owned());
    }
    for condition in alternative.values() {
        if condition.is.is_empty()
            && condition.not.is_empty()
            && condition.within.is_empty()
            && condition.has.is_empty()
        {
            return Err("a condition says nothing; give it `is`, `not`, `within` or `has`".to_owned());
        }
        let lists = [&condition.is, &condition.ignoring, &condition.not, &condition.within, &condition.has];
        for value in lists.into_iter().flatten() {
            let value = value.get()?;
            if condition.width == Width::Int && value > u64::from(u32::MAX) {
                return Err(format!("{value} does not fit an `int` argument; write `type = \"long\"`"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(text: &str) -> String {
        parse("test.toml", text).expect_err("must be refused").to_string()
    }

    #[test]
    fn unknown_keys_name_the_nearest() {
        let error = error_of("name = 'x'\nsummary = 'x'\nextend = 'strict'");
        assert!(error.contains("`extend`") && error.contains("did you mean `extends`"), "{error}");
        let error = error_of("name='x'\nsummary='x'\n[[allow]]\ncall=['read']\nwhy='x'");
        assert!(error.contains("in allow") && error.contains("`calls`"), "{error}");
        let error = error_of("name='x'\nsummary='x'\n[[allow]]\ncalls=['read']\nwhy='x'\nwhen=[{arg9={is=[1]}}]");
        assert!(error.contains("arg9"), "{error}");
        let error = error_of("name='x'\nsummary='x'\n[[allow]]\ncalls=['read']\nwhy='x'\nwhen=[{arg1={iss=[1]}}]");
        assert!(error.contains("`iss`") && error.contains("`is`"), "{error}");
    }

    #[test]
    fn every_entry_needs_its_reason() {
        assert!(error_of("name='x'\nsummary='x'\n[[allow]]\ncalls=['read']").contains("why"));
    }

    #[test]
    fn unknown_calls_and_constants_name_the_nearest() {
        assert!(error_of("name='x'\nsummary='x'\n[[allow]]\ncalls=['raed']\nwhy='x'").contains("`read`"));
        let text =
            "name='x'\nsummary='x'\n[[allow]]\ncalls=['mmap']\nwhy='x'\nwhen=[{arg2={type='long',is=['PROT_REED']}}]";
        assert!(error_of(text).contains("PROT_READ"));
    }

    #[test]
    fn a_call_twice_and_the_probe_call_are_refused() {
        assert!(error_of("name='x'\nsummary='x'\n[[allow]]\ncalls=['read','read']\nwhy='x'").contains("twice"));
        assert!(error_of("name='x'\nsummary='x'\n[[allow]]\ncalls=['getppid']\nwhy='x'").contains("cannot be allowed"));
    }

    #[test]
    fn conditions_that_say_nothing_are_refused() {
        for when in ["[{}]", "[{arg0={type='int'}}]", "[{arg0={type='int',is=[4294967296]}}]"] {
            let text = format!("name='x'\nsummary='x'\n[[allow]]\ncalls=['read']\nwhy='x'\nwhen={when}");
            assert!(parse("test.toml", &text).is_err(), "{when}");
        }
    }

    #[test]
    fn an_allow_list_is_all_that_can_be_said() {
        assert!(error_of("name='x'\nsummary='x'\n[[deny]]\ncalls=['read']\nanswer='allow'\nwhy='x'").contains("allow"));
    }

    /// What loading a directory with this profile in it says.
    fn load(text: &str) -> Result<Profiles, ProfileError> {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("own.toml"), text).unwrap();
        let mut profiles = Profiles::builtin();
        profiles.load_dir(directory.path()).map(|()| profiles)
    }

    #[test]
    fn an_operators_profile_adds_to_a_shipped_one_and_says_so_in_the_grade() {
        let text = "name='own'\nsummary='x'\nextends='strict'\n[[allow]]\ncalls=['sysinfo']\nwhy='x'";
        let profiles = load(text).unwrap();
        let resolved = profiles.resolve("own", &Permissions::default()).unwrap();
        assert!(resolved.allowed_calls().contains_key("sysinfo"));
        let kernel = KernelFeatures { landlock_abi: 7, ..KernelFeatures::probe() };
        let grade = resolved.compile(&kernel).unwrap().grade.unwrap();
        assert!(grade.at_most == crate::layers::Letter::B && grade.why.contains("`own`"), "{grade:?}");
    }

    #[test]
    fn no_profile_allows_what_makes_the_rest_meaningless() {
        for call in ["ptrace", "io_uring_setup", "bpf", "clone", "prlimit64", "execve", "setns", "kill", "mount"] {
            let text = format!("name='own'\nsummary='x'\nextends='strict'\n[[allow]]\ncalls=['{call}']\nwhy='x'");
            let error = load(&text).unwrap_err().to_string();
            assert!(error.contains(call) && error.contains("cannot be allowed"), "{error}");
        }
        let deny = "name='own'\nsummary='x'\nextends='strict'\n[[deny]]\ncalls=['ptrace']\nanswer='EPERM'\nwhy='x'";
        assert!(load(deny).unwrap_err().to_string().contains("softened"));
        assert!(load(&deny.replace("EPERM", "kill")).is_ok());
    }

    #[test]
    fn conditions_that_let_too_much_through_are_refused_however_they_are_written() {
        let conditions = [
            ("ioctl", "[]", "TIOCSTI"),
            ("ioctl", "[{arg1={type='int',not=[1]}}]", "TIOCSTI"),
            ("ioctl", "[{arg1={type='int',not=[0x5412]}}]", "TIOCLINUX"),
            ("fcntl", "[{arg1={type='int',within=[0xff]}}]", "F_SETOWN"),
            ("prctl", "[{arg0={type='int',not=[0]}}]", "PDEATHSIG"),
            ("madvise", "[]", "MADV_REMOVE"),
            ("write", "[]", "region"),
            ("mmap", "[{arg2={type='long',within=['PROT_READ|PROT_WRITE']}}]", "state"),
        ];
        for (call, when, because) in conditions {
            let text =
                format!("name='own'\nsummary='x'\nextends='strict'\n[[allow]]\ncalls=['{call}']\nwhy='x'\nwhen={when}");
            let error = load(&text).unwrap_err().to_string();
            assert!(error.contains(because) && error.contains("own.toml"), "{error}");
        }
        let text = "name='own'\nsummary='x'\nextends='strict'\n[[allow]]\ncalls=['ioctl']\nwhy='x'\nwhen=[{arg1={type='int',is=['FIONBIO','FIONREAD']}}]";
        assert!(load(text).is_ok());
    }

    #[test]
    fn every_shipped_profile_can_be_extended() {
        for parent in Profiles::builtin().names() {
            let text = format!("name='own'\nsummary='x'\nextends='{parent}'\n[[allow]]\ncalls=['sysinfo']\nwhy='x'");
            load(&text).unwrap_or_else(|error| panic!("{parent}: {error}"));
        }
    }

    #[test]
    fn names_and_paths_are_checked_when_a_profile_is_read() {
        assert!(error_of("name='My Profile'\nsummary='x'").contains("My Profile"));
        assert!(
            error_of("name='x'\nsummary='x'\n[[files]]\npaths=['lib']\naccess='read'\nwhy='x'").contains("absolute")
        );
    }

    #[test]
    fn circles_and_missing_parents_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, parent: &str| {
            let text = format!("name='{name}'\nsummary='x'\nextends='{parent}'");
            fs::write(directory.path().join(format!("{name}.toml")), text).unwrap();
        };
        write("a", "b");
        write("b", "a");
        let error = Profiles::builtin().load_dir(directory.path()).unwrap_err().to_string();
        assert!(error.contains("a -> b -> a"), "{error}");
        write("b", "nowhere");
        let error = Profiles::builtin().load_dir(directory.path()).unwrap_err().to_string();
        assert!(error.contains("nowhere") && error.contains("strict"), "{error}");
        write("b", "strict");
        let mut profiles = Profiles::builtin();
        profiles.load_dir(directory.path()).unwrap();
        assert!(profiles.names().contains(&"a"));
        write("strict", "b");
        let error = Profiles::builtin().load_dir(directory.path()).unwrap_err().to_string();
        assert!(error.contains("already defined"), "{error}");
    }
}
