//! What it costs to start a confined process: a stub, beside the same stub unconfined and under bubblewrap; and how long
//! callers wait for a plugin that died.
//!
//!     make bench
//!     cargo bench -p photondb-server --bench spawn -- [stub] [crash] [idle] [--json FILE] [--rounds N]
//!
//! The stub is the smallest static executable there can be, so that the figures are those of starting it.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{io, thread};

use anyhow::{Context, bail, ensure};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use photondb_ipc_schema::region;
use photondb_plugin_host::spawn::{Use, memfd};
use photondb_plugin_host::{DeniedCalls, Descriptors, read_reply, spawn};
use photondb_sandbox_profiles::confinement::fd;
use photondb_sandbox_profiles::profile::Namespace;
use photondb_sandbox_profiles::{Confinement, HostReply, KernelFeatures, Launch, Permissions, Profiles, StartMessage};
use photondb_server::bench::{Bound, Case, Comparison, Goal, Measure, Options, Report, less};
use photondb_server::cli::client::Client;
use serde_json::{Value, json};

const SECTIONS: [&str; 3] = ["stub", "crash", "idle"];

fn main() -> anyhow::Result<()> {
    let options = Options::parse_for(&SECTIONS);
    let mut report = Report::begin("Confined processes: their start, their restart, their idleness");
    let Some(built) = Built::find()? else { return Ok(()) };
    if options.wants("stub") {
        report.add(&stubs(&built, options.rounds)?);
    }
    if options.wants("crash") {
        report.add(&crashes(&built, options.rounds)?);
    }
    if options.wants("idle") {
        report.add(&idle(&built)?);
    }
    report.end(options.json.as_deref())
}

/// What `make release` built beside this executable.
struct Built {
    release: PathBuf,
    plugins: PathBuf,
}

impl Built {
    fn find() -> anyhow::Result<Option<Self>> {
        let executable = std::env::current_exe().context("this executable has no path")?;
        // target/release/deps/spawn-0123456789abcdef
        let release = executable.ancestors().nth(2).context("this executable is not in a Cargo target directory")?;
        let built = Self { release: release.to_owned(), plugins: release.with_file_name("release-plugins") };
        for needed in [&built.host(), &built.release.join("photondb"), &built.plugins] {
            if !needed.exists() {
                println!("SKIPPED: {} is missing; run `make bench`, which builds it", needed.display());
                return Ok(None);
            }
        }
        Ok(Some(built))
    }

    fn host(&self) -> PathBuf {
        self.release.join("photondb-plugin-host")
    }
}

// ---- A stub that says that it runs ---------------------------------------------------------------------------------

/// Starts in a round, whose medians are compared.
const STARTS: usize = 60;
const START: [Measure; 2] = [less("p50", "us"), less("p90", "us")];
const BARE: &str = "posix_spawn, unconfined";
const BUBBLEWRAP: &str = "bubblewrap --unshare-all";
const NO_NET: &str = "strict, no network namespace";
const EVERY: &str = "strict, every namespace";
const NO_NET_WARM: &str = "strict, no network namespace, from a host that stands by";
const EVERY_WARM: &str = "strict, every namespace, from a host that stands by";

