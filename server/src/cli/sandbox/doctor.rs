//! `photondb sandbox doctor`: what this kernel and machine give, found by trying.

use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use clap::Args;
use photondb_ipc_schema::region;
use photondb_plugin_host::probe::{End, Prober, program};
use photondb_sandbox_profiles::syscalls::Arch;
use photondb_sandbox_profiles::{KernelFeatures, Layer, Permissions, Profiles, Report};
use serde::Serialize;

/// What a plugin's first user would be, as root.
const SOME_UID: u32 = 1_900_000_000;
/// A probe takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(10);
const PAGE: usize = 4096;

/// Says which layers of the sandbox this machine gives, and what to do about those that it does not
///
/// Tries each of them in a process of its own, and starts one in the strict profile as a plugin would be started by a
/// server of this user. Exits with 0 if plugins can run, with 1 if not.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Diagnosis {
    kernel: String,
    arch: String,
    user: u32,
    findings: Vec<Finding>,
    plugins_can_run: bool,
    /// What a strict plugin gets.
    grade: Option<String>,
    /// Why the grade is not better, or what else is not as it could be.
    reasons: Vec<String>,
    /// Why plugins cannot run.
    error: Option<String>,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    name: &'static str,
    state: State,
    detail: String,
    /// What to do about it.
    advice: Option<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// It is there.
    Ok,
    /// It is not, and the sandbox is weaker without.
    Missing,
    /// It is not, and no plugin runs without.
    Fatal,
}

