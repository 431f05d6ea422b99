//! A host that stands by: confined, and not yet the plugin.

#[path = "support/mod.rs"]
mod support;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use photondb_plugin_host::spawn::{Use, memfd};
use photondb_plugin_host::{DeniedCalls, Descriptors, read_reply, spawn};
use photondb_sandbox_profiles::confinement::REFUSED_STATUS;
use photondb_sandbox_profiles::{HostReply, Launch, Permissions, StartMessage};

/// A host that waits, after its report, and its report socket. What it would execute is no program, so that it says when
/// it tries.
fn stand_by() -> (Pid, BufReader<UnixStream>) {
    let message = StartMessage {
        name: "nothing".to_owned(),
        launch: Launch::Plugin,
        server_pid: std::process::id(),
        waits: true,
        confinement: support::confinement("strict", &Permissions::default()),
    };
    let message = memfd("start", &serde_json::to_vec(&message).expect("serialise"), Use::Data).expect("memfd");
    let executable = memfd("nothing", b"no program", Use::Executable).expect("memfd");
    let (server_region, plugin_region) = support::regions();
    let pair = || UnixStream::pair().expect("socketpair");
    let ((_control, their_control), (report, their_report)) = (pair(), pair());
    let (passing, their_passing) =
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).expect("socketpair");
    let ((_stdout, their_stdout), (_stderr, their_stderr)) = (io::pipe().expect("pipe"), io::pipe().expect("pipe"));
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
    let pid = Pid::from_raw(spawn(Path::new(support::HOST), &descriptors).expect("spawn"));
    let (mut report, mut line) = (BufReader::new(report), String::new());
    drop(their_report);
    report.read_line(&mut line).expect("a line");
    assert!(matches!(read_reply(line.as_bytes()), Ok(HostReply::Report(_))), "{line}");
    assert!(DeniedCalls::receive(passing.as_fd(), Vec::new()).expect("receive").is_some(), "it is confined by now");
    (pid, report)
}

#[test]
fn it_executes_the_plugin_when_it_is_told_to() {
    let (pid, mut report) = stand_by();
    report.get_mut().write_all(&[1]).expect("it waits");
    let mut rest = String::new();
    report.read_to_string(&mut rest).expect("what it says");
    let Ok(HostReply::Error(reason)) = read_reply(rest.as_bytes()) else { panic!("{rest}") };
    assert!(reason.contains("execute the plugin"), "{reason}");
    assert_eq!(waitpid(pid, None), Ok(WaitStatus::Exited(pid, REFUSED_STATUS)));
}

#[test]
fn it_ends_when_nobody_can_tell_it_to() {
    let (pid, report) = stand_by();
    drop(report);
    assert_eq!(waitpid(pid, None), Ok(WaitStatus::Exited(pid, REFUSED_STATUS)));
}
