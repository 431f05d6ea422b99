//! A resolved profile in words, for people and scripts that want to see what it allows.

use serde::Serialize;

use crate::profile::{Alternative, Answer, Condition, Value, Width};
use crate::resolve::ResolvedProfile;
use crate::syscalls::Arch;

/// A call that a profile lets through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CallDescription {
    /// Its name.
    pub name: String,
    /// Its number here.
    pub number: u32,
    /// Which code needs it.
    pub why: String,
    /// Alternatives of which one must hold, each a list of conditions; none: any arguments pass.
    pub when: Vec<String>,
    /// What it answers to other arguments: `stop`, `kill`, or the name of an errno.
    pub otherwise: Answer,
}

impl ResolvedProfile {
    /// Every call that is let through on `arch`, by name; the two that only the host can make are not among them.
    pub fn describe_calls(&self, arch: Arch) -> Vec<CallDescription> {
        let describe = |(name, policy): (&String, &crate::resolve::CallPolicy)| {
            if policy.arch.is_some_and(|only| only != arch) {
                return None;
            }
            Some(CallDescription {
                name: name.clone(),
                number: arch.number(name)?,
                why: policy.why.clone(),
                when: policy.allow.as_ref()?.iter().map(alternative).collect(),
                otherwise: policy.otherwise,
            })
        };
        self.calls().iter().filter_map(describe).collect()
    }
}

fn alternative(alternative: &Alternative) -> String {
    let condition = |(name, condition): (&crate::profile::ArgName, &Condition)| {
        let name = format!("{name:?}").to_lowercase();
        let width = if condition.width == Width::Int { 32 } else { 64 };
        format!("{name} ({width} bits) {}", conditions(condition))
    };
    alternative.iter().map(condition).collect::<Vec<_>>().join(", ")
}

fn conditions(condition: &Condition) -> String {
    let Condition { is, ignoring, not, within, has, .. } = condition;
    let list = |values: &[Value], separator| values.iter().map(value).collect::<Vec<_>>().join(separator);
    let mut parts = Vec::new();
    if !is.is_empty() {
        let ignoring = if ignoring.is_empty() { String::new() } else { format!(" without {}", list(ignoring, "|")) };
        parts.push(format!("is {}{ignoring}", list(is, " or ")));
    }
    for (word, values, separator) in [("is not", not, " nor "), ("has", has, "|"), ("has nothing beyond", within, "|")]
    {
        if !values.is_empty() {
            parts.push(format!("{word} {}", list(values, separator)));
        }
    }
    parts.join(" and ")
}

fn value(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::Name(name) => name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Permissions, Profiles};

    #[test]
    fn conditions_are_told_in_words() {
        let strict = Profiles::builtin().resolve("strict", &Permissions::default()).unwrap();
        let calls = strict.describe_calls(Arch::x86_64);
        let call = |name: &str| calls.iter().find(|call| call.name == name).unwrap();
        assert_eq!(call("tgkill").when, ["arg0 (32 bits) is OWN_PID"]);
        assert_eq!(call("prlimit64").when, ["arg0 (32 bits) is 0, arg2 (64 bits) is 0"]);
        assert_eq!(call("mprotect").when, ["arg2 (64 bits) has nothing beyond PROT_READ|PROT_WRITE"]);
        assert!(call("futex").when[0].ends_with("without FUTEX_PRIVATE_FLAG|FUTEX_CLOCK_REALTIME"));
        assert!(call("read").when.is_empty() && call("read").number == 0);
        // Those of the host come on top.
        assert_eq!(calls.len() + 2, strict.allowed_calls_on(Arch::x86_64).len());
    }
}