impl Doctor {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let diagnosis = diagnose(&super::host()?);
        let mut output = io::stdout().lock();
        if self.json {
            writeln!(output, "{}", serde_json::to_string(&diagnosis)?)?;
        } else {
            diagnosis.print(&mut output)?;
        }
        Ok(if diagnosis.plugins_can_run { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn diagnose(host: &Path) -> Diagnosis {
    let kernel = KernelFeatures::probe();
    let user = nix::unistd::geteuid();
    let tried = strict(host, &kernel);
    let mut findings = Vec::new();
    of_kernel(&kernel, host, &mut findings);
    if let Ok(report) = &tried {
        of_report(report, &mut findings);
    }
    of_settings(&kernel, &mut findings);
    let grade = tried.as_ref().ok().map(Report::grade);
    Diagnosis {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        arch: std::env::consts::ARCH.to_owned(),
        user: user.as_raw(),
        findings,
        plugins_can_run: tried.is_ok(),
        reasons: grade.as_ref().map(|grade| grade.reasons.clone()).unwrap_or_default(),
        grade: grade.map(|grade| grade.to_string()),
        error: tried.err(),
    }
}

/// Starts a process as a strict plugin is started, and gives what its host reported.
fn strict(host: &Path, kernel: &KernelFeatures) -> Result<Report, String> {
    let resolved = Profiles::builtin().resolve("strict", &Permissions::default()).map_err(|error| error.to_string())?;
    let mut confinement = resolved.compile(kernel).map_err(|error| error.to_string())?;
    if nix::unistd::geteuid().is_root() {
        confinement = confinement.run_as(SOME_UID, SOME_UID);
    }
    let failed = |error: io::Error| format!("a process in the strict profile cannot be started: {error}");
    let getpid = kernel.arch.and_then(|arch| arch.number("getpid")).ok_or("this architecture has no filter")?;
    let (_own, own_fd) = region::server_written("doctor", PAGE).map_err(failed)?;
    let (_peer, peer_fd) = region::plugin_written("doctor", PAGE).map_err(failed)?;
    let program = fs::read(host).map_err(failed)?;
    let prober = Prober::new(host, &program, (own_fd, peer_fd), confinement).map_err(failed)?;
    let run = prober.run(&format!("{}chain\n{getpid}", program::PREFIX), DEADLINE).map_err(failed)?;
    match run.end {
        End::Exited(0) => Ok(run.report),
        end => Err(format!(
            "a process in the strict profile does not run ({end:?}): is {} a static executable? `make release` builds one",
            host.display()
        )),
    }
}

fn of_kernel(kernel: &KernelFeatures, host: &Path, findings: &mut Vec<Finding>) {
    let mut note = |name, is_there: bool, otherwise: State, detail: String, advice| {
        let state = if is_there { State::Ok } else { otherwise };
        findings.push(Finding { name, state, detail, advice: (!is_there).then_some(advice) });
    };
    let arch = kernel.arch.map_or_else(|| "not supported".to_owned(), |arch| arch.to_string());
    note("architecture", kernel.arch.is_some(), State::Fatal, arch, "use x86_64 or aarch64");
    let actions = kernel.seccomp_actions.join(" ");
    note("seccomp", kernel.has_seccomp(), State::Fatal, actions, "use a kernel with CONFIG_SECCOMP_FILTER");
    note(
        "listener",
        kernel.has_listener(),
        State::Missing,
        "stopped calls are named by user notification".to_owned(),
        "use Linux 5.0 or newer: without it a stopped plugin dies unnamed",
    );
    let landlock = match kernel.landlock_abi {
        0 => "this kernel has none".to_owned(),
        abi => format!("ABI {abi}, errata {:#x}", kernel.landlock_errata),
    };
    note(
        "landlock",
        kernel.landlock_abi >= 1,
        State::Fatal,
        landlock,
        "use Linux 5.13 or newer with `landlock` in CONFIG_LSM or lsm=, or name the plugins that may run without it in \
         `accept_degraded` of [sandbox]",
    );
    if (1..6).contains(&kernel.landlock_abi) {
        note(
            "landlock scopes",
            false,
            State::Missing,
            "ABI 6 keeps signals and abstract sockets inside".to_owned(),
            "use Linux 6.12 or newer for grade A",
        );
    }
    let unshare = |flags: u64| kernel.arch.and_then(|arch| refusal(host, arch, "unshare", &[flags]));
    const USER: u64 = 0x1000_0000;
    let namespaces: [(&'static str, u64); 7] = [
        ("user namespace", USER),
        ("pid namespace", 0x2000_0000),
        ("net namespace", 0x4000_0000),
        ("ipc namespace", 0x0800_0000),
        ("uts namespace", 0x0400_0000),
        ("mount namespace", 0x0002_0000),
        ("cgroup namespace", 0x0200_0000),
    ];
    for (name, flag) in namespaces {
        // The others come with it, where one is not root.
        let flags = if nix::unistd::geteuid().is_root() { flag } else { flag | USER };
        let refusal = unshare(flags);
        let detail = refusal.clone().unwrap_or_else(|| "made one in a process of its own".to_owned());
        note(
            name,
            refusal.is_none(),
            State::Missing,
            detail,
            "allow user namespaces (user.max_user_namespaces, kernel.unprivileged_userns_clone, \
             kernel.apparmor_restrict_unprivileged_userns); a second wall: plugins run without",
        );
    }
    let prctl = |option: u64| kernel.arch.and_then(|arch| refusal(host, arch, "prctl", &[option]));
    // PR_GET_MDWE; and MFD_NOEXEC_SEAL, whose name is the empty string at the end of the page of zeros.
    let mdwe = prctl(66);
    let detail = mdwe.clone().unwrap_or_else(|| "known".to_owned());
    note(
        "memory-deny-write-execute",
        mdwe.is_none(),
        State::Missing,
        detail,
        "use Linux 6.3 or newer; the filter refuses executable memory without it",
    );
    let noexec = kernel.arch.and_then(|arch| refusal_of(host, arch, "memfd_create", "b8 8"));
    let detail = noexec.clone().unwrap_or_else(|| "made one".to_owned());
    note(
        "memory files that cannot be executed",
        noexec.is_none(),
        State::Missing,
        detail,
        "use Linux 6.3 or newer; the filter refuses to execute them without it",
    );
}

/// What the host enforced beyond what the kernel was asked about already.
fn of_report(report: &Report, findings: &mut Vec<Finding>) {
    let known = [Layer::Seccomp, Layer::DeniedCallListener, Layer::Landlock];
    let namespaces = [
        Layer::UserNamespace,
        Layer::NetNamespace,
        Layer::IpcNamespace,
        Layer::MountNamespace,
        Layer::UtsNamespace,
        Layer::CgroupNamespace,
    ];
    let is_new = |layer: &Layer| !known.contains(layer) && !namespaces.contains(layer) && *layer != Layer::Cgroup;
    for enforced in report.enforced.iter().filter(|enforced| is_new(&enforced.layer)) {
        findings.push(Finding {
            name: name_of(enforced.layer),
            state: State::Ok,
            detail: enforced.detail.clone(),
            advice: None,
        });
    }
    for missing in report.missing.iter().filter(|missing| is_new(&missing.layer)) {
        findings.push(Finding {
            name: name_of(missing.layer),
            state: State::Missing,
            detail: missing.detail.clone(),
            advice: Some(match missing.layer {
                Layer::Uid => "run the server as root, which gives every plugin a user of its own; a second wall",
                Layer::ThreadLimit => {
                    "the server's watchdog counts threads instead; user namespaces would do it sooner"
                }
                _ => "plugins run without",
            }),
        });
    }
}

fn name_of(layer: Layer) -> &'static str {
    match layer {
        Layer::NoNewPrivs => "no_new_privs",
        Layer::Uid => "user of its own",
        Layer::Capabilities => "capabilities",
        Layer::Rlimits => "resource limits",
        Layer::ThreadLimit => "thread limit",
        Layer::Session => "session",
        Layer::ParentDeath => "ends with the server",
        _ => "further layer",
    }
}

fn of_settings(kernel: &KernelFeatures, findings: &mut Vec<Finding>) {
    let cgroup = kernel.cgroup.as_ref();
    findings.push(Finding {
        name: "cgroup",
        state: if cgroup.is_some() { State::Ok } else { State::Missing },
        detail: cgroup.map_or_else(
            || "no cgroup v2 with a memory controller is delegated to this process".to_owned(),
            |directory| directory.display().to_string(),
        ),
        advice: cgroup.is_none().then_some(
            "run the server as a systemd unit with Delegate=yes; rlimits and the server's watchdog stand in for it",
        ),
    });
    if let Ok(scope) = fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope") {
        findings.push(Finding {
            name: "yama ptrace_scope",
            state: State::Ok,
            detail: format!("{}; the filter and an undumpable server do without", scope.trim()),
            advice: None,
        });
    }
}

/// Makes one call in a process of its own, unconfined; `None`: it was not refused.
fn refusal(host: &Path, arch: Arch, call: &str, arguments: &[u64]) -> Option<String> {
    let arguments: Vec<String> = arguments.iter().map(u64::to_string).collect();
    refusal_of(host, arch, call, &arguments.join(" "))
}

fn refusal_of(host: &Path, arch: Arch, call: &str, arguments: &str) -> Option<String> {
    let Some(number) = arch.number(call) else { return Some("no such call here".to_owned()) };
    let script = format!("{}chain\n{number} {arguments}", program::PREFIX);
    let output = Command::new(host).arg0(script).env_clear().stdin(Stdio::null()).stderr(Stdio::null()).output();
    let output = match output {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => return Some(error.to_string()),
    };
    let result = output.split(' ').nth(2).and_then(|result| result.parse::<i32>().ok());
    match result {
        Some(result) if result >= 0 => None,
        Some(errno) => Some(io::Error::from_raw_os_error(-errno).to_string()),
        None => Some("the process did not say".to_owned()),
    }
}

impl Diagnosis {
    fn print(&self, output: &mut impl Write) -> io::Result<()> {
        writeln!(output, "Linux {} on {}, as user {}\n", self.kernel, self.arch, self.user)?;
        let width = self.findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
        for finding in &self.findings {
            let mark = match finding.state {
                State::Ok => "ok     ",
                State::Missing => "missing",
                State::Fatal => "FATAL  ",
            };
            writeln!(output, "{mark}  {:width$}  {}", finding.name, finding.detail)?;
            if let Some(advice) = finding.advice {
                writeln!(output, "         {:width$}  -> {advice}", "")?;
            }
        }
        match (&self.grade, &self.error) {
            (Some(grade), _) => writeln!(output, "\nplugins can run here; a strict one gets grade {grade}")?,
            (None, error) => {
                writeln!(output, "\nplugins cannot run here: {}", error.as_deref().unwrap_or("no reason given"))?;
            }
        }
        for reason in &self.reasons {
            writeln!(output, "    {reason}")?;
        }
        Ok(())
    }
}
