//! Learning mode: which of a program's calls a profile would refuse, found by letting them through.
//!
//! It runs a program that its user trusts, with its user's rights. What a profile would have done is computed here, from
//! the same data that would have confined the program: the seccomp program is run over the call's registers, and a path
//! is looked up among the Landlock rules.

use std::fs;
use std::path::{Path, PathBuf};

use photondb_sandbox_profiles::Confinement;
use photondb_sandbox_profiles::landlock::PathRule;
use photondb_sandbox_profiles::profile::Access;
use photondb_sandbox_profiles::seccomp::{Instruction, Listener, Regions};
use photondb_sandbox_profiles::verdict::{Call, Verdict, verdict};

use crate::notify::DeniedCall;

/// `O_WRONLY | O_RDWR | O_CREAT | O_TRUNC`.
const WRITING: u64 = 0o1 | 0o2 | 0o100 | 0o1000;
/// In the place of a directory's descriptor: the working directory.
const AT_FDCWD: i32 = -100;

/// What a profile would have done.
#[derive(Debug)]
pub struct Learner {
    program: Vec<Instruction>,
    rules: Vec<PathRule>,
    excused: Vec<String>,
}

/// A call that was made, and that the profile would have refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearnedCall {
    /// The call. A path is shown as the kernel would have understood it: from the root.
    pub call: DeniedCall,
    /// Why it would have been refused.
    pub refused_by: RefusedBy,
}

/// What would have refused a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedBy {
    /// The filter, with this answer.
    Seccomp(Verdict),
    /// Landlock: no rule gives this access to the path.
    Landlock(Access),
}

impl Learner {
    /// `would`: [`Learning::would`](photondb_sandbox_profiles::Learning::would). `pid`: of the program.
    pub fn new(would: &Confinement, pid: u32) -> Self {
        let canonical = |rule: &PathRule| {
            let path = fs::canonicalize(&rule.path).ok()?;
            Some(PathRule { path, ..rule.clone() })
        };
        Self {
            program: would.seccomp.finish(pid, 0, Regions::Absent, Listener::Present),
            rules: would.landlock.iter().flat_map(|plan| &plan.rules).filter_map(canonical).collect(),
            excused: would.excused.clone(),
        }
    }

    /// `None`: the profile allows it, or excuses it.
    pub(crate) fn judge(&self, call: &DeniedCall, arch: u32) -> Option<LearnedCall> {
        if call.path.as_ref().is_some_and(|path| self.excused.contains(path)) {
            return None;
        }
        let seen = Call { arch, number: call.syscall.unsigned_abs(), args: call.args };
        let path = absolute(call);
        let refused_by = match verdict(&self.program, &seen) {
            Verdict::Allow => {
                let access = needed(call)?;
                let path = resolved(path.as_deref()?);
                if self.rules.iter().any(|rule| path.starts_with(&rule.path) && gives(rule.access, access)) {
                    return None;
                }
                RefusedBy::Landlock(access)
            }
            other => RefusedBy::Seccomp(other),
        };
        let path = path.map(|path| path.display().to_string()).or_else(|| call.path.clone());
        Some(LearnedCall { call: DeniedCall { path, ..call.clone() }, refused_by })
    }
}

/// What Landlock would ask of the path of this call.
fn needed(call: &DeniedCall) -> Option<Access> {
    let flags = match call.name.as_str() {
        "open" => call.args[1],
        "openat" => call.args[2],
        "mkdir" | "mkdirat" | "unlink" | "unlinkat" | "rmdir" | "rename" | "renameat" | "renameat2" => WRITING,
        _ => return None,
    };
    Some(if flags & WRITING == 0 { Access::Read } else { Access::Write })
}

fn gives(given: Access, needed: Access) -> bool {
    needed == Access::Read || matches!(given, Access::Write | Access::Device)
}

/// The path from the root: a relative one starts at the directory that the call names, or at the working directory.
fn absolute(call: &DeniedCall) -> Option<PathBuf> {
    let path = Path::new(call.path.as_ref()?);
    if path.is_absolute() {
        return Some(path.to_owned());
    }
    let directory = (call.args[0] & 0xFFFF_FFFF) as u32 as i32;
    let base = if call.name.ends_with("at") || call.name.ends_with("at2") { directory } else { AT_FDCWD };
    let link = match base {
        AT_FDCWD => format!("/proc/{}/cwd", call.pid),
        descriptor => format!("/proc/{}/fd/{descriptor}", call.pid),
    };
    Some(fs::read_link(link).ok()?.join(path))
}

/// Without symbolic links, as far as the path exists; what does not exist yet is judged by its directory.
fn resolved(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => resolved(parent).join(name),
        _ => path.to_owned(),
    })
}
