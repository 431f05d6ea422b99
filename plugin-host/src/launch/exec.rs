//! A plugin or a command: one `execveat` of the descriptor whose contents were verified.

use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

use photondb_sandbox_profiles::Launch;

use crate::confine::seccomp::Filter;
use crate::refusal::Refusal;
use crate::start::Start;

/// Does not come back, except to say why.
pub fn execute(start: &Start, filter: &Filter) -> Result<Infallible, Refusal> {
    let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect::<Vec<_>>();
    let (arguments, environment) = (pointers(&start.arguments), pointers(&start.environment));
    // SAFETY: a C string, and two arrays of C strings of `start` that end in null; all live until the call returns. The
    // sixth argument is not the kernel's, but the filter's.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            start.executable.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
            filter.token(),
        )
    };
    let error = io::Error::last_os_error();
    let what = match start.message.launch {
        Launch::Plugin => "execute the plugin".to_owned(),
        Launch::Command { .. } => {
            format!(
                "execute {} (a script is run by naming its interpreter; a dynamically linked program needs the profile `dynamic`)",
                start.message.name
            )
        }
    };
    Err(Refusal::new(&what, error))
}
