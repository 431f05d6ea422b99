//! E: programs, privilege, namespaces, code.

use std::arch::asm;
use std::ptr;

use super::kernel::{address, attempt, call, outcome, signed};
use super::{Attack, EXECUTABLE, memory};

/// The numbers of the 32-bit table, and the bit of the x32 one.
#[cfg(target_arch = "x86_64")]
const OPEN_OF_I386: usize = 5;
#[cfg(target_arch = "x86_64")]
const X32: libc::c_long = 0x4000_0000;

pub(super) const ATTACKS: &[Attack] = &[
    Attack::new("e1_exec", |_| execve(c"/bin/true")),
    Attack::new("e1_exec_setuid", |_| execve(c"/bin/su")),
    Attack::new("e2_memfd", |_| attempt(libc::SYS_memfd_create, &[address(c"x"), 0])),
    Attack::new("e2_secret_memory", |_| attempt(libc::SYS_memfd_secret, &[0])),
    Attack::new("e3_exec_own_file", |_| execveat(EXECUTABLE as usize)),
    Attack::new("e3_exec_region", |_| execveat(super::PLUGIN_REGION as usize)),
    Attack::new("e3_take_the_number", |_| attempt(libc::SYS_dup3, &[super::CONTROL as usize, EXECUTABLE as usize, 0])),
    Attack::new("e4_unshare", |_| attempt(libc::SYS_unshare, &[libc::CLONE_NEWUSER as usize])),
    Attack::new("e4_clone_user", |_| attempt(libc::SYS_clone, &[(libc::CLONE_NEWUSER | libc::SIGCHLD) as usize])),
    Attack::new("e4_setns", |_| attempt(libc::SYS_setns, &[3, 0])),
    Attack::new("e4_clone3", |_| {
        let arguments = [0_u64; 11];
        attempt(libc::SYS_clone3, &[arguments.as_ptr() as usize, 88])
    }),
    Attack::new("e4_mount", |target| {
        attempt(libc::SYS_mount, &[address(c"none"), address(&target.path("")), address(c"tmpfs"), 0, 0])
    }),
    Attack::new("e4_pivot_root", |_| attempt(libc::SYS_pivot_root, &[address(c"."), address(c".")])),
    Attack::new("e4_open_tree", |_| attempt(libc::SYS_open_tree, &[signed(-100), address(c"/"), 1])),
    Attack::new("e6_setuid", |_| attempt(libc::SYS_setuid, &[0])),
    Attack::new("e6_setresuid", |_| attempt(libc::SYS_setresuid, &[0, 0, 0])),
    Attack::new("e6_setgroups", |_| attempt(libc::SYS_setgroups, &[0, 0])),
    Attack::new("e6_capset", |_| {
        let (header, all) = ([0x2008_0522_u32, 0], [u32::MAX; 6]);
        attempt(libc::SYS_capset, &[header.as_ptr() as usize, all.as_ptr() as usize])
    }),
    Attack::new("e6_ambient", |_| {
        attempt(libc::SYS_prctl, &[libc::PR_CAP_AMBIENT as usize, libc::PR_CAP_AMBIENT_RAISE as usize, 1, 0, 0])
    }),
    Attack::new("e6_keep_capabilities", |_| attempt(libc::SYS_prctl, &[libc::PR_SET_KEEPCAPS as usize, 1])),
    Attack::new("e6_keyring", |_| attempt(libc::SYS_keyctl, &[0, signed(-3), 1])),
    Attack::new("e6_add_key", |_| {
        attempt(libc::SYS_add_key, &[address(c"user"), address(c"x"), address(c"y"), 1, signed(-3)])
    }),
    Attack::new("e8_executable_heap", |_| outcome(page().and_then(|page| protect(page, libc::PROT_EXEC)))),
    Attack::new("e8_executable_mapping", |_| {
        let protection = (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as usize;
        attempt(libc::SYS_mmap, &[0, 4096, protection, (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize, signed(-1)])
    }),
    Attack::new("e8_executable_region", |_| {
        let protection = (libc::PROT_READ | libc::PROT_EXEC) as usize;
        attempt(libc::SYS_mmap, &[0, 4096, protection, libc::MAP_SHARED as usize, super::PLUGIN_REGION as usize, 0])
    }),
    Attack::new("e8_writable_code", |_| {
        let code = execve as *const () as usize & !4095;
        attempt(libc::SYS_mprotect, &[code, 4096, (libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC) as usize])
    }),
    Attack::new("e8_protection_keys", |_| {
        outcome(page().and_then(|page| {
            call(libc::SYS_pkey_mprotect, &[page, 4096, (libc::PROT_READ | libc::PROT_EXEC) as usize, signed(-1)])
        }))
    }),
    Attack::new("e8_readable_is_executable", |_| attempt(libc::SYS_personality, &[0x0040_0000])),
    Attack::new("e8_jump_into_the_heap", |_| {
        let page = page().unwrap_or_default();
        // SAFETY: none: the page is no code, and the kernel ends whoever jumps there.
        let code = unsafe { std::mem::transmute::<usize, extern "C" fn()>(page) };
        code();
        "it worked".into()
    }),
    #[cfg(target_arch = "x86_64")]
    Attack::new("e9_int_80", |_| {
        let number = OPEN_OF_I386;
        let result: usize;
        // SAFETY: none: where it is not stopped, a call of the 32-bit table with a null pointer, which is an error.
        unsafe { asm!("int 0x80", inlateout("rax") number => result, options(nostack)) };
        format!("it came back with {result}")
    }),
    #[cfg(target_arch = "x86_64")]
    Attack::new("e9_x32", |_| attempt(X32 | libc::SYS_getpid, &[])),
    #[cfg(target_arch = "x86_64")]
    Attack::new("e9_x32_exec", |_| attempt(X32 | 520, &[address(c"/bin/true"), 0, 0])),
    Attack::new("e10_high_pid", |target| {
        let high = 1_usize << 32 | signed(target.pid);
        let old = [0_u64; 2];
        attempt(libc::SYS_prlimit64, &[high, libc::RLIMIT_NOFILE as usize, 0, old.as_ptr() as usize])
    }),
    Attack::new("e10_high_protection", |_| {
        outcome(page().and_then(|page| call(libc::SYS_mprotect, &[page, 4096, 1 << 32 | libc::PROT_EXEC as usize])))
    }),
    Attack::new("e10_high_clone", |_| attempt(libc::SYS_clone, &[1 << 32 | libc::SIGCHLD as usize])),
    Attack::new("e10_high_target", |target| {
        attempt(libc::SYS_tgkill, &[1 << 32 | signed(target.pid), signed(target.pid), 0])
    }),
    Attack::new("e10_high_request", |_| {
        let byte = c"x";
        attempt(libc::SYS_ioctl, &[1, 1 << 32 | libc::TIOCSTI as usize, address(byte)])
    }),
    Attack::new("e10_high_descriptor", |_| {
        // The region that the server writes, with a bit that the kernel does not look at.
        attempt(libc::SYS_write, &[1 << 32 | super::SERVER_REGION as usize, address(c"x"), 1])
    }),
    Attack::new("e12_dumpable", |_| attempt(libc::SYS_prctl, &[libc::PR_SET_DUMPABLE as usize, 1])),
    Attack::new("e12_no_filter", |_| attempt(libc::SYS_prctl, &[libc::PR_SET_SECCOMP as usize, 0])),
    Attack::new("e12_own_filter", |_| attempt(libc::SYS_seccomp, &[1, 0, 0])),
    Attack::new("e12_landlock", |_| attempt(libc::SYS_landlock_create_ruleset, &[0, 0, 1])),
    Attack::new("e12_thread_area", |_| attempt(libc::SYS_arch_prctl, &[0x1001, 0])),
    Attack::new("e12_no_new_privs", |_| attempt(libc::SYS_prctl, &[libc::PR_SET_NO_NEW_PRIVS as usize, 0])),
    Attack::new("e12_who_traces_me", |_| attempt(libc::SYS_prctl, &[0x5961_6d61, signed(-1)])),
    Attack::new("e12_map_at_zero", |_| {
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED) as usize;
        attempt(libc::SYS_mmap, &[0, 4096, libc::PROT_READ as usize, flags, signed(-1), 0])
    }),
    Attack::new("e12_remap_at_will", |_| {
        let fixed = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as usize;
        outcome(page().and_then(|page| call(libc::SYS_mremap, &[page, 4096, 4096, fixed, memory::SOMEWHERE])))
    }),
];

fn execve(path: &std::ffi::CStr) -> String {
    let arguments: [*const libc::c_char; 2] = [path.as_ptr(), ptr::null()];
    attempt(libc::SYS_execve, &[address(path), arguments.as_ptr() as usize, 0])
}

fn execveat(descriptor: usize) -> String {
    let arguments: [*const libc::c_char; 2] = [c"again".as_ptr(), ptr::null()];
    let flags = libc::AT_EMPTY_PATH as usize;
    attempt(libc::SYS_execveat, &[descriptor, address(c""), arguments.as_ptr() as usize, 0, flags])
}

/// A private page.
fn page() -> std::io::Result<usize> {
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as usize;
    call(libc::SYS_mmap, &[0, 4096, (libc::PROT_READ | libc::PROT_WRITE) as usize, flags, signed(-1), 0])
}

fn protect(page: usize, protection: i32) -> std::io::Result<usize> {
    call(libc::SYS_mprotect, &[page, 4096, (libc::PROT_READ | protection) as usize])
}
