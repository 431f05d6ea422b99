//! The real server, in a process of its own.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;

use nix::sys::signal::Signal;
use photondb_server::admin::status::PluginStatus;
use photondb_server::cli::client::Client;
use serde_json::Value;

use crate::place::Place;
use crate::processes::{self, Ended, Process};
use crate::reql;
use crate::wait::{self, WATCHDOG};

/// Lines of its log that a failed test shows of a server.
const SHOWN_LINES: usize = 60;

/// A running server. Killed on drop; what it logged is shown when the test failed.
pub struct Server<'a> {
    place: &'a Place,
    child: Child,
    port: u16,
    http_port: u16,
    log: Arc<Mutex<String>>,
}

impl<'a> Server<'a> {
    /// Starts a server with the data and the plugins of `place`, and waits until it is ready.
    #[must_use]
    pub fn start(place: &'a Place) -> Self {
        Self::start_with(place, &[])
    }

    /// The same, with further arguments.
    ///
    /// # Panics
    /// When it does not get ready.
    #[must_use]
    pub fn start_with(place: &'a Place, arguments: &[&str]) -> Self {
        let mut command = place.serve(arguments);
        let (child, stdout, stderr) = spawn(&mut command);
        let log = Arc::<Mutex<String>>::default();
        keep(stderr, Arc::clone(&log));
        let mut server = Self { place, child, port: 0, http_port: 0, log };
        let line = first_line(stdout).recv_timeout(WATCHDOG).expect("a line from the server");
        let ready: Value = serde_json::from_str(&line).expect("the ready line");
        assert_eq!(ready["ready"], true, "{ready}");
        assert_eq!(ready["pid"], server.pid(), "{ready}");
        assert_eq!(ready["data"].as_str().map(Path::new), Some(&*place.data()), "{ready}");
        let port = |key: &str| ready[key].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port");
        (server.port, server.http_port) = (port("reql"), port("http"));
        server
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The port for drivers.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port for HTTP.
    #[must_use]
    pub fn http_port(&self) -> u16 {
        self.http_port
    }

    /// The address for drivers.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// A new connection.
    ///
    /// # Panics
    /// When the server does not take it.
    #[must_use]
    #[track_caller]
    pub fn connect(&self) -> Client {
        reql::connect(self.address()).expect("a connection")
    }

    /// Runs one query on a connection of its own.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn query(&self, term: &Value) -> Value {
        reql::run(&mut self.connect(), term).expect("a query that works")
    }

    /// What it has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The row of a plugin in the system table `plugins`.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn plugin(&self, name: &str) -> PluginStatus {
        let row = self.query(&reql::get(&reql::system_table("plugins"), name));
        serde_json::from_value(row).unwrap_or_else(|error| panic!("no row for the plugin {name}: {error}"))
    }

    /// The process of a plugin, once it is ready.
    #[must_use]
    #[track_caller]
    pub fn ready_plugin(&self, name: &str) -> Process {
        wait::until(&format!("the plugin {name} is ready"), || {
            let status = self.plugin(name);
            status.pid.filter(|_| status.state == "ready").and_then(Process::of)
        })
    }

    /// The messages of the events of one kind that the system table `plugin_events` has for a plugin.
    ///
    /// # Panics
    /// When they can't be read.
    #[must_use]
    #[track_caller]
    pub fn events(&self, plugin: &str, kind: &str) -> Vec<String> {
        let rows = self.query(&reql::to_array(&reql::system_table("plugin_events")));
        let rows = rows.as_array().cloned().unwrap_or_default();
        let wanted = rows.iter().filter(|row| row["plugin"] == plugin && row["kind"] == kind);
        wanted.filter_map(|row| row["message"].as_str().map(str::to_owned)).collect()
    }

    /// Runs `photondb ARGUMENTS --data DATA`.
    #[track_caller]
    pub fn photondb(&self, arguments: &[&str]) -> Ended {
        processes::run(self.place.photondb(arguments).arg("--data").arg(self.place.data()), "")
    }

    /// Kills it with SIGKILL.
    ///
    /// # Panics
    /// When it does not end.
    pub fn kill(mut self) {
        processes::send(Signal::SIGKILL, self.pid());
        processes::wait_for(&mut self.child, "the killed server was gone");
    }

    /// Asks it to stop, and waits until it has.
    ///
    /// # Panics
    /// When it does not.
    pub fn terminate(mut self) -> ExitStatus {
        processes::send(Signal::SIGTERM, self.pid());
        processes::wait_for(&mut self.child, "the server stopped")
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        // An error: it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            let log = self.log();
            let skipped = log.lines().count().saturating_sub(SHOWN_LINES);
            eprintln!("--- the end of the log of server {} ---", self.pid());
            log.lines().skip(skipped).for_each(|line| eprintln!("{line}"));
            eprintln!("---");
        }
    }
}

fn spawn(command: &mut Command) -> (Child, ChildStdout, ChildStderr) {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?} can't be started: {error}"));
    let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    (child, stdout, stderr)
}

/// Keeps what comes, until the end.
fn keep(mut source: ChildStderr, kept: Arc<Mutex<String>>) {
    thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(count @ 1..) = source.read(&mut chunk) {
            kept.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(&chunk[..count]));
        }
    });
}

fn first_line(source: ChildStdout) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut line = String::new();
        let mut source = BufReader::new(source);
        // At the end without a line, the sender is dropped, which the receiver notices.
        if source.read_line(&mut line).is_ok_and(|length| length > 0) {
            let _ = sender.send(line);
        }
        // Keeps the pipe open as long as the server writes to it.
        let _ = std::io::copy(&mut source, &mut std::io::sink());
    });
    receiver
}
