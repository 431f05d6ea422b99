//! Where the process starts: its state directory, the directory that a command names, or the root.

use std::path::Path;

use nix::unistd::chdir;
use photondb_sandbox_profiles::layers::{Layer, Report};
use photondb_sandbox_profiles::{Launch, StartMessage};

use crate::refusal::Refusal;

/// Goes to the state directory, if there is one, while we still are the server's user: the directories above it may be
/// closed to the plugin's. It stays "." from here on, whoever we become.
pub fn enter_state(message: &StartMessage) -> Result<(), Refusal> {
    message.confinement.state.as_deref().map_or(Ok(()), enter)
}

/// To where it will start. In a root of our own the state directory is another mount of the same directory.
pub fn settle(message: &StartMessage, report: &Report) -> Result<(), Refusal> {
    let has_own_root = report.has(Layer::MountNamespace);
    match (&message.launch, &message.confinement.state) {
        (Launch::Command { directory: Some(directory), .. }, _) if chdir(directory).is_ok() => Ok(()),
        (_, Some(state)) if has_own_root => enter(state),
        (_, Some(_)) => Ok(()),
        (_, None) => enter(Path::new("/")),
    }
}

fn enter(directory: &Path) -> Result<(), Refusal> {
    chdir(directory).map_err(|error| {
        let what = format!("start in {} (does it exist, and is it permitted?)", directory.display());
        Refusal::new(&what, error.desc())
    })
}
