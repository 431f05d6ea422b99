//! The real host, a real static executable, the real kernel: as root also with a user of its own, as an ordinary user
//! without.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, geteuid};
use photondb_plugin_host::spawn::{Use, memfd};
use photondb_plugin_host::{DeniedCall, DeniedCalls, Descriptors, read_reply, spawn};
use photondb_sandbox_profiles::{
    Confinement, HostReply, KernelFeatures, Launch, Layer, Letter, Permissions, Profiles, Report, StartMessage,
    StateDirectory,
};

/// No test waits longer; none of them should need a hundredth of it.
const WATCHDOG: Duration = Duration::from_secs(30);
/// A user that owns nothing.
const NOBODY: u32 = 65_534;

/// The static fixture, compiled once. A user who has no compiler names a compiled one in `PHOTONDB_TEST_PLUGIN`.
fn fixture() -> &'static [u8] {
    static FIXTURE: OnceLock<Vec<u8>> = OnceLock::new();
    FIXTURE.get_or_init(|| match std::env::var_os("PHOTONDB_TEST_PLUGIN") {
        Some(path) => fs::read(path).expect("the fixture that PHOTONDB_TEST_PLUGIN names"),
        None => compile("-Ctarget-feature=+crt-static").expect("the static fixture does not compile"),
    })
}

fn compile(linking: &str) -> Option<Vec<u8>> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/plugin.rs");
    let directory = tempfile::tempdir().ok()?;
    let output = directory.path().join("plugin");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let arguments = ["--edition=2024", "-O", linking, "--target", &target, "-o"];
    let status = Command::new(rustc).args(arguments).args([&output, &source]).status().ok()?;
    if status.success() { fs::read(output).ok() } else { None }
}

fn strict() -> Confinement {
    strict_with(&Permissions::default())
}

fn strict_with(permissions: &Permissions) -> Confinement {
    profile("strict", permissions)
}

fn profile(name: &str, permissions: &Permissions) -> Confinement {
    let resolved = Profiles::builtin().resolve(name, permissions).expect("resolve");
    resolved.compile(&KernelFeatures::probe()).expect("compile")
}

/// Every way in which this process may start a plugin.
fn ways() -> Vec<(&'static str, Confinement)> {
    let mut ways = vec![("as the server's user", strict())];
    if geteuid().is_root() {
        ways.push(("as a user of its own", strict().run_as(NOBODY, NOBODY)));
    } else {
        eprintln!("skipped: a user of its own for the plugin (needs root)");
    }
    ways
}

struct Plugin {
    pid: Pid,
    reply: io::Result<HostReply>,
    denied: Option<DeniedCalls>,
    control: UnixStream,
    stdout: mpsc::Receiver<String>,
    stderr: mpsc::Receiver<String>,
    plugin_region: File,
}

fn start(name: &str, confinement: Confinement) -> Plugin {
    start_executable(name, confinement, fixture())
}

fn start_executable(name: &str, confinement: Confinement, executable: &[u8]) -> Plugin {
    let executable = memfd(name, executable, Use::Executable).expect("memfd");
    start_memfd(name, confinement, &executable)
}

fn start_memfd(name: &str, confinement: Confinement, executable: &OwnedFd) -> Plugin {
    let excused = confinement.excused.clone();
    let message = StartMessage {
        name: name.to_owned(),
        launch: Launch::Plugin,
        server_pid: std::process::id(),
        waits: false,
        confinement,
    };
    start_message(&serde_json::to_vec(&message).expect("serialise"), executable, excused)
}

fn start_message(message: &[u8], executable: &OwnedFd, excused: Vec<String>) -> Plugin {
    let (stdout, their_stdout) = io::pipe().expect("pipe");
    let (stderr, their_stderr) = io::pipe().expect("pipe");
    let (report, their_report) = io::pipe().expect("pipe");
    let (control, their_control) = UnixStream::pair().expect("socketpair");
    let (passing, their_passing) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).expect("socketpair");
    let mut page = vec![0; 4096];
    page[0] = b's';
    let server_region = memfd("server region", &page, Use::Data).expect("memfd");
    let plugin_region = tempfile::tempfile().expect("plugin region");
    plugin_region.set_len(4096).expect("set_len");
    let message = memfd("start", message, Use::Data).expect("memfd");
    let descriptors = Descriptors {
        stdout: their_stdout.as_fd(),
        stderr: their_stderr.as_fd(),
        control: their_control.as_fd(),
        passing: their_passing.as_fd(),
        server_region: server_region.as_fd(),
        plugin_region: plugin_region.as_fd(),
        executable: executable.as_fd(),
        start: message.as_fd(),
        report: their_report.as_fd(),
    };
    let host = PathBuf::from(env!("CARGO_BIN_EXE_photondb-plugin-host"));
    let pid = Pid::from_raw(spawn(&host, &descriptors).expect("spawn"));
    drop((their_stdout, their_stderr, their_report, their_control, their_passing));
    let reply = read_reply(report);
    let denied = DeniedCalls::receive(passing.as_fd(), excused).expect("receive");
    Plugin { pid, reply, denied, control, stdout: drain(stdout), stderr: drain(stderr), plugin_region }
}

