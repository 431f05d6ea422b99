//! Real programs of this machine, as `photondb sandbox run` and `learn` start them: as root also as another user.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use nix::unistd::geteuid;
use photondb_plugin_host::judge::RefusedBy;
use photondb_plugin_host::{Command, CommandError, RefusedCall};
use photondb_sandbox_profiles::profile::Access;
use photondb_sandbox_profiles::{KernelFeatures, Permissions, Profiles, ResolvedProfile};

const NOBODY: u32 = 65_534;

fn host() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_photondb-plugin-host"))
}

fn profile(name: &str, permissions: Permissions) -> ResolvedProfile {
    let permissions = Permissions { memory_bytes: 1 << 30, threads: 16, ..permissions };
    Profiles::builtin().resolve(name, &permissions).expect("resolve")
}

fn command(profile: &ResolvedProfile, program: &Path, arguments: &[&str]) -> Command {
    let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    Command::new(program, &arguments, profile, &KernelFeatures::probe()).expect("a command")
}

/// The exit statuses of `program` as every user that we can make it run as; all the same, or it is told which was not.
fn exit_status(profile: &ResolvedProfile, program: &Path, arguments: &[&str]) -> i32 {
    let run = |command: Command| {
        let ended = command.spawn(host()).expect("spawn").wait(|_| ()).expect("wait");
        ended.status.code().unwrap_or_else(|| panic!("{} {arguments:?}: {ended:?}", program.display()))
    };
    let status = run(command(profile, program, arguments));
    if geteuid().is_root() {
        assert_eq!(run(command(profile, program, arguments).run_as(NOBODY, NOBODY)), status, "as another user");
    } else {
        eprintln!("skipped: as another user (needs root)");
    }
    status
}

/// A program of this machine; `None` says that the test skips it.
fn installed(path: &str) -> Option<PathBuf> {
    let path = PathBuf::from(path);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: {} is not installed", path.display());
    None
}

/// A C program that does what most do at their start, and ends with 42.
fn compiled(flag: &str) -> Option<(tempfile::TempDir, PathBuf)> {
    let source = r#"
        #include <locale.h>
        #include <pthread.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <time.h>
        #include <unistd.h>
        static void *work(void *x) { return x; }
        int main(void) {
            pthread_t thread;
            time_t now = time(0);
            setlocale(LC_ALL, "");
            if (pthread_create(&thread, 0, work, 0) || pthread_join(thread, 0)) return 1;
            char *block = malloc(1 << 22);
            if (!block || !localtime(&now) || sysconf(_SC_NPROCESSORS_ONLN) < 1) return 2;
            block[0] = isatty(1);
            if (getuid() == (uid_t)-1 || fopen("/etc/passwd", "r")) return 3;
            free(block);
            return printf("started\n") < 0 ? 4 : 42;
        }"#;
    let directory = tempfile::tempdir().expect("tempdir");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
    let (file, program) = (directory.path().join("start.c"), directory.path().join("start"));
    fs::write(&file, source).expect("write");
    let compiled = Process::new("cc").args([flag, "-pthread", "-o"]).args([&program, &file]).status();
    if compiled.is_ok_and(|status| status.success()) {
        return Some((directory, program));
    }
    eprintln!("skipped: cc {flag} does not work here");
    None
}

#[test]
fn static_programs_start_in_every_profile() {
    for flag in ["-static", "-static-pie"] {
        let Some((_directory, program)) = compiled(flag) else { continue };
        for name in Profiles::builtin().names() {
            assert_eq!(exit_status(&profile(name, Permissions::default()), &program, &[]), 42, "{flag} in {name}");
        }
    }
    let Some(busybox) = installed("/usr/bin/busybox").or_else(|| installed("/bin/busybox")) else { return };
    let strict = profile("strict", Permissions::default());
    assert_eq!(exit_status(&strict, &busybox, &["echo", "hello"]), 0);
    assert_eq!(exit_status(&strict, &busybox, &["sh", "-c", "exit $((40 + 2))"]), 42);
    assert_eq!(exit_status(&strict, &busybox, &["cat", "/etc/passwd"]), 1, "no file is there");
}

