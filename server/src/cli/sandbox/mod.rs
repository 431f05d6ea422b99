//! `photondb sandbox`: the sandbox of plugins, seen from outside and used for other programs. Needs no server.

mod advice;
mod doctor;
mod profiles;
mod program;
mod run;

pub(super) use profiles::limit;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Subcommand};
use photondb_sandbox_profiles::{ProfileError, Profiles};

/// Shows what the sandbox does on this machine, and runs programs in it
#[derive(Debug, Args)]
pub struct Sandbox {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    Doctor(doctor::Doctor),
    Profiles(profiles::List),
    Show(profiles::Show),
    Run(run::Run),
    Learn(run::Learn),
}

impl Sandbox {
    /// Runs the command; the exit code is its own, or that of the program it ran.
    ///
    /// # Errors
    /// Wrong usage, or something that the machine refuses.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.action {
            Action::Doctor(doctor) => doctor.run(),
            Action::Profiles(list) => list.run(),
            Action::Show(show) => show.run(),
            Action::Run(run) => run.run(),
            Action::Learn(learn) => learn.run(),
        }
    }
}

/// Where profiles come from.
#[derive(Debug, Args)]
struct Source {
    /// A directory with further profiles, `*.toml`, as `[sandbox] profiles` of photondb.toml
    #[arg(long, value_name = "DIR")]
    profiles: Option<PathBuf>,
}

impl Source {
    fn load(&self) -> Result<Profiles, ProfileError> {
        let mut profiles = Profiles::builtin();
        if let Some(directory) = &self.profiles {
            profiles.load_dir(directory)?;
        }
        Ok(profiles)
    }
}

/// The executable that confines itself, beside this one.
fn host() -> anyhow::Result<PathBuf> {
    let host = crate::server::plugin_host().context("cannot find this program's own path")?;
    anyhow::ensure!(
        host.is_file(),
        "{} is missing: it belongs beside `photondb`, and confines what runs; `make release` builds both",
        host.display()
    );
    Ok(host)
}

/// A path from the root, without following links: the sandbox takes no other.
fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot find {}", path.display()))
}