fn stubs(built: &Built, rounds: usize) -> anyhow::Result<Comparison> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("stub");
    let stub = stub().context("no stub for this architecture")?;
    fs::write(&path, &stub)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    let executable = memfd("stub", &stub, Use::Executable)?;
    let host = built.host();
    let starter = |is_wanted: fn(&Namespace) -> bool| -> anyhow::Result<Starter> {
        let resolved = Profiles::builtin().resolve("strict", &Permissions::default())?;
        let mut confinement = resolved.compile(&KernelFeatures::probe())?;
        confinement.namespaces.retain(is_wanted);
        // As the server does: every process has a user of its own.
        let nobody = 65_534;
        let confinement =
            if nix::unistd::geteuid().is_root() { confinement.run_as(nobody, nobody) } else { confinement };
        let (own, server_region) = region::server_written("stub", 4096)?;
        let (peer, plugin_region) = region::plugin_written("stub", 4096)?;
        drop((own, peer));
        let executable = executable.try_clone()?;
        Ok(Starter { host: host.clone(), executable, confinement, server_region, plugin_region })
    };
    let (no_net, every) = (starter(|it| *it != Namespace::Net)?, starter(|_| true)?);
    let bare = [path.clone().into_os_string()];
    let shown = path.as_os_str();
    let wrap: Vec<_> = ["bwrap", "--unshare-all", "--ro-bind"].map(Into::into).into();
    let wrap: Vec<std::ffi::OsString> = [&wrap[..], &[shown.into(), "/stub".into(), "/stub".into()]].concat();
    let mut cases = vec![
        Case::new(BARE, || medians(|| plain(&bare))),
        Case::new(NO_NET, || medians(|| no_net.start(false))),
        Case::new(EVERY, || medians(|| every.start(false))),
        Case::new(NO_NET_WARM, || medians(|| no_net.start(true))),
        Case::new(EVERY_WARM, || medians(|| every.start(true))),
    ];
    cases.push(match plain(&wrap) {
        Ok(_) => Case::new(BUBBLEWRAP, || medians(|| plain(&wrap))),
        Err(error) => Case::skipped(BUBBLEWRAP, format!("it does not run here: {error:#}")),
    });
    let mut comparison =
        Comparison::measure("From before the sockets to the stub's first byte", &START, rounds, cases)?;
    for (case, bound) in [(NO_NET, 8.0), (EVERY, 3.0), (NO_NET_WARM, 8.0), (EVERY_WARM, 3.0)] {
        if bound > 3.0 {
            comparison = comparison.with_goal(Goal::new((case, "p50"), Bound::AtMost(2.0), (BARE, "p50")));
        }
        comparison = comparison.with_goal(Goal::new((case, "p50"), Bound::Faster(bound), (BUBBLEWRAP, "p50")));
    }
    Ok(comparison)
}

fn medians(mut start: impl FnMut() -> anyhow::Result<Duration>) -> anyhow::Result<Vec<f64>> {
    let mut taken = (0..STARTS).map(|_| Ok(start()?.as_secs_f64() * 1e6)).collect::<anyhow::Result<Vec<_>>>()?;
    taken.sort_by(f64::total_cmp);
    Ok(vec![taken[STARTS / 2], taken[STARTS * 9 / 10]])
}

/// Spawns a command that becomes the stub, with the socket where the stub expects it.
fn plain(command: &[std::ffi::OsString]) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    let (mut ours, theirs) = UnixStream::pair()?;
    let mut actions = PosixSpawnFileActions::init()?;
    actions.add_dup2(theirs.as_raw_fd(), fd::CONTROL)?;
    let c_string = |text: &std::ffi::OsString| std::ffi::CString::new(text.as_encoded_bytes());
    let arguments = command.iter().map(c_string).collect::<Result<Vec<_>, _>>()?;
    let environment: [std::ffi::CString; 0] = [];
    let program = match Path::new(&command[0]).is_absolute() {
        true => PathBuf::from(&command[0]),
        false => Path::new("/usr/bin").join(&command[0]),
    };
    let pid = posix_spawn(&program, &actions, &PosixSpawnAttr::init()?, &arguments, &environment)?;
    drop(theirs);
    let said = ours.read_exact(&mut [0]);
    let taken = begin.elapsed();
    drop(ours);
    waitpid(pid, None)?;
    said?;
    Ok(taken)
}

/// The server's way to start a process, up to the plugin's first byte.
struct Starter {
    host: PathBuf,
    executable: OwnedFd,
    confinement: Confinement,
    server_region: OwnedFd,
    plugin_region: OwnedFd,
}

