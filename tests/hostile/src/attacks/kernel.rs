//! System calls, and what they are tried on.

use std::ffi::{CString, c_char};
use std::io::Error;
use std::path::{Path, PathBuf};

use photondb_plugin_sdk::prelude::*;
use photondb_plugin_sdk::services::Services;

/// What an attack is made on. Never the server itself: an attack that got through must do no harm to who runs the tests.
pub(super) struct Target {
    /// A process of the server's user, or a pid that is as good.
    pub(super) pid: i32,
    /// A directory of the server's user, with a file `secret`.
    pub(super) directory: String,
    /// A port of the loopback interface on which somebody listens.
    pub(super) port: u16,
    /// Which call of the attack this is, from 0 on.
    pub(super) turn: u32,
    /// What the plugin was granted.
    pub(super) services: Services,
}

impl Target {
    /// As the test passes it: pid, directory, port, turn.
    pub(super) fn of(batch: &Batch<'_>, services: &Services) -> Self {
        let number =
            |column: usize| batch.datum(column, 0).ok().and_then(|datum| datum.as_number()).unwrap_or_default();
        let directory = batch.datum(1, 0).ok().and_then(|datum| datum.as_str().map(str::to_owned)).unwrap_or_default();
        let (pid, port, turn) = (number(0) as i32, number(2) as u16, number(3) as u32);
        Self { pid, directory, port, turn, services: services.clone() }
    }

    /// A path below the directory.
    pub(super) fn path(&self, name: &str) -> CString {
        CString::new(format!("{}/{name}", self.directory)).unwrap_or_default()
    }

    /// The same, for the standard library.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        Path::new(&self.directory).join(name)
    }
}

/// A system call, by number, with up to six arguments.
pub(super) fn call(number: libc::c_long, arguments: &[usize]) -> std::io::Result<usize> {
    let at = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: none. The caller passes addresses of memory that lives until the call returns; what else the call may do
    // to this process is what the test is about.
    let result = unsafe { libc::syscall(number, at(0), at(1), at(2), at(3), at(4), at(5)) };
    let makes_processes = [libc::SYS_fork, libc::SYS_vfork, libc::SYS_clone].contains(&number);
    if result == 0 && makes_processes {
        // The child of an attack that got through does nothing further.
        // SAFETY: ends this process, without any code of the runtime.
        unsafe { libc::syscall(libc::SYS_exit_group, 0) };
    }
    usize::try_from(result).map_err(|_| Error::last_os_error())
}

/// What a call says of itself.
pub(super) fn outcome<T>(result: std::io::Result<T>) -> String {
    match result {
        Ok(_) => "it worked".into(),
        Err(error) => format!("refused: {error}"),
    }
}

/// Makes a system call, and says how it went.
pub(super) fn attempt(number: libc::c_long, arguments: &[usize]) -> String {
    outcome(call(number, arguments))
}

/// The address of a C string, for a system call.
pub(super) fn address(text: &std::ffi::CStr) -> usize {
    let pointer: *const c_char = text.as_ptr();
    pointer as usize
}

/// A signed argument as it stands in a register.
pub(super) fn signed(value: i32) -> usize {
    value as isize as usize
}
