//! The battery: hostile plugins, one attack each, and what has to come of it.
//!
//! A table of [`Row`]s says for each attack what the caller sees, what is recorded, and what becomes of the process.
//! [`run`] starts servers with many attackers at once, makes the attacks one after the other in a few threads, while
//! another client works all the time, and looks at what is left afterwards. Every outcome is also written to
//! `target/attacks.jsonl`, of which `make test` prints a table.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::place::{Place, manifest, repository};
use crate::processes::{self, Process};
use crate::reql::{self, Failure, RUNTIME_ERROR};
use crate::server::Server;
use crate::wait::{self, Stop};

/// Attackers of one server.
const AT_ONCE: usize = 24;
/// Attacks that are made at the same time.
const THREADS: usize = 4;
/// No call of another client takes longer, whatever is attacked meanwhile: that of a call's own deadline.
const SLOWEST_CALL: Duration = Duration::from_secs(5);
/// What the server's heap may grow by during the attacks of one table: caches, and the text of events and logs.
const HEAP_GROWTH: u64 = 48 << 20;

/// The hosts that leave something out: the name of each, and the layers that a plugin must have there for the letters of
/// [`Row::walls`] to mean something. The first three are without the filter of system calls: with all other walls, with
/// Landlock alone, with namespaces alone. In the others the filter has to stop what it stops anyway.
pub const MATRIX: [(&str, &[&str]); 7] = [
    ("seccomp", &["landlock", "mountns"]),
    ("only-landlock", &["landlock"]),
    ("only-namespaces", &["mountns"]),
    ("landlock", &[]),
    ("namespaces", &[]),
    ("uid", &[]),
    ("rlimits", &[]),
];

/// What stops an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// The filter of system calls.
    Seccomp,
    /// Landlock.
    Landlock,
    /// Resource limits.
    Limits,
    /// Descriptors, seals and mappings as the server made them.
    Descriptors,
    /// The server's checks of what the plugin writes and sends.
    Protocol,
    /// The server's watch over a process: deadlines, pings, memory, output.
    Watch,
    /// The hardware, or the kernel for any process.
    Kernel,
}

impl Layer {
    /// As it is printed.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Seccomp => "seccomp",
            Self::Landlock => "landlock",
            Self::Limits => "rlimits",
            Self::Descriptors => "descriptors",
            Self::Protocol => "protocol",
            Self::Watch => "watchdog",
            Self::Kernel => "kernel",
        }
    }
}

