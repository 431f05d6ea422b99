//! The shipped profiles, rule by rule, on both architectures: an interpreter of the kernel's BPF says what a call
//! would get. The host's tests install the same programs for real.

use photondb_sandbox_profiles::confinement::fd;
use photondb_sandbox_profiles::seccomp::{Instruction, Listener, Program, Regions};
use photondb_sandbox_profiles::syscalls::{Arch, OWN_PID, constant};
use photondb_sandbox_profiles::verdict::{Call, Verdict, verdict};
use photondb_sandbox_profiles::{KernelFeatures, Layer, Permissions, Profiles, StateDirectory};

const PID: u32 = 4711;
const TOKEN: u64 = 0x0123_4567_89AB_CDEF;
const TWO_TO_32: u64 = 1 << 32;

use Verdict::{Allow, Errno, Kill, Stop};
const EPERM: Verdict = Errno(1);
const ENOSYS: Verdict = Errno(38);

fn kernel(arch: Arch) -> KernelFeatures {
    KernelFeatures { arch: Some(arch), landlock_abi: 7, ..KernelFeatures::default() }
}

fn program(profile: &str, arch: Arch) -> Program {
    let resolved = Profiles::builtin().resolve(profile, &Permissions::default()).expect("resolve");
    resolved.compile(&kernel(arch)).expect("compile").seccomp
}

fn run(program: &[Instruction], arch: u32, number: u32, args: [u64; 6]) -> Verdict {
    verdict(program, &Call { arch, number, args })
}

struct Filter {
    arch: Arch,
    program: Vec<Instruction>,
}

impl Filter {
    fn new(profile: &str, arch: Arch) -> Self {
        Self { arch, program: program(profile, arch).finish(PID, TOKEN, Regions::Inherited, Listener::Present) }
    }

    fn call(&self, name: &str, args: &[u64]) -> Verdict {
        let number = self.arch.number(name).unwrap_or_else(|| panic!("{name}"));
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        run(&self.program, self.arch.audit(), number, all)
    }
}

fn c(expression: &str) -> u64 {
    constant(expression).expect("constant")
}

#[test]
fn every_profile_compiles_for_every_architecture() {
    for name in Profiles::builtin().names() {
        for arch in Arch::ALL {
            let program = program(name, arch);
            println!("{name} on {arch}: {} instructions", program.len());
            // As the kernel's checker: every jump lands inside, the last instruction returns.
            let instructions = program.finish(PID, TOKEN, Regions::Inherited, Listener::Present);
            for (at, i) in instructions.iter().enumerate() {
                let furthest = match i.code {
                    0x05 => at + 1 + usize::try_from(i.k).unwrap(),
                    0x15 | 0x25 | 0x35 => at + 1 + usize::from(i.jt.max(i.jf)),
                    _ => at,
                };
                assert!(furthest < instructions.len(), "{name} on {arch}: instruction {at} {i:?}");
            }
            assert_eq!(instructions.last().map(|i| i.code), Some(0x06));
            // Nothing that only the host knows is left open.
            assert!(instructions.iter().all(|i| u64::from(i.k) != OWN_PID));
        }
    }
}

#[test]
fn strict_allows_at_most_45_calls() {
    let resolved = Profiles::builtin().resolve("strict", &Permissions::default()).unwrap();
    for arch in Arch::ALL {
        let calls = resolved.allowed_calls_on(arch);
        println!("{arch}: {} calls, {} with conditions: {calls:#?}", calls.len(), resolved.conditional_calls());
        assert!(calls.len() <= 45, "{arch}: {}", calls.len());
    }
}

