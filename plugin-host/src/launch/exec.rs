//! A static executable: one `execveat` of the descriptor whose contents were verified.

use std::convert::Infallible;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr;

use crate::confine::seccomp::Filter;
use crate::refusal::Refusal;
use crate::start::Start;

/// Does not come back, except to say why.
pub fn become_plugin(start: &Start, filter: &Filter) -> Result<Infallible, Refusal> {
    let arguments = [start.name.as_ptr(), ptr::null()];
    let environment: [*const libc::c_char; 1] = [ptr::null()];
    // SAFETY: a C string, and two arrays of C strings that end in null; all live until the call returns. The sixth
    // argument is not the kernel's, but the filter's.
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
    Err(Refusal::new("execute the plugin", io::Error::last_os_error()))
}
