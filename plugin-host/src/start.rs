//! What the server passed, and what is said back.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use photondb_plugin_host::spawn::sealed;
use photondb_sandbox_profiles::layers::Report;
use photondb_sandbox_profiles::{HostReply, Launch, StartMessage};

use crate::confine::descriptors;
use crate::refusal::Refusal;

/// A strict confinement is about 12 KiB.
const MAX_MESSAGE_BYTES: u64 = 1 << 20;

/// The message, and the executable to become.
pub struct Start {
    pub message: StartMessage,
    /// For `execveat`.
    pub arguments: Vec<CString>,
    /// The same.
    pub environment: Vec<CString>,
    /// Held so that it stays open until the kernel closes it on exec.
    pub executable: OwnedFd,
}

impl Start {
    /// Reads and checks both memfds.
    pub fn read() -> Result<Self, Refusal> {
        let executable = descriptors::take_executable();
        let message = descriptors::take_start();
        check_sealed("the start message (descriptor 8)", &message)?;
        let mut text = String::new();
        File::from(message)
            .take(MAX_MESSAGE_BYTES)
            .read_to_string(&mut text)
            .map_err(|error| Refusal::new("read the start message", error))?;
        let message: StartMessage = serde_json::from_str(&text).map_err(|error| {
            Refusal::new("understand the start message (server and host must be of one version)", error)
        })?;
        let (arguments, environment) = match &message.launch {
            Launch::Plugin => {
                // What was verified must be what runs. A command runs from a file, which nobody verified.
                check_sealed("the plugin's executable (descriptor 7)", &executable)?;
                (vec![message.name.clone()], Vec::new())
            }
            Launch::Command { arguments, environment, .. } => {
                descriptors::keep_the_standard_ones()?;
                (arguments.clone(), environment.iter().map(|(name, value)| format!("{name}={value}")).collect())
            }
        };
        Ok(Self { arguments: c_strings(arguments)?, environment: c_strings(environment)?, message, executable })
    }
}

fn c_strings(texts: Vec<String>) -> Result<Vec<CString>, Refusal> {
    let convert = |text| CString::new(text).map_err(|error| Refusal::new("pass its arguments and environment", error));
    texts.into_iter().map(convert).collect()
}

/// Nobody may be able to write to it any more.
fn check_sealed(what: &str, memfd: &OwnedFd) -> Result<(), Refusal> {
    let seals = fcntl(memfd, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_retain);
    match seals {
        Ok(seals) if seals.contains(sealed()) => Ok(()),
        Ok(_) => Err(Refusal::new(&format!("trust {what}"), "it is not sealed")),
        Err(error) => Err(Refusal::new(&format!("trust {what}"), error)),
    }
}

/// The report pipe.
pub struct Reply {
    pipe: File,
}

impl Reply {
    pub fn new(pipe: OwnedFd) -> Self {
        Self { pipe: pipe.into() }
    }

    /// Says that everything required is in force. Without this line the server trusts nothing.
    pub fn report(&self, report: Report) -> Result<(), Refusal> {
        self.send(&HostReply::Report(report)).map_err(|error| Refusal::new("send its report", error))
    }

    /// Waits until the server wants the plugin.
    pub fn wait(&self) -> Result<(), Refusal> {
        let failed = |error: std::io::Error| Refusal::new("wait until it is needed", error);
        (&self.pipe).read_exact(&mut [0]).map_err(failed)
    }

    /// Says why not. Where even that fails, the missing report says it.
    pub fn error(&self, refusal: &Refusal) {
        let _ = self.send(&HostReply::Error(refusal.to_string()));
    }

    fn send(&self, reply: &HostReply) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(reply)?;
        line.push(b'\n');
        (&self.pipe).write_all(&line)
    }
}