#[test]
fn strict_lets_exactly_its_list_through_over_all_numbers() {
    let resolved = Profiles::builtin().resolve("strict", &Permissions::default()).unwrap();
    for arch in Arch::ALL {
        let filter = Filter::new("strict", arch);
        let allowed = resolved.allowed_calls_on(arch);
        for number in 0..=arch.last_number() + 40 {
            let verdict = run(&filter.program, arch.audit(), number, [0; 6]);
            match arch.name(number) {
                Some(name) if allowed.contains_key(name) => {}
                _ => assert_ne!(verdict, Allow, "{arch}: {number} {:?}", arch.name(number)),
            }
            if number > arch.last_number() {
                assert_eq!(verdict, ENOSYS, "{arch}: {number}");
            }
        }
    }
}

#[test]
fn other_architectures_and_x32_die_whatever_they_call() {
    for arch in Arch::ALL {
        let filter = Filter::new("strict", arch);
        for number in 0..600 {
            for other in [0x4000_0003, 0xC000_003E, 0xC000_00B7, 0x4000_0028, 0] {
                if other != arch.audit() {
                    assert_eq!(run(&filter.program, other, number, [0; 6]), Kill);
                }
            }
            assert_eq!(run(&filter.program, arch.audit(), 0x4000_0000 + number, [0; 6]), Kill);
        }
        assert_eq!(run(&filter.program, arch.audit(), u32::MAX, [0; 6]), Kill);
    }
}

#[test]
fn attacks_are_stopped_by_name_and_io_uring_does_not_exist() {
    for arch in Arch::ALL {
        let filter = Filter::new("strict", arch);
        let stopped = [
            "openat",
            "socket",
            "connect",
            "bind",
            "execve",
            "execveat",
            "kill",
            "tkill",
            "ptrace",
            "process_vm_readv",
            "memfd_create",
            "bpf",
            "perf_event_open",
            "mount",
            "unshare",
            "setns",
            "keyctl",
            "userfaultfd",
            "pidfd_getfd",
            "ftruncate",
            "fallocate",
            "pwrite64",
            "unlinkat",
            "renameat2",
            "setresuid",
        ];
        for name in stopped {
            assert_eq!(filter.call(name, &[0; 6]), Stop, "{arch}: {name}");
        }
        for name in ["io_uring_setup", "io_uring_enter", "clone3", "statx", "memfd_secret"] {
            assert_eq!(filter.call(name, &[0; 6]), ENOSYS, "{arch}: {name}");
        }
        for name in ["getppid", "prctl", "readlinkat", "newfstatat", "setsockopt", "seccomp", "pipe2", "dup"] {
            assert_eq!(filter.call(name, &[0; 6]), EPERM, "{arch}: {name}");
        }
    }
}

