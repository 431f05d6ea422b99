//! How a process ended, in words for whoever called it: the one place that tells the reasons apart.
//!
//! | what happened | cause | the server knows it from |
//! |---|---|---|
//! | a panic in a call | `Plugin` | the answer: the plugin's own word, and the process goes on |
//! | a signal, an exit | `Crashed` | the kernel |
//! | a denied system call | `Denied` | the kernel's notification, which the plugin can't forge |
//! | out of memory | `Limit` | the watch, the cgroup; for an abort what the runtime printed last |
//! | too many threads, too much processor time | `Limit` | the watch |
//! | an impossible answer | `Protocol` | the lane |
//! | no answer | `Deadline` | the watch |

use nix::sys::signal::Signal;
use nix::sys::wait::WaitStatus;
use photondb_plugin_host::DeniedCall;
use photondb_plugin_sdk::Cause;
use photondb_sandbox_profiles::permissions;

use super::output::LastWords;
use super::process::Doom;

/// What is known of a process that ended by itself, beside how.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Circumstances {
    /// Its last words.
    pub last_words: LastWords,
    /// Private memory that it was granted, in bytes.
    pub granted_bytes: u64,
    /// Private memory when it was last looked at, in bytes.
    pub private_bytes: u64,
    /// Whether the kernel killed it because its cgroup was out of memory.
    pub is_oom_killed: bool,
}

/// Why a process ended that nobody meant to end.
pub(super) fn crash(name: &str, status: WaitStatus, known: &Circumstances) -> Doom {
    let is_abort = matches!(status, WaitStatus::Signaled(_, Signal::SIGABRT, _));
    let is_near_limit = known.granted_bytes > 0 && known.private_bytes >= known.granted_bytes / 10 * 9;
    let failed = known.last_words.failed_allocation.filter(|_| is_abort);
    if known.is_oom_killed || failed.is_some() || (is_abort && is_near_limit) {
        let failed = failed.map(|bytes| format!(" an allocation of {bytes} bytes failed,")).unwrap_or_default();
        let signal = if is_abort { "SIGABRT" } else { "SIGKILL" };
        let message = format!(
            "it ended, out of memory ({signal}):{failed} it was granted {} bytes; raise `memory` in its manifest and in \
             [plugins.grants.{name}]",
            known.granted_bytes
        );
        return Doom { cause: Cause::Limit, message };
    }
    Doom { cause: Cause::Crashed, message: format!("it ended: {}", describe(status)) }
}

/// How a process ended, in words.
pub(super) fn describe(status: WaitStatus) -> String {
    match status {
        WaitStatus::Exited(_, 0) => "exit status 0".into(),
        WaitStatus::Exited(_, 101) => "exit status 101: it panicked outside of a call; see its logs".into(),
        WaitStatus::Exited(_, code) => format!("exit status {code}"),
        WaitStatus::Signaled(_, signal, _) => {
            let explained = match signal {
                Signal::SIGKILL => " (by the operator, or by the kernel for want of memory)",
                Signal::SIGSEGV => ": it touched memory that it must not touch",
                Signal::SIGBUS => ": it touched memory that is not there",
                Signal::SIGILL => ": it ran an instruction that this processor does not have",
                Signal::SIGFPE => ": it divided by zero, or the like",
                Signal::SIGTRAP => ": it stopped itself",
                Signal::SIGSYS => ": it tried a system call that its sandbox forbids",
                Signal::SIGABRT => ": it gave up by itself; see its logs",
                Signal::SIGXCPU => ": it used more processor time than it may",
                Signal::SIGXFSZ => ": it wrote a larger file than it may",
                _ => "",
            };
            format!("killed by {signal}{explained}")
        }
        _ => "it is gone".into(),
    }
}

/// Why a plugin is stopped that tried a forbidden system call.
pub(super) fn denied(name: &str, call: &DeniedCall) -> Doom {
    let message = format!(
        "it tried the system call {call}, which its sandbox forbids, and was stopped; {}",
        remedy(name, &call.name)
    );
    Doom { cause: Cause::Denied, message }
}