fn drain(mut pipe: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        let _ = pipe.read_to_string(&mut text);
        let _ = sender.send(text);
    });
    receiver
}

impl Plugin {
    fn report(&self) -> &Report {
        match &self.reply {
            Ok(HostReply::Report(report)) => report,
            other => panic!("no report: {other:?}"),
        }
    }

    /// The next stopped call, `None` if the plugin ended without one.
    fn denied(&self) -> Option<DeniedCall> {
        let listener = self.denied.as_ref().expect("a listener");
        match listener.wait(WATCHDOG) {
            Ok(Some(call)) => Some(call),
            Ok(None) => panic!("neither stopped nor ended"),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(error) => panic!("{error}"),
        }
    }

    fn wait(&self) -> WaitStatus {
        let deadline = Instant::now() + WATCHDOG;
        loop {
            match waitpid(self.pid, Some(nix::sys::wait::WaitPidFlag::WNOHANG)).expect("waitpid") {
                WaitStatus::StillAlive if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
                WaitStatus::StillAlive => panic!("still alive"),
                status => return status,
            }
        }
    }

    fn stop(&self) {
        kill(self.pid, Signal::SIGKILL).expect("kill");
        assert_eq!(self.wait(), WaitStatus::Signaled(self.pid, Signal::SIGKILL, false));
    }

    fn output(&self) -> (String, String) {
        (self.stdout.recv_timeout(WATCHDOG).expect("stdout"), self.stderr.recv_timeout(WATCHDOG).expect("stderr"))
    }

    /// Serves the listener until the plugin has ended, and expects no stop.
    fn runs_through(&self) -> (WaitStatus, String, String) {
        assert_eq!(self.denied(), None);
        let status = self.wait();
        let (stdout, stderr) = self.output();
        (status, stdout, stderr)
    }
}

#[test]
fn an_honest_program_runs_in_the_strict_profile() {
    for (way, confinement) in ways() {
        let mut plugin = start("honest", confinement);
        let report = plugin.report();
        println!("{way}: grade {}; {report:#?}", report.grade());
        completes(way, &plugin);
        let mut first = [0];
        plugin.plugin_region.read_exact(&mut first).expect("read");
        assert_eq!(&first, b"p");
    }
}

#[test]
fn the_layers_that_nobody_gives_up_are_in_force_and_reported() {
    for (way, confinement) in ways() {
        let own_user = confinement.run_as.is_some();
        let plugin = start("hang", confinement);
        let report = plugin.report();
        for layer in [
            Layer::Seccomp,
            Layer::NoNewPrivs,
            Layer::Landlock,
            Layer::Capabilities,
            Layer::Rlimits,
            Layer::Session,
            Layer::ParentDeath,
        ] {
            assert!(report.has(layer), "{way}: {layer}");
        }
        assert_eq!(report.has(Layer::Uid), own_user);
        // What the kernel itself says about the plugin, once it runs.
        let status = fs::read_to_string(format!("/proc/{}/status", plugin.pid)).expect("status");
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        assert_eq!(field("NoNewPrivs"), "1");
        assert_eq!(field("Seccomp"), "2");
        for capabilities in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(field(capabilities), "0000000000000000", "{way}: {capabilities}");
        }
        if own_user {
            assert_eq!(field("Uid"), format!("{NOBODY}\t{NOBODY}\t{NOBODY}\t{NOBODY}"));
            assert_eq!(field("Groups"), "");
        }
        for (layer, file) in
            [(Layer::NetNamespace, "net"), (Layer::UserNamespace, "user"), (Layer::MountNamespace, "mnt")]
        {
            let of = |pid: String| fs::read_link(format!("/proc/{pid}/ns/{file}")).expect("namespace");
            if report.has(layer) {
                assert_ne!(of(plugin.pid.to_string()), of("self".to_owned()), "{way}: {layer}");
            } else {
                eprintln!("skipped: {layer} ({way}): {:?}", report.missing);
            }
        }
        plugin.stop();
    }
}