/// Every rule with conditions: good arguments, bad ones, and good ones with a bit above what the kernel reads.
#[test]
fn every_condition_of_strict_keeps_what_it_promises() {
    let (read, write, exec) = (c("PROT_READ"), c("PROT_WRITE"), c("PROT_EXEC"));
    let heap = c("MAP_PRIVATE|MAP_ANONYMOUS");
    let shared = c("MAP_SHARED");
    let pthread = 0x3D_0F00;
    let pid = u64::from(PID);
    let (own, server) = (fd::PLUGIN_REGION as u64, fd::SERVER_REGION as u64);
    let cases: &[(&str, &[u64], Verdict)] = &[
        ("write", &[1, 0, 1], Allow),
        ("write", &[server], Stop),
        ("write", &[server + TWO_TO_32], Stop),
        ("writev", &[server], Stop),
        ("sendto", &[3, 0, 0, 0, 0, 0], Allow),
        ("sendto", &[3, 0, 0, 0, TWO_TO_32, 16], Stop),
        ("fcntl", &[3, c("F_GETFL")], Allow),
        ("fcntl", &[3, c("F_SETFL"), c("O_RDWR|O_NONBLOCK")], Allow),
        ("fcntl", &[3, c("F_SETFL"), 0o20000], EPERM),
        ("fcntl", &[3, c("F_SETFL"), c("O_NONBLOCK") + TWO_TO_32], EPERM),
        ("fcntl", &[3, 8, 1], EPERM),
        ("fcntl", &[3, 10, 1], EPERM),
        ("ioctl", &[3, c("FIONBIO")], Allow),
        ("ioctl", &[3, c("TIOCSTI")], EPERM),
        ("ioctl", &[3, c("TIOCSTI") + TWO_TO_32], EPERM),
        ("mmap", &[0, 4096, read | write, heap, u64::MAX], Allow),
        ("mmap", &[0, 4096, 0, heap | c("MAP_NORESERVE")], Allow),
        ("mmap", &[0, 4096, read | exec, heap], Stop),
        ("mmap", &[0, 4096, read | TWO_TO_32, heap], Stop),
        ("mmap", &[0, 4096, read, heap | TWO_TO_32], Stop),
        ("mmap", &[0, 4096, read, shared, server], Allow),
        ("mmap", &[0, 4096, read, shared | c("MAP_POPULATE"), 9], Allow),
        ("mmap", &[0, 4096, read | write, shared, own], Allow),
        ("mmap", &[0, 4096, read | write, shared, server], Stop),
        ("mmap", &[0, 4096, read | write, shared, 9], Stop),
        ("mmap", &[0, 4096, exec, shared, own], Stop),
        ("mmap", &[0, 4096, read, c("MAP_PRIVATE"), 9], Stop),
        ("mprotect", &[0, 4096, read | write], Allow),
        ("mprotect", &[0, 4096, read | exec], Stop),
        ("mprotect", &[0, 4096, read | TWO_TO_32], Stop),
        ("mremap", &[0, 1, 2, 1], Allow),
        ("mremap", &[0, 1, 2, 3], EPERM),
        ("madvise", &[0, 1, 4], Allow),
        ("madvise", &[0, 1, 9], EPERM),
        ("madvise", &[0, 1, 21], EPERM),
        ("clone", &[pthread], Allow),
        ("clone", &[pthread | 0x40_0000], Allow),
        ("clone", &[17], Stop),
        ("clone", &[pthread | 0x1000_0000], Stop),
        ("clone", &[pthread + TWO_TO_32], Stop),
        ("futex", &[0, 0], Allow),
        ("futex", &[0, 128], Allow),
        ("futex", &[0, 129], Allow),
        ("futex", &[0, 9 | 128 | 256], Allow),
        ("futex", &[0, 10 | 128], Allow),
        ("futex", &[0, 6], EPERM),
        ("futex", &[0, 3 | 128], EPERM),
        ("futex", &[0, 512], EPERM),
        ("sched_getaffinity", &[0, 8], Allow),
        ("sched_getaffinity", &[1, 8], ENOSYS),
        ("clock_gettime", &[1], Allow),
        ("clock_gettime", &[8], EPERM),
        ("clock_gettime", &[u64::MAX - 5], EPERM),
        ("clock_nanosleep", &[1], Allow),
        ("clock_nanosleep", &[2], EPERM),
        ("tgkill", &[pid, pid, 6], Allow),
        ("tgkill", &[pid + TWO_TO_32, pid, 6], Allow),
        ("tgkill", &[pid + 1, pid, 6], Stop),
        ("tgkill", &[0, pid, 6], Stop),
        ("tgkill", &[OWN_PID, pid, 6], Stop),
        ("prlimit64", &[0, 7, 0, 1], Allow),
        // The kernel reads the lower half of a pid, which is 0: itself.
        ("prlimit64", &[TWO_TO_32, 7, 0, 1], Allow),
        ("prlimit64", &[1, 7, 0, 1], Stop),
        ("prlimit64", &[0, 7, TWO_TO_32, 0], Stop),
        ("prlimit64", &[0, 7, 1, 0], Stop),
        ("execveat", &[7, 0, 0, 0, 0x1000, TOKEN], Allow),
        ("execveat", &[7, 0, 0, 0, 0x1000, 0], Stop),
        ("execveat", &[7, 0, 0, 0, 0x1000, TOKEN ^ 1], Stop),
        ("execveat", &[7, 0, 0, 0, 0x1000, TOKEN ^ TWO_TO_32], Stop),
        ("execveat", &[8, 0, 0, 0, 0x1000, TOKEN], Stop),
        ("execveat", &[7, 0, 0, 0, 0, TOKEN], Stop),
        ("sendmsg", &[4, 0, 0, 0, 0, TOKEN], Allow),
        ("sendmsg", &[3, 0, 0, 0, 0, TOKEN], EPERM),
        ("sendmsg", &[4, 0, 0, 0, 0, 0], EPERM),
    ];
    for arch in Arch::ALL {
        let filter = Filter::new("strict", arch);
        for (name, args, verdict) in cases {
            assert_eq!(filter.call(name, args), *verdict, "{arch}: {name} {args:x?}");
        }
    }
    let filter = Filter::new("strict", Arch::x86_64);
    assert_eq!(filter.call("arch_prctl", &[0x1002]), Allow);
    assert_eq!(filter.call("arch_prctl", &[0x1001]), EPERM);
    assert_eq!(filter.call("epoll_pwait", &[0]), ENOSYS);
    assert_eq!(Filter::new("strict", Arch::aarch64).call("epoll_pwait", &[0]), Allow);
}

