//! What a profile says about a call, read from its TOML as a person would: one entry after the other, one condition after
//! the other.

use std::collections::BTreeMap;

use photondb_sandbox_profiles::Profiles;
use photondb_sandbox_profiles::confinement::fd;
use photondb_sandbox_profiles::permissions;
use photondb_sandbox_profiles::profile::{Allow, Alternative, Answer, ArgName, Condition, Deny, Profile, Value, Width};
use photondb_sandbox_profiles::syscalls::{Arch, constant};

/// Stands for the probe's own process id in arguments.
pub const OWN: u64 = 0x7FFF_FF01;
/// Stands for its thread pointer.
pub const THREAD: u64 = 0x7EAD_7EAD_7EAD_7EA8;

/// What a call gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    Allow,
    Stop,
    Kill,
    Errno(i32),
}

/// A profile's entries and those of all that it extends, and of permissions, in the order in which later ones win.
pub struct Reading {
    profiles: Vec<Profile>,
    additions: Vec<Profile>,
}

/// The entry that decides about a call.
struct Entry {
    /// `None`: refused whatever the arguments are.
    when: Option<Vec<Alternative>>,
    otherwise: Answer,
}

impl Reading {
    pub fn of(known: &Profiles, name: &str, permissions: &[&str]) -> Self {
        let mut profiles = Vec::new();
        let mut next = known.get(name);
        while let Some(profile) = next {
            profiles.push(profile.clone());
            next = profile.extends.as_ref().map(|parent| known.get(parent).expect("a parent"));
        }
        profiles.reverse();
        let text =
            |name: &str| permissions::files().into_iter().find(|(known, _)| *known == name).expect("a permission").1;
        let additions =
            permissions.iter().map(|name| toml::from_str(text(name)).expect("a permission's file")).collect();
        Self { profiles, additions }
    }

    /// The calls with conditions on `arch`, each with its alternatives, those of permissions included.
    pub fn conditional(&self, arch: Arch) -> BTreeMap<&str, Vec<Vec<(ArgName, Condition)>>> {
        let all = self.profiles.iter().chain(&self.additions).flat_map(|profile| &profile.allow);
        let mut conditional = BTreeMap::new();
        for call in all.flat_map(|allow| &allow.calls) {
            let alternatives = self.entry(arch, call).and_then(|entry| entry.when).unwrap_or_default();
            let listed = |alternative: &Alternative| alternative.iter().map(|(name, it)| (*name, it.clone())).collect();
            if !alternatives.is_empty() {
                conditional.insert(call.as_str(), alternatives.iter().map(listed).collect());
            }
        }
        conditional
    }

    /// What `number` gets with these arguments.
    pub fn class(&self, arch: Arch, number: i64, arguments: [u64; 6]) -> Class {
        // A number is 32 bits wide; those of x32, and negative ones, have bit 30 or a higher one.
        let number = (number & 0xFFFF_FFFF) as u32;
        if number >= 1 << 30 {
            return Class::Kill;
        }
        let Some(name) = arch.name(number) else {
            return Class::Errno(if number > arch.last_number() { libc::ENOSYS } else { libc::EPERM });
        };
        let Some(entry) = self.entry(arch, name) else { return host_call(name).unwrap_or(Class::Errno(libc::EPERM)) };
        let otherwise = match entry.otherwise {
            Answer::Stop => Class::Stop,
            Answer::Kill => Class::Kill,
            Answer::Eperm => Class::Errno(libc::EPERM),
            Answer::Enosys => Class::Errno(libc::ENOSYS),
        };
        match entry.when {
            None => otherwise,
            Some(alternatives) if alternatives.is_empty() => Class::Allow,
            Some(alternatives) if alternatives.iter().any(|it| holds(it, arguments)) => Class::Allow,
            Some(_) => otherwise,
        }
    }