#[test]
fn dynamic_programs_start_where_libraries_may_be_read_and_not_in_strict() {
    let Some((_directory, program)) = compiled("-O1") else { return };
    for name in ["dynamic", "interpreter", "jit", "gpu"] {
        assert_eq!(exit_status(&profile(name, Permissions::default()), &program, &[]), 42, "{name}");
    }
    let refused = command(&profile("strict", Permissions::default()), &program, &[]).spawn(host());
    match refused {
        Err(CommandError::Refused(reason)) => assert!(reason.contains("`dynamic`"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn programs_of_the_machine_see_their_libraries_and_nothing_else() {
    let dynamic = profile("dynamic", Permissions::default());
    if let Some(ls) = installed("/bin/ls") {
        assert_eq!(exit_status(&dynamic, &ls, &["/usr/lib"]), 0);
        for closed in ["/", "/etc", "/root", "/proc"] {
            assert_eq!(exit_status(&dynamic, &ls, &[closed]), 2, "{closed}");
        }
    }
    let Some(python) = installed("/usr/bin/python3") else { return };
    let script = r#"
import json, os, sys
for path in ["/etc/passwd", "/etc/shadow", "/proc/self/maps", "/root/.profile"]:
    try:
        open(path)
        sys.exit(1)
    except PermissionError:
        pass
    except FileNotFoundError:
        if path == "/etc/passwd": sys.exit(2)
for attempt in [lambda: open("/tmp/photondb-test", "w"), lambda: os.listdir("/"), lambda: os.mkdir("/usr/lib/x")]:
    try:
        attempt()
        sys.exit(3)
    except OSError:
        pass
sys.exit(42)"#;
    for name in ["dynamic", "interpreter"] {
        assert_eq!(exit_status(&profile(name, Permissions::default()), &python, &["-c", script]), 42, "{name}");
    }
}

#[test]
fn engines_that_generate_code_need_the_profile_that_says_so() {
    let Some(luajit) = installed("/usr/bin/luajit") else { return };
    let hot = ["-e", "local s = 0 for i = 1, 1e7 do s = s + i % 7 end os.exit(s > 0 and 42 or 1)"];
    assert_eq!(exit_status(&profile("jit", Permissions::default()), &luajit, &hot), 42);
    let dynamic = command(&profile("dynamic", Permissions::default()), &luajit, &hot);
    let ended = dynamic.spawn(host()).expect("spawn").wait(|_| ()).expect("wait");
    assert_eq!(ended.denied.map(|call| call.name).as_deref(), Some("mprotect"));
    assert_eq!(ended.status.signal(), Some(9));
}

#[test]
fn paths_that_are_given_can_be_used_as_given() {
    let Some(python) = installed("/usr/bin/python3") else { return };
    let directory = tempfile::tempdir().expect("tempdir");
    let (read, write) = (directory.path().join("read"), directory.path().join("write"));
    for path in [&read, &write] {
        fs::create_dir(path).expect("mkdir");
    }
    for path in [directory.path(), &read, &write] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).expect("chmod");
    }
    fs::write(read.join("file"), "given").expect("write");
    std::os::unix::fs::symlink(&read, directory.path().join("link")).expect("symlink");
    let script = r#"
import os, sys
base = sys.argv[1]
assert open(base + "/link/file").read() == "given"
for path in ["/read/new", "/read/file", "/new"]:
    try:
        open(base + path, "w")
        sys.exit(1)
    except OSError:
        pass
with open(base + "/write/new", "w") as file:
    file.write("made")
os.rename(base + "/write/new", base + "/write/renamed")
assert open(base + "/write/renamed").read() == "made"
os.unlink(base + "/write/renamed")
assert os.getcwd() == base + "/write"
sys.exit(42)"#;
    let permissions =
        Permissions { read: vec![directory.path().join("link")], write: vec![write.clone()], ..Permissions::default() };
    let base = directory.path().display().to_string();
    let command = command(&profile("dynamic", permissions), &python, &["-c", script, &base]).current_dir(&write);
    let ended = command.spawn(host()).expect("spawn").wait(|_| ()).expect("wait");
    assert_eq!(ended.status.code(), Some(42), "{ended:?}");
}

#[test]
fn a_directory_that_the_host_could_use_itself_can_be_given_too() {
    let Some(python) = installed("/usr/bin/python3") else { return };
    let script = r#"
import os, sys
try:
    os.listdir("/")
    sys.exit(1)
except PermissionError:
    os.listdir(sys.argv[1])
sys.exit(42)"#;
    for given in ["/tmp", "/dev"] {
        let permissions = Permissions { read: vec![given.into()], ..Permissions::default() };
        assert_eq!(exit_status(&profile("dynamic", permissions), &python, &["-c", script, given]), 42, "{given}");
    }
    let permissions = Permissions { read: vec!["/".into()], ..Permissions::default() };
    let everything = profile("dynamic", permissions);
    let script = "import os; os.listdir('/etc'); raise SystemExit(42)";
    assert_eq!(exit_status(&everything, &python, &["-c", script]), 42);
}

#[test]
fn a_command_gets_the_environment_that_it_is_given_and_no_more() {
    let Some(python) = installed("/usr/bin/python3") else { return };
    let script = r#"
import os, sys
sys.exit(42 if dict(os.environ) in ({"GIVEN": "1"}, {"GIVEN": "1", "LC_CTYPE": "C.UTF-8"}) else 1)"#;
    let command = command(&profile("dynamic", Permissions::default()), &python, &["-c", script]).env("GIVEN", "1");
    let ended = command.spawn(host()).expect("spawn").wait(|_| ()).expect("wait");
    assert_eq!(ended.status.code(), Some(42), "{ended:?}");
}

fn learn(name: &str, program: &Path, arguments: &[&str]) -> (Option<i32>, Vec<RefusedCall>) {
    let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let profile = profile(name, Permissions::default());
    let command = Command::learning(program, &arguments, &profile, &KernelFeatures::probe()).expect("a command");
    let mut learned = Vec::new();
    let status = command.spawn(host()).expect("spawn").learn(|call| learned.push(call)).expect("learn");
    (status.code(), learned)
}

#[test]
fn learning_names_what_would_have_been_refused_and_refuses_nothing() {
    let Some(python) = installed("/usr/bin/python3") else { return };
    let directory = tempfile::tempdir().expect("tempdir");
    let made = directory.path().join("made").display().to_string();
    let script = r#"
import os, sys
open("/etc/passwd").read()
os.mkdir(sys.argv[1])
os.chdir(sys.argv[1])
os.mkdir("below")
sys.exit(42)"#;
    let (status, learned) = learn("dynamic", &python, &["-c", script, &made]);
    assert_eq!(status, Some(42), "{learned:?}");
    assert!(Path::new(&made).join("below").is_dir(), "it could do what it wanted");
    let has = |call: &str, path: &str| {
        let found = learned.iter().find(|it| it.call.name == call && it.call.path.as_deref() == Some(path));
        found.map(|it| it.refused_by)
    };
    assert_eq!(has("openat", "/etc/passwd"), Some(RefusedBy::Landlock(Access::Read)));
    assert!(matches!(has("mkdir", &made), Some(RefusedBy::Seccomp(_))), "{learned:?}");
    assert!(has("mkdir", &format!("{made}/below")).is_some(), "relative paths are shown from the root: {learned:?}");
    assert!(!learned.iter().any(|it| it.call.path.as_deref().is_some_and(|path| path.contains("/usr/lib"))));
}

#[test]
fn what_is_no_program_is_refused_by_name() {
    let strict = profile("strict", Permissions::default());
    let kernel = KernelFeatures::probe();
    for path in ["/nowhere/to/be/found", "/etc"] {
        let error = Command::new(Path::new(path), &[], &strict, &kernel).expect_err("must fail").to_string();
        assert!(error.contains(path), "{error}");
    }
    let directory = tempfile::tempdir().expect("tempdir");
    let script = directory.path().join("script");
    fs::write(&script, "#!/bin/sh\n").expect("write");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("chmod");
    let error = command(&strict, &script, &[]).spawn(host()).expect_err("must fail").to_string();
    assert!(error.contains("interpreter") && error.contains("script"), "{error}");
}

/// What a command is refused of `script` in Python, and how it ended.
fn refused(name: &str, script: &str) -> Option<(Option<i32>, Vec<RefusedCall>)> {
    let python = installed("/usr/bin/python3")?;
    let command = command(&profile(name, Permissions::default()), &python, &["-c", script]);
    let mut refused = Vec::new();
    let ended = command.spawn(host()).expect("spawn").wait(|call| refused.push(call)).expect("wait");
    Some((ended.status.code(), refused))
}

#[test]
fn what_a_command_is_refused_is_told_and_it_goes_on() {
    let script = r#"
import os, socket, sys
attempts = [
    lambda: open("/etc/passwd"),
    lambda: open("/etc/no-such-file"),
    lambda: os.mkdir("/tmp/photondb-refused"),
    lambda: socket.socket(),
    lambda: os.fork(),
    lambda: os.execv("/bin/true", ["true"]),
    lambda: os.kill(1, 9),
]
for attempt in attempts:
    try:
        attempt()
        sys.exit(1)
    except OSError:
        pass
sys.exit(42)"#;
    let Some((status, refused)) = refused("dynamic", script) else { return };
    assert_eq!(status, Some(42), "{refused:?}");
    let told = |call: &str, path: Option<&str>| {
        refused.iter().any(|it| !it.is_habit && it.call.name == call && it.call.path.as_deref() == path)
    };
    assert!(told("openat", Some("/etc/passwd")), "{refused:?}");
    assert!(!told("openat", Some("/etc/no-such-file")), "what is not there is missed by nobody: {refused:?}");
    assert!(told("mkdir", Some("/tmp/photondb-refused")), "{refused:?}");
    assert!(told("socket", None) && told("execve", Some("/bin/true")) && told("kill", None), "{refused:?}");
    let mkdir = refused.iter().find(|it| it.call.name == "mkdir").and_then(|it| it.missing.clone());
    assert_eq!(mkdir, Some((PathBuf::from("/tmp"), Access::Write)));
}

#[test]
fn a_command_cannot_execute_with_a_token_that_it_guessed() {
    let script = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
program = os.open("/usr/lib/os-release", os.O_RDONLY) if os.path.exists("/usr/lib/os-release") else 0
for token in [1, 2**64 - 1]:
    for descriptor in [0, 3, 7, program]:
        if libc.syscall(322, descriptor, b"", None, None, 0x1000, ctypes.c_ulong(token)) != -1: sys.exit(1)
        if ctypes.get_errno() != 1: sys.exit(2)
sys.exit(42)"#;
    if cfg!(target_arch = "x86_64")
        && let Some((status, refused)) = refused("dynamic", script)
    {
        assert_eq!(status, Some(42), "{refused:?}");
    }
}