#[test]
fn without_a_listener_attacks_die_and_runtimes_still_start() {
    for arch in Arch::ALL {
        let program = program("strict", arch).finish(PID, TOKEN, Regions::Inherited, Listener::Absent);
        let filter = Filter { arch, program };
        for name in ["socket", "ptrace", "execve", "execveat"] {
            assert_eq!(filter.call(name, &[0; 6]), Kill, "{arch}: {name}");
        }
        assert_eq!(filter.call("openat", &[0; 6]), EPERM);
    }
}

#[test]
fn programs_survive_the_way_to_the_host_and_broken_ones_do_not() {
    let program = program("strict", Arch::x86_64);
    let text = serde_json::to_string(&program).unwrap();
    assert_eq!(serde_json::from_str::<Program>(&text).unwrap(), program);
    for broken in [
        r#"{"code":"","places":{"own_pid":[],"token_high":[],"token_low":[],"server_region":[],"plugin_region":[]}}"#,
        r#"{"code":"00","places":{"own_pid":[],"token_high":[],"token_low":[],"server_region":[],"plugin_region":[]}}"#,
        r#"{"code":"000600007fff000z","places":{"own_pid":[],"token_high":[],"token_low":[],"server_region":[],"plugin_region":[]}}"#,
        r#"{"code":"000600007fff0000","places":{"own_pid":[1],"token_high":[],"token_low":[],"server_region":[],"plugin_region":[]}}"#,
    ] {
        assert!(serde_json::from_str::<Program>(broken).is_err(), "{broken}");
    }
}

#[test]
fn weaker_profiles_are_weaker_where_they_say_and_nowhere_else() {
    let (read, write, exec) = (c("PROT_READ"), c("PROT_WRITE"), c("PROT_EXEC"));
    for arch in Arch::ALL {
        let dynamic = Filter::new("dynamic", arch);
        assert_eq!(dynamic.call("openat", &[0, 0, c("O_CLOEXEC")]), Allow);
        assert_eq!(dynamic.call("openat", &[0, 0, c("O_RDWR")]), EPERM);
        assert_eq!(dynamic.call("openat", &[0, 0, 0o100]), EPERM);
        assert_eq!(dynamic.call("mmap", &[0, 1, read | exec, c("MAP_PRIVATE|MAP_FIXED")]), Allow);
        assert_eq!(dynamic.call("mmap", &[0, 1, read | write | exec, c("MAP_PRIVATE")]), Stop);
        assert_eq!(dynamic.call("mmap", &[0, 1, read | exec, c("MAP_PRIVATE|MAP_ANONYMOUS")]), Stop);
        let jit = Filter::new("jit", arch);
        assert_eq!(jit.call("mprotect", &[0, 1, read | exec]), Allow);
        assert_eq!(jit.call("mprotect", &[0, 1, read | write | exec]), Stop);
        assert_eq!(jit.call("openat", &[0, 0, c("O_RDWR")]), EPERM);
        assert_eq!(jit.call("mmap", &[0, 1, read | write | exec, c("MAP_PRIVATE|MAP_ANONYMOUS")]), Stop);
        for profile in Profiles::builtin().names() {
            let filter = Filter::new(profile, arch);
            for name in ["execve", "socket", "connect", "ptrace", "kill", "memfd_create", "mount", "bpf", "setns"] {
                assert_eq!(filter.call(name, &[0; 6]), Stop, "{profile} on {arch}: {name}");
            }
            assert_eq!(filter.call("clone", &[17]), Stop);
            assert_eq!(filter.call("prlimit64", &[1]), Stop);
            assert_eq!(filter.call("ioctl", &[0, c("TIOCSTI")]), EPERM, "{profile} on {arch}");
        }
    }
}