/// Answers the honest fixture's greeting, and expects that it ends well.
fn completes(way: &str, plugin: &Plugin) {
    let (listener, mut control) = (plugin.denied.as_ref().expect("listener"), &plugin.control);
    let listener = thread::scope(|scope| {
        let denied = scope.spawn(|| listener.wait(WATCHDOG));
        let mut hello = [0; 5];
        let _ = control.read_exact(&mut hello).and_then(|()| control.write_all(&hello));
        denied.join().expect("no panic")
    });
    let status = plugin.wait();
    let (stdout, stderr) = plugin.output();
    assert_eq!(status, WaitStatus::Exited(plugin.pid, 0), "{way}: {listener:?} {stdout} {stderr}");
    assert_eq!(stdout, "fine\n");
}

#[test]
fn an_honest_program_runs_without_any_namespace_and_the_grade_says_so() {
    let mut confinement = strict();
    confinement.namespaces.clear();
    let plugin = start("honest", confinement.clone());
    let grade = plugin.report().grade();
    assert!(
        grade.letter == Letter::A && grade.reasons.iter().any(|reason| reason.contains("network namespace")),
        "{grade:?}"
    );
    completes("no namespaces", &plugin);
    let plugin = start("socket", confinement);
    assert_eq!(plugin.denied().map(|call| call.name).as_deref(), Some("socket"));
    plugin.stop();
}

#[test]
fn a_dynamic_executable_runs_in_the_dynamic_profile_and_not_in_strict() {
    let Some(executable) = compile("-Ctarget-feature=-crt-static") else {
        eprintln!("skipped: this user has no compiler");
        return;
    };
    for run_as in [false, true] {
        if run_as && !geteuid().is_root() {
            eprintln!("skipped: a user of its own for the plugin (needs root)");
            continue;
        }
        let mut confinement = profile("dynamic", &Permissions::default());
        if run_as {
            confinement = confinement.run_as(NOBODY, NOBODY);
        }
        let plugin = start_executable("honest", confinement.clone(), &executable);
        let report = plugin.report();
        assert_eq!(report.has(Layer::MountNamespace), report.has(Layer::NetNamespace), "libraries and nothing else");
        assert_eq!(plugin.report().grade().letter, Letter::B);
        completes("dynamic", &plugin);
        // No permission names the file: Landlock refuses, and the plugin reports it.
        let plugin = start_executable("open", confinement, &executable);
        let (_, stdout, _) = plugin.runs_through();
        assert!(stdout.contains("PermissionDenied"), "{stdout}");
    }
    let plugin = start_executable("honest", strict(), &executable);
    assert_ne!(plugin.wait(), WaitStatus::Exited(plugin.pid, 0));
    assert_ne!(plugin.output().0, "fine\n");
}

#[test]
fn a_granted_file_can_be_read_and_its_neighbour_cannot() {
    let Some(executable) = compile("-Ctarget-feature=-crt-static") else {
        eprintln!("skipped: this user has no compiler");
        return;
    };
    let permissions = Permissions { read: vec!["/etc/passwd".into()], ..Permissions::default() };
    let plugin = start_executable("open", profile("dynamic", &permissions), &executable);
    let (_, stdout, _) = plugin.runs_through();
    assert!(stdout.starts_with("Ok(["), "{stdout}");
    let permissions = Permissions { read: vec!["/etc/hostname".into()], ..Permissions::default() };
    let plugin = start_executable("open", profile("dynamic", &permissions), &executable);
    let (_, stdout, _) = plugin.runs_through();
    assert!(stdout.contains("PermissionDenied"), "{stdout}");
}

/// A directory of the plugin's, below one that only the server's user may enter.
fn state_directory(owner: Option<u32>) -> (tempfile::TempDir, PathBuf) {
    let private = tempfile::tempdir().expect("tempdir");
    let state = private.path().join("state");
    fs::create_dir(&state).expect("mkdir");
    fs::write(private.path().join("neighbour"), "secret").expect("write");
    if let Some(owner) = owner {
        std::os::unix::fs::chown(&state, Some(owner), Some(owner)).expect("chown");
    }
    (private, state)
}