impl Starter {
    /// `waits`: the host has confined itself before the clock starts.
    fn start(&self, waits: bool) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        let (server_pid, confinement) = (std::process::id(), self.confinement.clone());
        let message = StartMessage { name: "stub".into(), launch: Launch::Plugin, server_pid, waits, confinement };
        let message = memfd("start", &serde_json::to_vec(&message)?, Use::Data)?;
        let ((mut control, their_control), (mut report, their_report)) = (UnixStream::pair()?, UnixStream::pair()?);
        let (passing, their_passing) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?;
        let ((_stdout, their_stdout), (_stderr, their_stderr)) = (io::pipe()?, io::pipe()?);
        let descriptors = Descriptors {
            stdout: their_stdout.as_fd(),
            stderr: their_stderr.as_fd(),
            control: their_control.as_fd(),
            passing: their_passing.as_fd(),
            server_region: self.server_region.as_fd(),
            plugin_region: self.plugin_region.as_fd(),
            executable: self.executable.as_fd(),
            start: message.as_fd(),
            report: their_report.as_fd(),
        };
        let pid = spawn(&self.host, &descriptors)?;
        drop((their_control, their_report, their_passing, their_stdout, their_stderr));
        let begin = if waits {
            // The report is there once it has nothing left to do but to wait.
            let mut line = String::new();
            BufReader::new(report.try_clone()?).read_line(&mut line)?;
            let begin = Instant::now();
            report.write_all(&[1])?;
            begin
        } else {
            begin
        };
        let said = control.read_exact(&mut [0]);
        let taken = begin.elapsed();
        if !waits {
            match read_reply(&report)? {
                HostReply::Report(confined) => ensure!(confined.missing.len() <= 2, "{:?}", confined.missing),
                HostReply::Error(reason) => bail!("{reason}"),
            }
        }
        DeniedCalls::receive(passing.as_fd(), Vec::new())?.context("it sent no listener")?;
        drop(control);
        waitpid(Pid::from_raw(pid), None)?;
        said?;
        Ok(taken)
    }
}

/// An ELF executable without a C library that writes a byte to descriptor 3, waits for its end, and exits.
fn stub() -> Option<Vec<u8>> {
    let (machine, code): (u16, Vec<u8>) = match std::env::consts::ARCH {
        "x86_64" => (
            62,
            [
                &[0xBF, 3, 0, 0, 0, 0x48, 0x89, 0xE6, 0xBA, 1, 0, 0, 0][..], // edi = 3, rsi = rsp, edx = 1
                &[0xB8, 1, 0, 0, 0, 0x0F, 0x05],                             // write
                &[0x31, 0xC0, 0x0F, 0x05],                                   // read
                &[0x31, 0xFF, 0xB8, 231, 0, 0, 0, 0x0F, 0x05],               // exit_group(0)
            ]
            .concat(),
        ),
        "aarch64" => (
            183,
            [
                0xD280_0060_u32, // x0 = 3
                0x9100_03E1,     // x1 = sp
                0xD280_0022,     // x2 = 1
                0xD280_0808,     // x8 = write
                0xD400_0001,
                0xD280_0060, // x0 = 3
                0xD280_07E8, // x8 = read
                0xD400_0001,
                0xD280_0000, // x0 = 0
                0xD280_0BC8, // x8 = exit_group
                0xD400_0001,
            ]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect(),
        ),
        _ => return None,
    };
    let (base, header) = (0x40_0000_u64, 64 + 56_u64);
    let size = header + code.len() as u64;
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend([2_u16, machine].iter().flat_map(|it| it.to_le_bytes()));
    elf.extend(1_u32.to_le_bytes());
    elf.extend([base + header, 64, 0].iter().flat_map(|it| it.to_le_bytes()));
    elf.extend(0_u32.to_le_bytes());
    elf.extend([64_u16, 56, 1, 0, 0, 0].iter().flat_map(|it| it.to_le_bytes()));
    // PT_LOAD, readable and executable.
    elf.extend([1_u32, 5].iter().flat_map(|it| it.to_le_bytes()));
    elf.extend([0, base, base, size, size, 4096].iter().flat_map(|it| it.to_le_bytes()));
    elf.extend(code);
    Some(elf)
}

// ---- A plugin that dies --------------------------------------------------------------------------------------------

const SERVING: [Measure; 2] = [less("p50", "ms"), less("greatest", "ms")];
/// Kills in a round.
const KILLS: usize = 7;
const STATS: &str = "stats: until it answers a call";
const HNSW: &str = "hnsw, 5,000 rows of 384 numbers: until its graph answers";
const GOAL_MS: &str = "10 ms";

