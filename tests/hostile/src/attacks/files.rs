//! A: files, by path and behind the kernel's back.

use std::mem::MaybeUninit;

use super::kernel::{address, attempt, call, outcome, signed};
use super::{Attack, PLUGIN_REGION, SERVER_REGION, memory};

const HERE: usize = libc::AT_FDCWD as isize as usize;

pub(super) const ATTACKS: &[Attack] = &[
    Attack::new("a1_open_passwd", |_| attempt(libc::SYS_openat, &[HERE, address(c"/etc/passwd")])),
    Attack::new("a1_open_secret", |target| attempt(libc::SYS_openat, &[HERE, address(&target.path("secret"))])),
    Attack::new("a1_write_file", |target| {
        let flags = (libc::O_CREAT | libc::O_WRONLY) as usize;
        attempt(libc::SYS_openat, &[HERE, address(&target.path("photondb-was-here")), flags, 0o600])
    }),
    Attack::new("a1_openat2", |target| {
        // `struct open_how`: read-only, no mode, no restriction.
        let how = [0_u64; 3];
        attempt(libc::SYS_openat2, &[HERE, address(&target.path("secret")), how.as_ptr() as usize, 24])
    }),
    Attack::new("a1_open_by_handle", |_| {
        let handle = [8_u32, 1, 0, 0];
        attempt(libc::SYS_open_by_handle_at, &[HERE, handle.as_ptr() as usize, 0])
    }),
    Attack::new("a2_open_path", |target| {
        attempt(libc::SYS_openat, &[HERE, address(&target.path("")), (libc::O_PATH | libc::O_DIRECTORY) as usize])
    }),
    Attack::new("a2_open_below_path", |target| {
        let directory = [HERE, address(&target.path("")), (libc::O_PATH | libc::O_DIRECTORY) as usize];
        outcome(call(libc::SYS_openat, &directory).and_then(|fd| call(libc::SYS_openat, &[fd, address(c"secret")])))
    }),
    Attack::new("a3_server_memory", |target| attempt(libc::SYS_openat, &[HERE, address(&proc(target.pid, "mem"))])),
    Attack::new("a3_server_environment", |target| {
        attempt(libc::SYS_openat, &[HERE, address(&proc(target.pid, "environ"))])
    }),
    Attack::new("a3_server_descriptors", |target| {
        attempt(libc::SYS_openat, &[HERE, address(&proc(target.pid, "fd/0"))])
    }),
    Attack::new("a4_reopen_region", |_| {
        let path = std::ffi::CString::new(format!("/proc/self/fd/{SERVER_REGION}")).unwrap_or_default();
        outcome(call(libc::SYS_openat, &[HERE, address(&path), libc::O_RDWR as usize]).and_then(memory::map_writable))
    }),
    Attack::new("a7_rename", |target| {
        let (from, to) = (target.path("secret"), target.path("moved"));
        attempt(libc::SYS_renameat2, &[HERE, address(&from), HERE, address(&to), 0])
    }),
    Attack::new("a7_link", |target| {
        let (from, to) = (target.path("secret"), target.path("linked"));
        attempt(libc::SYS_linkat, &[HERE, address(&from), HERE, address(&to), 0])
    }),
    Attack::new("a7_unlink", |target| attempt(libc::SYS_unlinkat, &[HERE, address(&target.path("secret")), 0])),
    Attack::new("a7_symlink", |target| {
        attempt(libc::SYS_symlinkat, &[address(c"/etc/passwd"), HERE, address(&target.path("passwd"))])
    }),
    Attack::new("a8_truncate", |target| attempt(libc::SYS_truncate, &[address(&target.path("secret")), 0])),
    Attack::new("a10_stat", |target| {
        let mut stat = MaybeUninit::<libc::stat>::uninit();
        attempt(libc::SYS_newfstatat, &[HERE, address(&target.path("secret")), stat.as_mut_ptr() as usize, 0])
    }),
    Attack::new("a10_statfs", |target| {
        let mut stat = MaybeUninit::<libc::statfs>::uninit();
        attempt(libc::SYS_statfs, &[address(&target.path("secret")), stat.as_mut_ptr() as usize])
    }),
    Attack::new("a10_inotify", |target| {
        let watch = call(libc::SYS_inotify_init1, &[0])
            .and_then(|fd| call(libc::SYS_inotify_add_watch, &[fd, address(&target.path("")), 0xfff]));
        outcome(watch)
    }),
    Attack::new("a10_read_link", |target| {
        let mut buffer = [0_u8; 64];
        let link = proc(target.pid, "exe");
        attempt(libc::SYS_readlinkat, &[HERE, address(&link), buffer.as_mut_ptr() as usize, buffer.len()])
    }),
    Attack::new("a10_chmod", |target| attempt(libc::SYS_fchmodat, &[HERE, address(&target.path("secret")), 0o600])),
    Attack::new("a10_touch", |target| attempt(libc::SYS_utimensat, &[HERE, address(&target.path("touched")), 0, 0])),
    Attack::new("a10_extended_attribute", |target| {
        let (path, value) = (target.path("touched"), c"x");
        attempt(libc::SYS_setxattr, &[address(&path), address(c"user.photondb"), address(value), 1, 0])
    }),
    Attack::new("a12_device", |_| attempt(libc::SYS_openat, &[HERE, address(c"/dev/null"), libc::O_RDWR as usize])),
    Attack::new("a12_make_device", |target| {
        let mode = (libc::S_IFCHR | 0o600) as usize;
        attempt(libc::SYS_mknodat, &[HERE, address(&target.path("null")), mode, 0x103])
    }),
    Attack::new("a13_leave_a_fifo", |target| {
        attempt(libc::SYS_mknodat, &[HERE, address(&target.path("fifo")), (libc::S_IFIFO | 0o600) as usize, 0])
    }),
    Attack::new("a14_grow_a_region", |_| attempt(libc::SYS_ftruncate, &[PLUGIN_REGION as usize, 1 << 40])),
    Attack::new("a14_allocate_space", |_| attempt(libc::SYS_fallocate, &[PLUGIN_REGION as usize, 0, 0, 1 << 40])),
    Attack::new("a15_make_directory", |target| {
        attempt(libc::SYS_mkdirat, &[HERE, address(&target.path("directory")), 0o700])
    }),
    Attack::new("a16_unnamed_file", |target| {
        let flags = (libc::O_TMPFILE | libc::O_RDWR) as usize;
        attempt(libc::SYS_openat, &[HERE, address(&target.path("")), flags, 0o600])
    }),
    Attack::new("a16_change_directory", |target| attempt(libc::SYS_chdir, &[address(&target.path(""))])),
    Attack::new("a16_change_root", |target| attempt(libc::SYS_chroot, &[address(&target.path(""))])),
    Attack::new("a16_working_directory", |_| {
        let mut buffer = [0_u8; 64];
        attempt(libc::SYS_getcwd, &[buffer.as_mut_ptr() as usize, buffer.len()])
    }),
    Attack::new("a16_standard_input", |_| {
        let mut byte = 0_u8;
        match call(libc::SYS_read, &[0, (&raw mut byte) as usize, 1]) {
            Ok(0) => "nothing to read".into(),
            other => outcome(other),
        }
    }),
    Attack::new("a16_sync", |_| attempt(libc::SYS_sync, &[])),
    Attack::new("a16_open_working_directory", |_| attempt(libc::SYS_openat, &[signed(-100), address(c".")])),
];

fn proc(pid: i32, name: &str) -> std::ffi::CString {
    std::ffi::CString::new(format!("/proc/{pid}/{name}")).unwrap_or_default()
}