#[test]
fn a_state_directory_can_be_used_as_a_storage_engine_does_and_nothing_beside_it() {
    for (way, confinement) in ways() {
        let (private, state) = state_directory(confinement.run_as.map(|run_as| run_as.uid));
        let directory = StateDirectory { path: state.clone(), bytes: 1 << 20, files: 100 };
        let permissions = Permissions { state: Some(directory), ..Permissions::default() };
        let confinement = Confinement { run_as: confinement.run_as, ..strict_with(&permissions) };
        let mut without_namespaces = confinement.clone();
        without_namespaces.namespaces.clear();
        for confinement in [confinement, without_namespaces] {
            let report = start("hang", confinement.clone());
            println!("{way}: {:?}", report.report());
            report.stop();
            for mode in ["state", "stateforbidden"] {
                let plugin = start(mode, confinement.clone());
                plugin.report();
                let (status, stdout, stderr) = plugin.runs_through();
                assert_eq!(status, WaitStatus::Exited(plugin.pid, 0), "{way}: {mode}: {stderr}");
                assert_eq!(stdout, "fine\n", "{way}: {mode}");
            }
            assert!(!private.path().join("escaped").exists());
            assert_eq!(fs::read(state.join("tables/one/current")).expect("the plugin's file").len(), 8192);
            fs::remove_dir_all(state.join("tables")).expect("remove");
            // One file ends at the quota.
            let plugin = start("statefill", confinement.clone());
            plugin.report();
            let (status, _, _) = plugin.runs_through();
            assert_eq!(status, WaitStatus::Signaled(plugin.pid, Signal::SIGXFSZ, false), "{way}");
            assert_eq!(fs::metadata(state.join("large")).expect("metadata").len(), 1 << 20);
            // Attacks on what Landlock does not see are stopped as without the permission.
            let plugin = start("exec", confinement);
            assert_eq!(plugin.denied().map(|call| call.name).as_deref(), Some("execve"), "{way}");
            plugin.stop();
        }
    }
}

#[test]
fn only_seven_descriptors_one_argument_and_no_environment_reach_the_plugin() {
    for (way, confinement) in ways() {
        let plugin = start("inventory", confinement);
        let (status, stdout, stderr) = plugin.runs_through();
        assert_eq!(status, WaitStatus::Exited(plugin.pid, 0), "{way}: {stderr}");
        assert_eq!(stdout, "[0, 1, 2, 3, 4, 5, 6] 0 [\"inventory\"]\n");
    }
}

#[test]
fn attacks_are_stopped_and_named() {
    let attacks = [
        ("open", "openat(\"/etc/passwd\")"),
        ("openwrite", "openat(\"/tmp/photondb-test\")"),
        ("socket", "socket"),
        ("fork", "clone"),
        ("clone", "clone"),
        ("exec", "execve(\"/bin/true\")"),
        ("execveat-empty", "execveat(\"\")"),
        ("execveat-path", "execveat(\"/bin/true\")"),
        ("ptrace", "ptrace"),
        ("kill", "kill"),
        ("tgkill-other", "tgkill"),
        ("tgkill-neighbour", "tgkill"),
        ("prlimit-other", "prlimit64"),
        ("prlimit-set", "prlimit64"),
        ("prlimit-set_high", "prlimit64"),
        ("write5", "write"),
        ("map5", "mmap"),
        ("mapexec", "mmap"),
        ("protectexec", "mprotect"),
        ("memfd", "memfd_create"),
    ];
    for (way, confinement) in ways() {
        for (attack, named) in attacks {
            let plugin = start(attack, confinement.clone());
            plugin.report();
            let call =
                plugin.denied().unwrap_or_else(|| panic!("{way}: {attack} was not stopped: {:?}", plugin.output()));
            assert_eq!(call.to_string(), named, "{way}: {attack}");
            assert_eq!(call.pid, plugin.pid.as_raw().unsigned_abs());
            plugin.stop();
            assert_eq!(plugin.output().0, "", "{way}: {attack} came back");
        }
    }
}

#[test]
fn what_a_plugin_may_ask_about_itself_is_answered() {
    for mode in ["tgkill-own", "tgkill-own_high", "prlimit-own", "prlimit-own_high"] {
        let plugin = start(mode, strict());
        let (status, stdout, stderr) = plugin.runs_through();
        assert_eq!((status, stdout.as_str()), (WaitStatus::Exited(plugin.pid, 0), "0\n"), "{mode}: {stderr}");
    }
}

#[test]
fn refusals_with_an_errno_let_the_plugin_go_on() {
    let plugin = start("refused", strict());
    let (status, stdout, _) = plugin.runs_through();
    assert_eq!(status, WaitStatus::Exited(plugin.pid, 0));
    assert_eq!(stdout, "-1 1\n-1 1\n-1 38\n", "sendmsg and getppid: EPERM; an unknown number: ENOSYS");
}