fn crashes(built: &Built, rounds: usize) -> anyhow::Result<Comparison> {
    let mut server = Server::start(built)?;
    server.import(built)?;
    let query = server.first_vector()?;
    let search = json!([168, [PACKAGES.parse::<Value>()?, [2, query]], {"index": "emb", "max_results": 10}]);
    let call = json!([64, [[11, ["plugin.approx"]], 123, 1]]);
    let server = std::cell::RefCell::new(server);
    let killed = |plugin: &str, term: &Value, served: &str| -> anyhow::Result<Vec<f64>> {
        let mut server = server.borrow_mut();
        let mut taken = (0..KILLS).map(|_| server.kill(plugin, term, served)).collect::<anyhow::Result<Vec<_>>>()?;
        taken.sort_by(f64::total_cmp);
        Ok(vec![taken[KILLS / 2], taken[KILLS - 1]])
    };
    let cases = vec![
        Case::new(GOAL_MS, || Ok(vec![10.0, 10.0])),
        Case::new(STATS, || killed("stats", &call, "100")),
        Case::new(HNSW, || killed("hnsw", &search, "vector index")),
    ];
    let title = "From kill -9 of a plugin to its next answer, over a client's connection";
    let comparison = Comparison::measure(title, &SERVING, rounds, cases)?;
    Ok(comparison.with_goal(Goal::new((STATS, "p50"), Bound::AtMost(1.0), (GOAL_MS, "p50"))).with_goal(Goal::new(
        (HNSW, "p50"),
        Bound::AtMost(10.0),
        (GOAL_MS, "p50"),
    )))
}

const PACKAGES: &str = r#"[15,[[14,["test"]],"packages"]]"#;

/// The server in a process of its own, and a connection.
struct Server {
    child: Child,
    stream: TcpStream,
    port: String,
    _data: tempfile::TempDir,
}