#[test]
fn required_layers_are_those_that_every_machine_has() {
    let resolved = Profiles::builtin().resolve("strict", &Permissions::default()).unwrap();
    let confinement = resolved.require(&[Layer::Cgroup]).compile(&kernel(Arch::x86_64)).unwrap();
    for layer in [Layer::Seccomp, Layer::NoNewPrivs, Layer::Landlock, Layer::Rlimits, Layer::Cgroup] {
        assert!(confinement.required.contains(&layer), "{layer}");
    }
    assert!(confinement.excused.iter().any(|path| path == "/proc/self/maps"));
}

/// Calls with the permission `name` that strict alone refuses.
fn with(permissions: Permissions, arch: Arch) -> Filter {
    let resolved = Profiles::builtin().resolve("strict", &permissions).expect("resolve");
    let program = resolved.compile(&kernel(arch)).expect("compile").seccomp;
    Filter { arch, program: program.finish(PID, TOKEN, Regions::Inherited, Listener::Present) }
}

#[test]
fn permissions_only_add() {
    let state = StateDirectory { path: "/srv/state".into(), bytes: 1 << 20, files: 10 };
    let state = Permissions { state: Some(state), ..Permissions::default() };
    let connect = Permissions { connect: true, ..Permissions::default() };
    let both = Permissions { connect: true, ..state.clone() };
    for arch in Arch::ALL {
        let strict = Filter::new("strict", arch);
        for permissions in [state.clone(), connect.clone(), both.clone()] {
            let filter = with(permissions, arch);
            for number in 0..arch.last_number() {
                for args in [[0; 6], [1; 6], [7; 6], [0, 0, 0x1002, 1, 0, 0], [0, 4096, 3, 0x22, u64::MAX, 0]] {
                    let call = |filter: &Filter| run(&filter.program, arch.audit(), number, args);
                    if call(&strict) == Allow {
                        assert_eq!(call(&filter), Allow, "{arch}: {:?} {args:x?}", arch.name(number));
                    }
                }
            }
            for name in ["socket", "connect", "bind", "execve", "ptrace", "memfd_create", "chmod", "fchmod", "linkat"] {
                if arch.number(name).is_some() {
                    assert_eq!(filter.call(name, &[0; 6]), Stop, "{arch}: {name}");
                }
            }
        }
    }
}