#[test]
fn other_ways_into_the_kernel_are_death() {
    if cfg!(not(target_arch = "x86_64")) {
        eprintln!("skipped: int 0x80 and x32 exist on x86-64 only");
        return;
    }
    for mode in ["int80", "x32"] {
        let plugin = start(mode, strict());
        let (status, stdout, _) = plugin.runs_through();
        assert_eq!(status, WaitStatus::Signaled(plugin.pid, Signal::SIGSYS, false), "{mode}: {stdout}");
    }
}

#[test]
fn a_store_into_the_servers_region_is_death() {
    let plugin = start("store5", strict());
    let (status, _, _) = plugin.runs_through();
    assert_eq!(status, WaitStatus::Signaled(plugin.pid, Signal::SIGSEGV, false));
}

#[test]
fn memory_ends_at_what_was_granted() {
    let plugin = start("memory", strict_with(&Permissions { memory_bytes: 32 << 20, ..Permissions::default() }));
    let (status, _, stderr) = plugin.runs_through();
    assert_eq!(status, WaitStatus::Signaled(plugin.pid, Signal::SIGABRT, false), "{stderr}");
    assert!(stderr.contains("memory allocation"), "{stderr}");
}

#[test]
fn threads_end_at_what_was_granted_where_the_kernel_counts_them() {
    for (way, confinement) in ways() {
        let limit = confinement.threads_max;
        let plugin = start("threads", confinement);
        let limited = plugin.report().has(Layer::ThreadLimit);
        let (_, stdout, _) = plugin.runs_through();
        if limited {
            assert_eq!(stdout.trim(), limit.to_string(), "{way}");
        } else {
            eprintln!("skipped: the thread limit ({way}): {:?}", plugin.report().missing);
        }
    }
}

#[test]
fn a_plugin_dies_with_the_thread_that_started_it() {
    for (way, confinement) in ways() {
        let plugin = thread::spawn(|| {
            let plugin = start("hang", confinement);
            plugin.report();
            plugin
        })
        .join()
        .expect("no panic");
        assert_eq!(plugin.wait(), WaitStatus::Signaled(plugin.pid, Signal::SIGKILL, false), "{way}");
    }
}

#[test]
fn a_plugin_whose_listener_is_gone_is_still_refused() {
    let mut plugin = start("exec", strict());
    plugin.report();
    plugin.denied = None;
    let status = plugin.wait();
    assert_eq!(status, WaitStatus::Exited(plugin.pid, 0));
    assert_eq!(plugin.output().0, "-1\n");
}

#[test]
fn a_host_refuses_when_a_required_layer_is_missing() {
    let mut confinement = strict();
    confinement.cgroup = None;
    confinement.required.push(Layer::Cgroup);
    refuses(start("honest", confinement), "cgroup");
}

#[test]
fn a_host_refuses_when_its_parent_is_not_the_server() {
    let message = StartMessage {
        name: "honest".to_owned(),
        launch: Launch::Plugin,
        server_pid: 1,
        waits: false,
        confinement: strict(),
    };
    let message = serde_json::to_vec(&message).expect("serialise");
    let executable = memfd("honest", fixture(), Use::Executable).expect("memfd");
    refuses(start_message(&message, &executable, Vec::new()), "find the server");
}

#[test]
fn a_host_refuses_what_is_no_executable_or_no_message() {
    refuses(start_executable("honest", strict(), b"#!/bin/sh\n"), "execute the plugin");
    let executable = memfd("honest", fixture(), Use::Executable).expect("memfd");
    refuses(start_message(b"{}", &executable, Vec::new()), "start message");
    // What could still be written to is not what was verified.
    let unsealed = OwnedFd::from(tempfile::tempfile().expect("tempfile"));
    refuses(start_memfd("honest", strict(), &unsealed), "descriptor 7");
}

fn refuses(plugin: Plugin, because: &str) {
    assert_eq!(plugin.wait(), WaitStatus::Exited(plugin.pid, 70));
    match &plugin.reply {
        Ok(HostReply::Error(message)) => assert!(message.contains(because), "{message}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(plugin.output().0, "", "the plugin ran");
}

#[test]
fn started_by_hand_it_says_what_it_is() {
    let host = env!("CARGO_BIN_EXE_photondb-plugin-host");
    for (arguments, code) in [(&[][..], 2), (&["--version"], 0), (&["become", "x"], 2)] {
        let output = Command::new(host).args(arguments).output().expect("run");
        assert_eq!(output.status.code(), Some(code));
        assert!(String::from_utf8_lossy(&output.stdout).contains("photondb serve"));
    }
    let output = Command::new(host).arg("become").output().expect("run");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("descriptor 3"));
}
