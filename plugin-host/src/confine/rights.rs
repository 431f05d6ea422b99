//! Who we are and what we may: session, user, capabilities, no_new_privs, the end with the server.

use std::io;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{
    Gid, Uid, geteuid, getpid, getppid, getresgid, getresuid, getsid, setgroups, setresgid, setresuid, setsid,
};
use photondb_sandbox_profiles::confinement::Confinement;
use photondb_sandbox_profiles::layers::{Layer, Report};

use crate::refusal::Refusal;
use crate::weak;

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
/// More than any kernel has; the first that it does not know ends the loop.
const MAX_CAPABILITY: libc::c_ulong = 63;
const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;

/// A session of our own: no terminal, no process group that somebody else signals, no keys of the server's.
pub fn begin_session(report: &mut Report) {
    let _ = prctl::set_dumpable(false);
    umask(Mode::from_bits_truncate(0o077));
    // EPERM: we lead one already.
    let _ = setsid();
    let keyring: *const libc::c_char = std::ptr::null();
    // SAFETY: a null name asks for a fresh anonymous keyring; nothing is read or written.
    let keys = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, keyring) };
    if getsid(None) == Ok(getpid()) {
        let keys = if keys < 0 { "this kernel has no keyrings" } else { "empty keyring" };
        report.enforced(Layer::Session, format!("own session, {keys}"));
    } else {
        report.missing(Layer::Session, "the kernel gave no session");
    }
}

/// Becomes the user that the server chose. Groups, then group, then user: afterwards there is no right to do more.
/// Returns the user as the machine knows it: in a user namespace of our own we could not tell any more.
pub fn switch_user(asked: &Confinement, report: &mut Report) -> Result<Uid, Refusal> {
    if geteuid().is_root() {
        // Without this, root inside the process could get capabilities back by exec.
        drop_bounding_set().map_err(|error| Refusal::new("drop the capability bounding set", error))?;
    }
    if weak::leaves_out(Layer::Uid, report) {
        return Ok(geteuid());
    }
    let Some(run_as) = asked.run_as else {
        report.missing(Layer::Uid, "runs as the server's user: the server is not root, or has no user to give");
        return Ok(geteuid());
    };
    let (uid, gid) = (Uid::from_raw(run_as.uid), Gid::from_raw(run_as.gid));
    let failed = |error: Errno| Refusal::new(&format!("become user {uid}, group {gid}"), error.desc());
    setgroups(&[]).map_err(failed)?;
    setresgid(gid, gid, gid).map_err(failed)?;
    setresuid(uid, uid, uid).map_err(failed)?;
    let (users, groups) = (getresuid().map_err(failed)?, getresgid().map_err(failed)?);
    let all = (users.real, users.effective, users.saved) == (uid, uid, uid)
        && (groups.real, groups.effective, groups.saved) == (gid, gid, gid);
    if !all || uid.is_root() {
        return Err(failed(Errno::EPERM));
    }
    report.enforced(Layer::Uid, format!("user {uid}, group {gid}, no other groups"));
    Ok(uid)
}

/// SIGKILL when the server's spawning thread ends; and if it ended before this line, we have another parent by now.
pub fn die_with_parent(server_pid: u32, report: &mut Report) -> Result<(), Refusal> {
    prctl::set_pdeathsig(Signal::SIGKILL)
        .map_err(|error| Refusal::new("tie its life to the server's", error.desc()))?;
    if prctl::get_pdeathsig() != Ok(Some(Signal::SIGKILL)) {
        return Err(Refusal::new("tie its life to the server's", "the kernel does not show the signal"));
    }
    if getppid().as_raw().unsigned_abs() != server_pid {
        return Err(Refusal::new("find the server", "its parent is another process by now"));
    }
    report.enforced(Layer::ParentDeath, "SIGKILL");
    Ok(())
}

/// Drops every capability that we have or could get, and looks whether they are gone.
pub fn drop_capabilities(report: &mut Report) -> Result<(), Refusal> {
    let failed = |error: io::Error| Refusal::new("drop its capabilities", error);
    // Needs a capability itself. Without it we are no root and in no namespace of ours, and no_new_privs, which
    // comes next, keeps exec from adding any.
    let bounded = drop_bounding_set().is_ok();
    // SAFETY: no pointer among the arguments.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    capset().map_err(failed)?;
    if capabilities().map_err(failed)? != [0; 6] {
        return Err(Refusal::new("drop its capabilities", "the kernel still shows some"));
    }
    report.enforced(Layer::Capabilities, if bounded { "none, bounding set empty" } else { "none" });
    Ok(())
}

/// From here on no program that we execute can gain rights.
pub fn no_new_privileges(report: &mut Report) -> Result<(), Refusal> {
    let failed = |error: Errno| Refusal::new("set no_new_privs", error.desc());
    prctl::set_no_new_privs().map_err(failed)?;
    if !prctl::get_no_new_privs().map_err(failed)? {
        return Err(failed(Errno::EPERM));
    }
    report.enforced(Layer::NoNewPrivs, "set");
    Ok(())
}

/// Memory that was not executable when it was mapped never becomes so (MDWE): a second wall behind the filter's rules, for
/// profiles that make no code. It stays over exec.
pub fn no_new_code(asked: &Confinement, report: &mut Report) {
    if asked.generates_code {
        return report.missing(Layer::NoNewCode, "the profile generates code");
    }
    // SAFETY: no pointer among the arguments.
    let status = unsafe { libc::prctl(libc::PR_SET_MDWE, libc::PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0) };
    // SAFETY: no pointer among the arguments.
    let flags = unsafe { libc::prctl(libc::PR_GET_MDWE, 0, 0, 0, 0) };
    if status == 0 && u32::try_from(flags).is_ok_and(|flags| flags & libc::PR_MDWE_REFUSE_EXEC_GAIN != 0) {
        report.enforced(Layer::NoNewCode, "memory never becomes executable");
    } else {
        report.missing(Layer::NoNewCode, "the kernel does not know it (Linux 6.3); the filter refuses the same calls");
    }
}

fn drop_bounding_set() -> io::Result<()> {
    for capability in 0..=MAX_CAPABILITY {
        // SAFETY: no pointer among the arguments.
        let present = unsafe { libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) };
        if present < 0 {
            break;
        }
        if present == 0 {
            continue;
        }
        // SAFETY: no pointer among the arguments.
        if unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// `struct __user_cap_header_struct`.
#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: libc::c_int,
}

/// Sets effective, permitted and inheritable to nothing. Removing one's own needs no right.
fn capset() -> io::Result<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let none = [0u32; 6];
    // SAFETY: version 3 makes the kernel read a header of two words and two sets of three words, which these are.
    let status = unsafe { libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr()) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Effective, permitted, inheritable; low words, then high.
fn capabilities() -> io::Result<[u32; 6]> {
    let mut header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut sets = [u32::MAX; 6];
    // SAFETY: version 3 makes the kernel write two sets of three words into `sets`, and at most the header's version.
    let status = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
    if status == 0 { Ok(sets) } else { Err(io::Error::last_os_error()) }
}
