//! Resource limits, read back after they are set.

use std::fs;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Uid;
use photondb_sandbox_profiles::confinement::Confinement;
use photondb_sandbox_profiles::layers::{Layer, Report};
use photondb_sandbox_profiles::limits;

use crate::refusal::Refusal;
use crate::weak;

/// When the machine runs out of memory, a plugin goes before the server. Raising this needs no right.
pub fn die_first_when_memory_is_short() {
    // Where /proc is not there, the kernel chooses by size: no reason to refuse.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
}

/// Sets every limit, soft and hard alike, and looks whether it holds.
pub fn set(asked: &Confinement, user: Uid, report: &mut Report) -> Result<(), Refusal> {
    if weak::leaves_out(Layer::Rlimits, report) {
        return Ok(());
    }
    for limit in &asked.limits {
        let resource = kernel_name(limit.resource);
        lower(resource, limit.value)
            .map_err(|error| Refusal::new(&format!("limit {resource:?} to {}", limit.value), error))?;
    }
    report.enforced(Layer::Rlimits, format!("{} limits", asked.limits.len()));
    limit_threads(asked, user, report);
    Ok(())
}

/// RLIMIT_NPROC counts by user, but in a user namespace of its own a plugin is counted alone. Root is not counted.
fn limit_threads(asked: &Confinement, user: Uid, report: &mut Report) {
    let missing = if !report.has(Layer::UserNamespace) {
        "without a user namespace the count would include the server's threads"
    } else if user.is_root() {
        "the kernel does not limit root"
    } else if let Err(error) = lower(Resource::RLIMIT_NPROC, asked.threads_max) {
        return report.missing(Layer::ThreadLimit, error.desc());
    } else {
        return report.enforced(Layer::ThreadLimit, format!("{} threads", asked.threads_max));
    };
    report.missing(Layer::ThreadLimit, missing);
}

/// Never above the hard limit that we have: raising needs a right, and lower is stricter.
fn lower(resource: Resource, value: u64) -> nix::Result<()> {
    let (_, hard) = getrlimit(resource)?;
    let value = value.min(hard);
    setrlimit(resource, value, value)?;
    if getrlimit(resource)? == (value, value) { Ok(()) } else { Err(nix::Error::EPERM) }
}

fn kernel_name(resource: limits::Resource) -> Resource {
    match resource {
        limits::Resource::Data => Resource::RLIMIT_DATA,
        limits::Resource::AddressSpace => Resource::RLIMIT_AS,
        limits::Resource::FileSize => Resource::RLIMIT_FSIZE,
        limits::Resource::Core => Resource::RLIMIT_CORE,
        limits::Resource::OpenFiles => Resource::RLIMIT_NOFILE,
        limits::Resource::Stack => Resource::RLIMIT_STACK,
        limits::Resource::LockedMemory => Resource::RLIMIT_MEMLOCK,
        limits::Resource::MessageQueue => Resource::RLIMIT_MSGQUEUE,
        limits::Resource::RealtimePriority => Resource::RLIMIT_RTPRIO,
    }
}