    /// Whether `result` is how the filter refuses this call: then it has not let it through.
    pub fn is_refusal(&self, arch: Arch, number: i64, result: i64) -> bool {
        let name = u32::try_from(number).ok().and_then(|number| arch.name(number));
        match name.and_then(|name| self.entry(arch, name)).map(|entry| entry.otherwise) {
            Some(Answer::Eperm) => result == -i64::from(libc::EPERM),
            Some(Answer::Enosys) => result == -i64::from(libc::ENOSYS),
            _ => false,
        }
    }

    /// The last profile that names the call decides: what it allows, or that it refuses. What is refused where an
    /// allowance does not say so itself is what the profiles so far refuse.
    fn entry(&self, arch: Arch, call: &str) -> Option<Entry> {
        let mut entry: Option<Entry> = None;
        for profile in &self.profiles {
            if let Some(deny) = profile.deny.iter().find(|deny: &&Deny| deny.calls.iter().any(|it| it == call)) {
                entry = Some(Entry { when: None, otherwise: deny.answer });
            }
            if let Some(allow) = allow_of(profile, call) {
                let otherwise = allow.otherwise.or(entry.map(|entry| entry.otherwise)).unwrap_or(Answer::Eperm);
                let is_here = allow.arch.is_none_or(|only| only == arch);
                entry = Some(Entry { when: is_here.then(|| allow.when.clone()), otherwise });
            }
        }
        // Permissions only add.
        for allow in self.additions.iter().filter_map(|addition| allow_of(addition, call)) {
            let otherwise = entry.as_ref().map(|entry| entry.otherwise).unwrap_or(Answer::Eperm);
            let when = match entry.and_then(|entry| entry.when) {
                None => allow.when.clone(),
                Some(alternatives) if alternatives.is_empty() || allow.when.is_empty() => Vec::new(),
                Some(alternatives) => alternatives.into_iter().chain(allow.when.clone()).collect(),
            };
            entry = Some(Entry { when: Some(when), otherwise });
        }
        entry
    }
}

fn allow_of<'a>(profile: &'a Profile, call: &str) -> Option<&'a Allow> {
    profile.allow.iter().find(|allow| allow.calls.iter().any(|it| it == call))
}

/// The two calls of the host are there for whoever has its token, which no probe has.
fn host_call(name: &str) -> Option<Class> {
    (name == "sendmsg").then_some(Class::Errno(libc::EPERM))
}

fn holds(alternative: &Alternative, arguments: [u64; 6]) -> bool {
    alternative.iter().all(|(name, condition)| {
        let register = arguments[*name as usize];
        // What of the register the kernel looks at.
        let argument = if condition.width == Width::Int { register & 0xFFFF_FFFF } else { register };
        let union = |values: &[Value]| values.iter().map(number).fold(0, |sum, value| sum | value);
        let is = condition.is.is_empty()
            || condition.is.iter().any(|value| number(value) == argument & !union(&condition.ignoring));
        let not = condition.not.iter().all(|value| number(value) != argument);
        let within = condition.within.is_empty() || argument & !union(&condition.within) == 0;
        let has = argument & union(&condition.has) == union(&condition.has);
        is && not && within && has
    })
}

/// The number that a profile's value stands for.
pub fn number(value: &Value) -> u64 {
    match value {
        Value::Number(number) => *number,
        Value::Name(name) if name == "OWN_PID" => OWN,
        Value::Name(name) if name == "SERVER_REGION" => u64::from(fd::SERVER_REGION.unsigned_abs()),
        Value::Name(name) if name == "PLUGIN_REGION" => u64::from(fd::PLUGIN_REGION.unsigned_abs()),
        Value::Name(name) => constant(name).expect("a constant"),
    }
}

/// An argument as the probe's script spells it.
pub fn spelled(argument: u64) -> String {
    if argument == THREAD {
        return "t".to_owned();
    }
    match argument & 0xFFFF_FFFF == OWN {
        true => format!("p+{}", argument - OWN),
        false => argument.to_string(),
    }
}
