//! What a profile refuses of a command's calls, and by which layer: computed from the same data that confines it. The
//! seccomp program is run over the call's registers, and a path is looked up among the Landlock rules.
//!
//! A command that runs is confined by the kernel, and what is computed here is only told. In learning mode nothing
//! confines it: it runs a program that its user trusts, with its user's rights.

use std::fs;
use std::path::{Path, PathBuf};

use photondb_sandbox_profiles::Confinement;
use photondb_sandbox_profiles::landlock::PathRule;
use photondb_sandbox_profiles::profile::Access;
use photondb_sandbox_profiles::seccomp::{Instruction, Listener, Regions};
use photondb_sandbox_profiles::verdict::{Call, Verdict, told, verdict};

use crate::notify::DeniedCall;

/// `O_WRONLY | O_RDWR | O_CREAT | O_TRUNC`.
const WRITING: u64 = 0o1 | 0o2 | 0o100 | 0o1000;
/// In the place of a directory's descriptor: the working directory.
const AT_FDCWD: i32 = -100;
const AF_UNIX: u64 = 1;

/// What a profile does with calls.
#[derive(Debug)]
pub struct Judge {
    program: Vec<Instruction>,
    rules: Vec<PathRule>,
    excused: Vec<String>,
}

/// A call that the profile refuses, or in learning mode would have refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedCall {
    /// The call. A path is shown as the kernel would have understood it: from the root.
    pub call: DeniedCall,
    /// Which layer it is.
    pub refused_by: RefusedBy,
    /// Programs make such calls by habit, and do without: nobody who wants to run one needs to allow it.
    pub is_habit: bool,
    /// What would have to be given, where a path is all that it takes: the file, or the directory in which a name was to
    /// be made or removed.
    pub missing: Option<(PathBuf, Access)>,
}

/// What refuses a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedBy {
    /// The filter, with this answer.
    Seccomp(Verdict),
    /// Landlock: no rule gives this access to the path.
    Landlock(Access),
}

impl Judge {
    /// `confinement`: the program's, or in learning mode
    /// [`Learning::would`](photondb_sandbox_profiles::Learning::would). `pid`: of the program.
    pub fn new(confinement: &Confinement, pid: u32) -> Self {
        let canonical = |rule: &PathRule| {
            let path = fs::canonicalize(&rule.path).ok()?;
            Some(PathRule { path, ..rule.clone() })
        };
        Self {
            program: confinement.seccomp.finish(pid, 0, Regions::Absent, Listener::Present),
            rules: confinement.landlock.iter().flat_map(|plan| &plan.rules).filter_map(canonical).collect(),
            excused: confinement.excused.clone(),
        }
    }

    /// `None`: the profile allows it, or excuses it.
    pub(crate) fn judge(&self, call: &DeniedCall) -> Option<RefusedCall> {
        if call.path.as_ref().is_some_and(|path| self.excused.contains(path)) {
            return None;
        }
        let path = absolute(call);
        let refused_by = match verdict(&self.program, &seen(call)) {
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
        let is_habit = match refused_by {
            RefusedBy::Seccomp(Verdict::Errno(_)) => self.is_habit(call, path.as_deref()),
            RefusedBy::Landlock(Access::Read) => path.as_deref().is_some_and(|path| !path.exists()),
            _ => false,
        };
        let missing = needed(call).zip(path.as_deref()).map(|(access, path)| (to_be_given(call, path, access), access));
        let path = path.map(|path| path.display().to_string()).or_else(|| call.path.clone());
        Some(RefusedCall { call: DeniedCall { path, ..call.clone() }, refused_by, is_habit, missing })
    }

    /// What the listener is to answer to a call that it is only told of.
    pub(crate) fn told(&self, call: &DeniedCall) -> Option<Verdict> {
        told(&self.program, &seen(call))
    }

    /// Whether a program expects the errno that it gets here: the profile does not think it worth telling, or it looked
    /// in vain for a file or for a service of this machine.
    fn is_habit(&self, call: &DeniedCall, path: Option<&Path>) -> bool {
        let is_local = call.name == "socket" && call.args[0] & 0xFFFF_FFFF == AF_UNIX;
        let is_vain = needed(call) == Some(Access::Read) && path.is_some_and(|path| !path.exists());
        is_local || is_vain || self.told(call).is_none()
    }
}

fn seen(call: &DeniedCall) -> Call {
    Call { arch: call.arch, number: call.syscall.unsigned_abs(), args: call.args }
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

/// Landlock asks for the directory in which names are made and removed.
fn to_be_given(call: &DeniedCall, path: &Path, access: Access) -> PathBuf {
    let changes_names = !matches!(call.name.as_str(), "open" | "openat") || access == Access::Write && !path.exists();
    path.parent().filter(|_| changes_names).unwrap_or(path).to_owned()
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
    // Without `.` in it.
    Some(fs::read_link(link).ok()?.join(path).components().collect())
}

/// Without symbolic links, as far as the path exists; what does not exist yet is judged by its directory.
fn resolved(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| match (path.parent(), path.file_name()) {
        (Some(parent), Some(name)) => resolved(parent).join(name),
        _ => path.to_owned(),
    })
}