/// What has to come of an attack.
#[derive(Clone, Copy, Debug)]
pub enum Expected {
    /// The kernel stops the call, the error and the event `denied` name it, and the process is replaced.
    Denied(&'static str),
    /// The attack ends the process; the error of the call and the event `crashed` say how; it is replaced.
    Died(&'static str),
    /// The process ends, whatever the call saw of it; the event `crashed` says how; it is replaced.
    Ended(&'static str),
    /// The process ends, whatever the call saw of it; the event `crashed` says how; the plugin is refused from then on,
    /// and its error says it too.
    Dismissed(&'static str),
    /// The attack fails by itself, or does no harm: the caller gets an answer with this text, and the process goes on.
    Answer(&'static str),
    /// The call fails with this text, and the process goes on.
    Fails(&'static str),
    /// The call fails with this text, whatever becomes of the process.
    Error(&'static str),
    /// The plugin does not get ready, for this reason.
    NotStarted(&'static str),
    /// An answer or an error with one of these texts, whatever becomes of the process: what chance decides.
    Says(&'static [&'static str]),
    /// An answer, or an error of this plugin: either is its own affair.
    Anything,
    /// Without the filter: not `it worked`, whatever becomes of the process.
    Stopped,
}

/// One attack, and what has to come of it.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The name of the attack, whose first word is the row of the list.
    pub attack: &'static str,
    /// Who has to stop it.
    pub layer: Layer,
    /// How.
    pub expected: Expected,
    /// What comes of it where walls are missing, a letter for each of [`MATRIX`]'s first columns: `S`: the other walls
    /// stop it; `W`: they do not, and it works, unless this kernel lacks what it needs; `?`: that depends on the user
    /// and the machine; `=`: the same as with all walls; `.`: not tried, since the walls play no part.
    pub walls: &'static str,
    /// So many harmless calls before the one that attacks.
    pub warm_up: u32,
    /// What it declares and is granted, as lines of TOML.
    pub granted: &'static str,
    /// What bounds that, as further lines of the grant.
    pub bounds: &'static str,
}

impl Row {
    /// A row.
    #[must_use]
    pub const fn new(attack: &'static str, layer: Layer, expected: Expected, walls: &'static str) -> Self {
        Self { attack, layer, expected, walls, warm_up: 0, granted: "", bounds: "" }
    }

    /// The same, with harmless calls before.
    #[must_use]
    pub const fn after_calls(mut self, warm_up: u32) -> Self {
        self.warm_up = warm_up;
        self
    }

    /// The same, by a plugin that declares these permissions and is granted them.
    #[must_use]
    pub const fn granted(mut self, permissions: &'static str) -> Self {
        self.granted = permissions;
        self
    }

    /// The same, with further lines in the grant.
    #[must_use]
    pub const fn within(mut self, bounds: &'static str) -> Self {
        self.bounds = bounds;
        self
    }

    /// The row of the list.
    #[must_use]
    pub fn id(&self) -> String {
        self.attack.split('_').next().unwrap_or_default().to_uppercase()
    }
}

/// Makes all attacks of a table against a full sandbox.
///
/// # Panics
/// When something came of one that the table does not say, with everything that did.
pub fn run(rows: &[Row]) {
    let rows: Vec<(&Row, Expected)> = rows.iter().map(|row| (row, row.expected)).collect();
    let unexpected: Vec<String> = rows.chunks(AT_ONCE).flat_map(|rows| attack_one_server(rows, None)).collect();
    assert!(unexpected.is_empty(), "{}", unexpected.join("\n"));
}

/// Makes the attacks of a table against hosts that leave out something: a column of [`MATRIX`].
///
/// # Panics
/// As [`run`].
pub fn run_without(column: usize, rows: &[Row]) {
    let (host, needed) = MATRIX[column];
    if let Some(missing) = missing_layer(host, needed) {
        // Not a hole in the battery as long as somebody hears of it: `make test` says it again, below its table.
        eprintln!("SKIPPED: the attacks on the host `{host}`, since this machine gives no {missing} to this user");
        record_line(&json!({"skipped": host, "missing": missing}));
        return;
    }
    let rows: Vec<(&Row, Expected)> = rows
        .iter()
        .filter_map(|row| {
            // As root, a directory belongs to a user of the plugin's own: no other can even start in it.
            if host == "uid" && row.granted.contains("state") {
                return None;
            }
            let wall = row.walls.as_bytes().get(column).copied();
            let overlaps = row.walls.starts_with(['S', '=']);
            let expected = match wall {
                Some(b'S') => Expected::Stopped,
                Some(b'W' | b'?') => Expected::Anything,
                Some(b'=') => row.expected,
                // With the filter: those rows that another wall stops as well.
                None if overlaps => row.expected,
                _ => return None,
            };
            Some((row, expected))
        })
        .collect();
    assert!(!rows.is_empty(), "no attack is tried on the host `{host}`");
    let unexpected: Vec<String> = rows.chunks(AT_ONCE).flat_map(|rows| attack_one_server(rows, Some(column))).collect();
    assert!(unexpected.is_empty(), "{host}:\n{}", unexpected.join("\n"));
}

/// Which of the layers that a host needs this machine does not give to this user at all.
///
/// # Panics
/// When the machine gives it to a plugin of the whole host and not to one of this host: that is no reason to skip.
fn missing_layer(host: &str, needed: &[&'static str]) -> Option<&'static str> {
    let layers = |place: Place| {
        place.install("stats");
        let server = Server::start(&place);
        let _running = server.ready_plugin("stats");
        server.plugin("stats").layers
    };
    let (whole, weak) = (layers(Place::new()), layers(Place::without_layer(host)));
    let lacks = |layers: &[String], layer: &str| !layers.iter().any(|has| has == layer);
    let missing = needed.iter().copied().find(|layer| lacks(&weak, layer))?;
    assert!(lacks(&whole, missing), "a plugin has {missing} here, but not on the host `{host}`, which has {weak:?}");
    Some(missing)
}

/// Makes attacks in one server; gives what was unexpected.
fn attack_one_server(rows: &[(&Row, Expected)], column: Option<usize>) -> Vec<String> {
    let place = column.map_or_else(Place::new, |column| Place::without_layer(MATRIX[column].0));
    place.install("stats");
    for (row, expected) in rows {
        let functions: &[&str] = if matches!(expected, Expected::NotStarted(_)) { &[] } else { &[row.attack] };
        place.install_hostile_in(row.attack, &format!("{}{}\n", manifest(row.attack, functions), row.granted));
    }
    let grant = |row: &Row| format!("[plugins.grants.{}]\n{}\n{}\n", row.attack, row.granted, row.bounds);
    let grants: String = rows.iter().filter(|(row, _)| !row.granted.is_empty()).map(|(row, _)| grant(row)).collect();
    let config = place.write("etc/photondb.toml", &grants).display().to_string();
    let decoy = Decoy::new();
    let server = Server::start_with(&place, &["--config", &config]);
    let bystander = server.ready_plugin("stats");
    for (row, expected) in rows {
        if !matches!(expected, Expected::NotStarted(_)) {
            let _ = server.ready_plugin(row.attack);
        }
    }
    server.query(&reql::table_create("others"));
    let before = Resources::of(&server);

    let unexpected = Mutex::new(Vec::new());
    let slowest = while_others_work(&server, || {
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    while let Some((row, expected)) = rows.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let outcome = attack(&server, &decoy, row, expected);
                        record(row, column, &outcome);
                        if let Err(outcome) = outcome {
                            let line = format!("{}: expected {expected:?}, but {outcome}", row.attack);
                            unexpected.lock().expect("no panic").push(line);
                        }
                    }
                });
            }
        });
    });
    let mut unexpected = unexpected.into_inner().expect("no panic");
    if slowest > SLOWEST_CALL {
        unexpected.push(format!("a call of another client took {slowest:?}"));
    }
    if !bystander.is_running() {
        unexpected.push("another plugin was ended".into());
    }
    unexpected.extend(before.what_is_left(&server));
    let processes = processes::children(server.pid());
    if !server.terminate().success() {
        unexpected.push("the server did not end well".into());
    }
    wait::until_true("all processes were gone", || !processes.iter().any(Process::is_running));
    unexpected.extend(decoy.what_is_left(column));
    unexpected.extend(place.left_behind().into_iter().map(|name| format!("{name} was left behind")));
    unexpected
}

/// Makes one attack, and says whether it was stopped; an error says what came of it instead.
fn attack(server: &Server<'_>, decoy: &Decoy, row: &Row, expected: &Expected) -> Result<Came, String> {
    let name = row.attack;
    if let Expected::NotStarted(text) = expected {
        let status = wait::until(&format!("{name} has an error"), || {
            Some(server.plugin(name)).filter(|status| status.error.is_some())
        });
        let error = status.error.unwrap_or_default();
        check(error.contains(text), || format!("its error is {error}"))?;
        return Ok(Came::Stopped);
    }
    let attacker = server.ready_plugin(name);
    let mut client = server.connect();
    let mut call = |turn: u32| {
        let arguments = [json!(decoy.process.id()), json!(decoy.directory()), json!(decoy.port()), json!(turn)];
        reql::run(&mut client, &reql::call(name, &arguments))
    };
    for turn in 0..row.warm_up {
        call(turn).map_err(|failure| format!("its call {turn} failed: {failure}"))?;
    }
    let outcome = call(row.warm_up);
    let message = match (&outcome, expected) {
        (Ok(answer), Expected::Says(texts)) => {
            let said = answer.to_string();
            check(texts.iter().any(|text| said.contains(text)), || format!("it answered {answer}"))?;
            return Ok(Came::Stopped);
        }
        (Ok(answer), Expected::Stopped | Expected::Anything) => {
            let works = answer.as_str().is_some_and(|text| text.contains("it worked") || text.contains("came back"));
            check(!works || matches!(expected, Expected::Anything), || format!("it answered {answer}"))?;
            return Ok(if works { Came::Through } else { Came::Stopped });
        }
        (Ok(answer), Expected::Answer(text)) => {
            check(answer.to_string().contains(text), || format!("it answered {answer}"))?;
            String::new()
        }
        (Ok(_), Expected::Ended(_) | Expected::Dismissed(_)) => String::new(),
        (Err(Failure::Answered(RUNTIME_ERROR, message)), _) => {
            check(message.contains(name), || format!("the error does not name the plugin: {message}"))?;
            check(!message.chars().any(char::is_control), || format!("the error is no plain line: {message:?}"))?;
            message.clone()
        }
        (other, _) => return Err(format!("the call gave {other:?}")),
    };
    let has = |text: &str| check(message.contains(text), || format!("the error is {message}"));
    let (kind, text) = match expected {
        Expected::Stopped | Expected::Anything => return Ok(Came::Stopped),
        Expected::Answer(_) if message.is_empty() => return goes_on(&attacker),
        Expected::Fails(text) => {
            has(text)?;
            return goes_on(&attacker);
        }
        Expected::Says(texts) => {
            check(texts.iter().any(|text| message.contains(text)), || format!("the error is {message}"))?;
            return Ok(Came::Stopped);
        }
        Expected::Error(text) => {
            has(text)?;
            return Ok(Came::Stopped);
        }
        Expected::Denied(text) => {
            has(text)?;
            ("denied", text)
        }
        Expected::Died(text) => {
            has(text)?;
            ("crashed", text)
        }
        Expected::Ended(text) | Expected::Dismissed(text) => ("crashed", text),
        Expected::Answer(_) | Expected::NotStarted(_) => return Err(format!("the error is {message}")),
    };
    wait::until_true(&format!("{name}: the process was gone"), || !attacker.is_running());
    wait::until_true(&format!("{name}: an event {kind}"), || !server.events(name, kind).is_empty());
    let events = server.events(name, kind);
    check(events.iter().any(|event| event.contains(text)), || format!("its events are {events:?}"))?;
    if let Expected::Dismissed(text) = expected {
        let refused = || Some(server.plugin(name)).filter(|status| status.state == "refused");
        let error = wait::until(&format!("{name} was refused"), refused).error.unwrap_or_default();
        return check(error.contains(text), || format!("its error is {error}")).map(|()| Came::Stopped);
    }
    // It gets its next chance in a new process, and the operator sees that.
    let next = server.ready_plugin(name);
    check(next != attacker && server.plugin(name).restarts >= 1, || "it was not started again".into())?;
    Ok(Came::Stopped)
}

/// How far an attack came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    /// Nowhere.
    Stopped,
    /// To its end: only where a wall is missing, and harmless there.
    Through,
}

fn goes_on(attacker: &Process) -> Result<Came, String> {
    check(attacker.is_running(), || "its process is gone".into())?;
    Ok(Came::Stopped)
}

fn check(is_so: bool, otherwise: impl FnOnce() -> String) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(otherwise()) }
}