#[test]
fn state_is_what_a_storage_engine_needs_and_connect_what_a_stream_needs() {
    let (read, write, exec) = (c("PROT_READ"), c("PROT_WRITE"), c("PROT_EXEC"));
    let state = StateDirectory { path: "/srv/state".into(), bytes: 1 << 20, files: 10 };
    let state = Permissions { state: Some(state), ..Permissions::default() };
    let server = fd::SERVER_REGION as u64;
    let files: &[(&str, &[u64], Verdict)] = &[
        ("openat", &[0, 0, c("O_RDWR|O_CREAT|O_TRUNC|O_CLOEXEC")], Allow),
        ("openat", &[0, 0, 0o1000_0000 | c("O_CLOEXEC")], Stop), // O_PATH
        ("openat", &[0, 0, 0o2000_0000 | c("O_RDWR")], Stop),    // O_TMPFILE
        ("openat", &[0, 0, 0o2_0000_0000], Stop),
        ("openat2", &[0, 0, 0], Stop),
        ("renameat2", &[0, 0, 0, 0, 1], Allow),
        ("renameat2", &[0, 0, 0, 0, 2], Stop),
        ("pwrite64", &[server], Stop),
        ("pwrite64", &[8], Allow),
        ("fallocate", &[8, 1], Allow),
        ("fallocate", &[8, 3], Stop),
        ("fallocate", &[server, 0], Stop),
        ("fcntl", &[8, c("F_SETLK")], Allow),
        ("fcntl", &[8, 8], EPERM),
        ("mmap", &[0, 4096, read | write, c("MAP_SHARED"), 8], Allow),
        ("mmap", &[0, 4096, read | write, c("MAP_SHARED"), server], Stop),
        ("mmap", &[0, 4096, read | exec, c("MAP_PRIVATE"), 8], Stop),
        ("fsync", &[8], Allow),
        ("setxattr", &[0], Stop),
        ("fchown", &[0], Stop),
        ("statx", &[0], ENOSYS),
        ("setsockopt", &[8, 6, 1], EPERM),
    ];
    let connect = Permissions { connect: true, ..Permissions::default() };
    let streams: &[(&str, &[u64], Verdict)] = &[
        ("setsockopt", &[8, 6, 1], Allow),
        ("setsockopt", &[8, 1, 20], Allow),
        ("setsockopt", &[8, 1, 8], EPERM),  // SO_RCVBUF
        ("setsockopt", &[8, 1, 26], EPERM), // SO_ATTACH_FILTER
        ("setsockopt", &[8, 6, 31], EPERM), // TCP_ULP
        ("getsockopt", &[8, 1, 4], Allow),
        ("getsockopt", &[8, 1, 17], EPERM), // SO_PEERCRED
        ("shutdown", &[8, 2], Allow),
        ("getpeername", &[8], Allow),
        ("sendto", &[8, 0, 0, 0, 1, 16], Stop),
        ("openat", &[0], Stop),
    ];
    for arch in Arch::ALL {
        for (permissions, cases) in [(&state, files), (&connect, streams)] {
            let filter = with(permissions.clone(), arch);
            for (name, args, verdict) in cases {
                assert_eq!(filter.call(name, args), *verdict, "{arch}: {name} {args:x?}");
            }
        }
    }
}

#[test]
fn a_state_directory_needs_a_landlock_that_keeps_it() {
    let state = StateDirectory { path: "/srv/state".into(), bytes: 1 << 20, files: 10 };
    let permissions = Permissions { state: Some(state), ..Permissions::default() };
    let resolved = Profiles::builtin().resolve("strict", &permissions).unwrap();
    let resolved = resolved.accept_degraded(&[Layer::Landlock]).unwrap();
    for abi in 0..3 {
        let error = resolved.compile(&KernelFeatures { landlock_abi: abi, ..kernel(Arch::x86_64) }).unwrap_err();
        assert!(error.to_string().contains("ABI 3"), "{error}");
    }
    let confinement = resolved.compile(&KernelFeatures { landlock_abi: 3, ..kernel(Arch::x86_64) }).unwrap();
    assert_eq!(confinement.state.as_deref(), Some("/srv/state".as_ref()));
}

#[test]
fn rules_about_regions_mean_no_descriptor_of_a_command() {
    for arch in Arch::ALL {
        let program = program("strict", arch).finish(PID, TOKEN, Regions::Absent, Listener::Present);
        let filter = Filter { arch, program };
        assert_eq!(filter.call("write", &[5]), Allow);
        assert_eq!(filter.call("mmap", &[0, 4096, 3, 1, 6]), Stop);
    }
}