impl Server {
    fn start(built: &Built) -> anyhow::Result<Self> {
        let data = tempfile::tempdir()?;
        let config = data.path().join("photondb.toml");
        // Each kill here is to be the first after a healthy run.
        let restarts =
            "recovered_after = \"1ms\"\ngive_up_after = 1000000\nper_minute = 1000000\nall_per_minute = 1000000";
        fs::write(&config, format!("[plugins.restarts]\n{restarts}\n"))?;
        let mut command = Command::new(built.release.join("photondb"));
        command.arg("serve").arg("--data").arg(data.path()).arg("--config").arg(&config);
        command.arg("--plugin-dir").arg(&built.plugins);
        command.args(["--reql-port", "0", "--http-port", "0", "--rpc-port", "0"]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
        let ready: Value = serde_json::from_str(&line).context("the server did not start")?;
        let port = ready["reql"].to_string();
        let stream = Client::connect(&format!("127.0.0.1:{port}"), "admin", "")?.into_stream();
        Ok(Self { child, stream, port, _data: data })
    }

    /// The demo: 5,000 packages with an index of their vectors.
    fn import(&mut self, built: &Built) -> anyhow::Result<()> {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data");
        let mut command = Command::new(built.release.join("photondb"));
        command.args(["import", "--table", "test.packages", "--field", "emb", "--port", &self.port]);
        command.arg("--file").arg(data.join("packages.jsonl.zst"));
        command.arg("--vectors").arg(data.join("embeddings.f16.npy"));
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        ensure!(status.success(), "the import failed");
        let options = json!({"type": "hnsw", "dims": 384, "metric": "cosine"});
        let table: Value = PACKAGES.parse()?;
        self.run(&json!([75, [table, "emb"], {"vector": options}]))?;
        self.run(&json!([140, [table]]))?;
        // So that the graph is saved.
        thread::sleep(Duration::from_secs(3));
        Ok(())
    }

    fn first_vector(&mut self) -> anyhow::Result<Value> {
        let answer = self.run(&json!([170, [[45, [PACKAGES.parse::<Value>()?, 0]], "emb"]]))?;
        Ok(answer["r"][0].clone())
    }

    /// The whole response to a term, with its profile.
    fn run(&mut self, term: &Value) -> anyhow::Result<Value> {
        let body = json!([1, term, {"profile": true}]).to_string();
        let mut frame = 7_u64.to_le_bytes().to_vec();
        frame.extend((body.len() as u32).to_le_bytes());
        frame.extend(body.as_bytes());
        self.stream.write_all(&frame)?;
        let mut head = [0; 12];
        self.stream.read_exact(&mut head)?;
        let mut body = vec![0; u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize];
        self.stream.read_exact(&mut body)?;
        Ok(serde_json::from_slice(&body)?)
    }

    /// Milliseconds from the end of the process to the first answer that has `served` in it.
    fn kill(&mut self, plugin: &str, term: &Value, served: &str) -> anyhow::Result<f64> {
        let begin = Instant::now();
        while !self.run(term)?.to_string().contains(served) {
            ensure!(begin.elapsed() < Duration::from_secs(20), "{plugin} does not serve: {}", self.run(term)?);
        }
        // It has stood up again: a host stands by, as it does after any healthy run.
        thread::sleep(Duration::from_millis(30));
        let plugins = json!([15, [[14, ["rethinkdb"]], "plugins"]]);
        let row = self.run(&json!([16, [plugins, plugin]]))?;
        let pid = row["r"][0]["pid"].as_i64().with_context(|| format!("{plugin} has no process: {row}"))?;
        let begin = Instant::now();
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL)?;
        // What was under way fails, or is answered by the old process: neither is the new one.
        loop {
            let answer = self.run(term)?;
            let taken = begin.elapsed();
            ensure!(taken < Duration::from_secs(20), "{plugin} is not back: {answer}");
            if !Path::new(&format!("/proc/{pid}")).exists() && answer.to_string().contains(served) {
                return Ok(taken.as_secs_f64() * 1e3);
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

// ---- A plugin that nobody calls ------------------------------------------------------------------------------------

const IDLE: [Measure; 2] = [less("PSS", "KiB"), less("processor time in 10 s", "ms")];
const MIB: &str = "1 MiB, one clock tick";

fn idle(built: &Built) -> anyhow::Result<Comparison> {
    let mut server = Server::start(built)?;
    let plugins = json!([15, [[14, ["rethinkdb"]], "plugins"]]);
    let row = server.run(&json!([16, [plugins, "stats"]]))?;
    let pid = row["r"][0]["pid"].as_u64().context("stats has no process")?;
    let standby = children(server.child.id()).into_iter().find(|child| *child != pid && is_host(*child));
    thread::sleep(Duration::from_secs(1));
    let figures = |pid: u64| -> anyhow::Result<Vec<f64>> {
        let before = cpu_ms(pid)?;
        thread::sleep(Duration::from_secs(10));
        Ok(vec![pss_kib(pid)?, cpu_ms(pid)? - before])
    };
    let cases = vec![
        Case::new(MIB, || Ok(vec![1024.0, 10.0])),
        Case::new("stats", || figures(pid)),
        match standby {
            Some(standby) => Case::new("a host that stands by", move || figures(standby)),
            None => Case::skipped("a host that stands by", "there is none"),
        },
    ];
    let comparison = Comparison::measure("A plugin that nobody calls", &IDLE, 1, cases)?;
    Ok(comparison.with_goal(Goal::new(("stats", "PSS"), Bound::AtMost(1.0), (MIB, "PSS"))).with_goal(Goal::new(
        ("stats", IDLE[1].name),
        Bound::AtMost(1.0),
        (MIB, IDLE[1].name),
    )))
}

fn children(parent: u32) -> Vec<u64> {
    let tasks = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
    let texts = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    texts.flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}

fn is_host(pid: u64) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("photondb-plugin"))
}

fn pss_kib(pid: u64) -> anyhow::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

fn cpu_ms(pid: u64) -> anyhow::Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).context("no times");
    // utime and stime, in hundredths of a second.
    Ok((ticks(11)? + ticks(12)?) * 10.0)
}
