//! Layers that a test build leaves out, so that a hole in one is seen even where another would hide it.

use photondb_sandbox_profiles::layers::{Layer, Report};

#[cfg(all(
    not(debug_assertions),
    any(
        feature = "without-seccomp",
        feature = "without-landlock",
        feature = "without-namespaces",
        feature = "without-uid",
        feature = "without-rlimits",
    )
))]
compile_error!("the features `without-...` weaken the sandbox for tests: there is no release build of them");

/// Whether this build leaves `layer` out.
pub fn is_left_out(layer: Layer) -> bool {
    match layer {
        Layer::Seccomp | Layer::DeniedCallListener => cfg!(feature = "without-seccomp"),
        Layer::Landlock => cfg!(feature = "without-landlock"),
        Layer::UserNamespace
        | Layer::NetNamespace
        | Layer::IpcNamespace
        | Layer::MountNamespace
        | Layer::UtsNamespace
        | Layer::CgroupNamespace => cfg!(feature = "without-namespaces"),
        Layer::Uid => cfg!(feature = "without-uid"),
        Layer::Rlimits | Layer::ThreadLimit => cfg!(feature = "without-rlimits"),
        _ => false,
    }
}

/// The same, and says so in the report.
pub fn leaves_out(layer: Layer, report: &mut Report) -> bool {
    let left_out = is_left_out(layer);
    if left_out {
        report.missing(layer, "LEFT OUT BY A TEST BUILD of the plugin host: not for use");
    }
    left_out
}