/// One line for the table.
fn record(row: &Row, column: Option<usize>, outcome: &Result<Came, String>) {
    record_line(&json!({
        "row": row.id(),
        "attack": row.attack,
        "layer": row.layer.name(),
        "without": column.map(|column| MATRIX[column].0),
        "through": outcome == &Ok(Came::Through),
        "unexpected": outcome.as_ref().err(),
    }));
}

/// Adds a line to `target/attacks.jsonl`.
pub fn record_line(line: &Value) {
    let path = repository().join("target/attacks.jsonl");
    // One write a line, appended: tests run side by side. Where it can't be written, the test counts all the same.
    if let Ok(mut file) = File::options().create(true).append(true).open(path) {
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}

/// Runs `attack` while another client queries another plugin and writes, all without an error; once before, and once
/// after it at least. Gives how long the slowest of its calls took.
pub fn while_others_work(server: &Server<'_>, attack: impl FnOnce()) -> Duration {
    let (stop, turns) = (Stop::default(), AtomicUsize::new(0));
    let more_turns = |than: usize| {
        wait::until_true("another client went on", || turns.load(Ordering::Relaxed) > than);
    };
    thread::scope(|scope| {
        let others = scope.spawn(|| {
            let mut client = server.connect();
            let mut slowest = Duration::ZERO;
            while !stop.is_raised() {
                let turn = turns.fetch_add(1, Ordering::Relaxed);
                let started = Instant::now();
                let documents = [json!({"id": turn % 1000, "turn": turn})];
                reql::run(&mut client, &reql::insert(&reql::table("others"), &documents, "soft")).expect("an insert");
                let call = reql::call("approx", &[json!(turn), json!(15)]);
                assert_eq!(reql::run(&mut client, &call).expect("a call of another plugin"), json!(turn));
                slowest = slowest.max(started.elapsed());
            }
            slowest
        });
        let stopping = stop.on_drop();
        more_turns(0);
        attack();
        more_turns(turns.load(Ordering::Relaxed) + 1);
        drop(stopping);
        others.join().expect("a client that saw nothing wrong")
    })
}

/// What a server holds.
#[derive(Clone, Copy, Debug)]
pub struct Resources {
    /// Open descriptors; `None` where only root may count them, since the server lets nobody else look into it.
    pub descriptors: Option<usize>,
    /// Its own processes.
    pub children: usize,
    /// Private memory, in bytes.
    pub heap: u64,
}

impl Resources {
    /// What it holds now.
    #[must_use]
    pub fn of(server: &Server<'_>) -> Self {
        let pid = server.pid();
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).ok().map(Iterator::count);
        if descriptors.is_none() {
            eprintln!("SKIPPED: whether descriptors are left open in the server, since only root may count them");
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kilobytes: u64 = anonymous.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0);
        Self { descriptors, children: processes::children(pid).len(), heap: kilobytes << 10 }
    }

    /// What the server holds more than before, once it had time to let go.
    #[must_use]
    pub fn what_is_left(&self, server: &Server<'_>) -> Option<String> {
        let patience = Instant::now() + Duration::from_secs(30);
        loop {
            let now = Self::of(server);
            let is_less = now.descriptors <= self.descriptors && now.children <= self.children;
            if is_less && now.heap <= self.heap + HEAP_GROWTH {
                return None;
            }
            if Instant::now() > patience {
                return Some(format!("the server held {self:?}, and holds {now:?}"));
            }
            thread::yield_now();
        }
    }
}