/// What would allow a call, if anything does.
fn remedy(name: &str, call: &str) -> String {
    let grants = format!("declared in its manifest and in [plugins.grants.{name}]");
    let permission = match permissions::that_allows(call) {
        Some("state") => Some(format!("`state = true`, {grants}, gives it a private directory")),
        Some("connect") => Some(format!("`connect = [\"HOST:PORT\"]`, {grants}, lets the server connect for it")),
        other => other.map(|other| format!("the permission `{other}`, {grants}, allows it")),
    };
    let profile = match call {
        "open" | "openat" | "openat2" => Some("a dynamically linked plugin needs `profile = \"dynamic\"`"),
        "mmap" | "mprotect" | "pkey_mprotect" => Some("a plugin that makes code needs `profile = \"jit\"`"),
        "ioctl" => Some("a plugin that drives a device needs `profile = \"gpu\"`"),
        "socket" | "connect" => Some("`connect = [\"HOST:PORT\"]` lets the server connect for it"),
        _ => None,
    };
    match (permission, profile) {
        (Some(permission), Some(profile)) if !permission.contains("connect") => format!("{permission}; {profile}"),
        (Some(permission), _) => permission,
        (None, Some(profile)) => format!("{profile}, {grants}"),
        (None, None) => "no permission allows that: leave it out, or ask its author to".into(),
    }
}

#[cfg(test)]
mod tests {
    use nix::unistd::Pid;

    use super::*;

    fn killed(by: Signal) -> WaitStatus {
        WaitStatus::Signaled(Pid::from_raw(1), by, false)
    }

    fn call(name: &str, path: Option<&str>) -> DeniedCall {
        let path = path.map(str::to_owned);
        DeniedCall { pid: 1, syscall: 0, name: name.into(), args: [0; 6], arch: 0, path }
    }

    #[test]
    fn every_end_has_its_own_words_and_cause() {
        let usual = Circumstances { granted_bytes: 1 << 20, ..Circumstances::default() };
        let aborted = LastWords { failed_allocation: Some(4096) };
        let exited = |code| WaitStatus::Exited(Pid::from_raw(1), code);
        for (status, known, cause, words) in [
            (exited(0), usual, Cause::Crashed, "exit status 0"),
            (exited(3), usual, Cause::Crashed, "exit status 3"),
            (exited(101), usual, Cause::Crashed, "panicked outside of a call"),
            (killed(Signal::SIGSEGV), usual, Cause::Crashed, "SIGSEGV: it touched memory"),
            (killed(Signal::SIGILL), usual, Cause::Crashed, "SIGILL"),
            (killed(Signal::SIGSYS), usual, Cause::Crashed, "SIGSYS: it tried a system call"),
            (killed(Signal::SIGKILL), usual, Cause::Crashed, "SIGKILL (by the operator"),
            (killed(Signal::SIGABRT), usual, Cause::Crashed, "SIGABRT: it gave up by itself"),
            (killed(Signal::SIGUSR1), usual, Cause::Crashed, "killed by SIGUSR1"),
            (
                killed(Signal::SIGABRT),
                Circumstances { last_words: aborted, ..usual },
                Cause::Limit,
                "out of memory (SIGABRT): an allocation of 4096 bytes failed, it was granted 1048576 bytes",
            ),
            (
                killed(Signal::SIGABRT),
                Circumstances { private_bytes: 1 << 20, ..usual },
                Cause::Limit,
                "out of memory (SIGABRT): it was granted 1048576 bytes",
            ),
            (
                killed(Signal::SIGKILL),
                Circumstances { is_oom_killed: true, ..usual },
                Cause::Limit,
                "out of memory (SIGKILL)",
            ),
            // What it printed does not make another end one for want of memory.
            (
                killed(Signal::SIGSEGV),
                Circumstances { last_words: aborted, private_bytes: 1 << 20, ..usual },
                Cause::Crashed,
                "SIGSEGV",
            ),
        ] {
            let doom = crash("geo", status, &known);
            assert_eq!(doom.cause, cause, "{doom:?}");
            assert!(doom.message.contains(words) && !doom.message.contains('\n'), "{doom:?}\n  lacks {words}");
        }
    }

    #[test]
    fn a_denied_call_names_what_would_allow_it() {
        for (name, path, words) in [
            (
                "openat",
                Some("/etc/passwd"),
                &["openat(\"/etc/passwd\")", "`state = true`", "`profile = \"dynamic\"`"][..],
            ),
            ("mkdirat", Some("/x"), &["`state = true`", "[plugins.grants.geo]"]),
            ("socket", None, &["`connect = [\"HOST:PORT\"]`", "[plugins.grants.geo]"]),
            ("connect", None, &["`connect = "]),
            ("mprotect", None, &["`profile = \"jit\"`", "[plugins.grants.geo]"]),
            ("ioctl", None, &["`profile = \"gpu\"`"]),
            ("ptrace", None, &["ptrace", "no permission allows that"]),
            ("execve", Some("/bin/sh"), &["execve(\"/bin/sh\")", "no permission allows that"]),
        ] {
            let doom = denied("geo", &call(name, path));
            assert_eq!(doom.cause, Cause::Denied);
            for words in words {
                assert!(doom.message.contains(words), "{name}: {}\n  lacks {words}", doom.message);
            }
        }
    }
}