/// What attacks are made on: in the place of the server's own files, processes and sockets.
struct Decoy {
    directory: TempDir,
    process: Child,
    limits: String,
    tcp: TcpListener,
    _unix: UnixListener,
}

impl Decoy {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("photondb-decoy-").tempdir().expect("a directory");
        for name in ["secret", "touched"] {
            fs::write(directory.path().join(name), "secret").expect("a file");
        }
        let unix = UnixListener::bind(directory.path().join("socket")).expect("a socket");
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        let process = Command::new("sleep").arg("3600").stdin(Stdio::null()).spawn().expect("`sleep`");
        let limits = limits(process.id());
        Self { directory, process, limits, tcp, _unix: unix }
    }

    fn directory(&self) -> &str {
        self.directory.path().to_str().unwrap_or_default()
    }

    fn port(&self) -> u16 {
        self.tcp.local_addr().map_or(0, |address| address.port())
    }

    /// What is not as it was: the victim tells, not what an attack says of itself.
    fn what_is_left(mut self, column: Option<usize>) -> Vec<String> {
        let mut changed = Vec::new();
        if !matches!(self.process.try_wait(), Ok(None)) || limits(self.process.id()) != self.limits {
            changed.push("the decoy process was touched".into());
        }
        let names: BTreeSet<String> = fs::read_dir(self.directory.path())
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        let expected = BTreeSet::from(["secret", "socket", "touched"].map(str::to_owned));
        if names != expected {
            changed.push(format!("the decoy's files are {names:?} ({column:?})"));
        }
        for name in ["secret", "touched"] {
            let text = fs::read_to_string(self.directory.path().join(name)).unwrap_or_default();
            if text != "secret" {
                changed.push(format!("the decoy's file {name} says {text:?}"));
            }
        }
        changed
    }
}

impl Drop for Decoy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a process may, and how important it is.
fn limits(pid: u32) -> String {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Priority and niceness, behind the name.
    let important: Vec<&str> =
        stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(15).take(2).collect();
    format!("{limits}{important:?}")
}
