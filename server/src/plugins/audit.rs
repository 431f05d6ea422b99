//! `photondb plugin audit`: attacks a plugin's own confinement from within.
//!
//! The probes run beside the plugin, never in its process: each is a process of its own that is confined exactly as the
//! plugin was when it was last started, with the same filter, files, user and limits, and regions of its own. They are
//! started by a thread of their own, so that neither the plugin nor the thread that serves all plugins notices.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use photondb_ipc_schema::region;
use photondb_plugin_host::probe::{Attempt, Judge, Outcome, Prober, Target, Verdict, battery};
use photondb_sandbox_profiles::{Confinement, KernelFeatures, LayerReport, Report, ResolvedProfile};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// What one attempt may take: most take milliseconds, the longest waits for a watchdog.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(10);
/// What all of them may take together.
const DEADLINE: Duration = Duration::from_secs(120);
/// The probes' regions: they try to get at them, not to fill them.
const REGION_BYTES: usize = 4096;

/// How a plugin was confined when it was last started.
#[derive(Debug)]
pub struct Confined {
    /// The plugin.
    pub plugin: String,
    /// `photondb-plugin-host`.
    pub host: PathBuf,
    /// What the host was told.
    pub confinement: Confinement,
    /// What the host had enforced.
    pub report: Report,
    /// The profile with the plugin's permissions.
    pub resolved: ResolvedProfile,
    is_audited: AtomicBool,
}

/// A part of an audit, in the order in which they come.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditItem {
    /// One attempt was made.
    Attempt(Outcome),
    /// All were.
    Summary(AuditSummary),
    /// It was given up, for this reason.
    Failed(String),
}

/// The result of an audit.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AuditSummary {
    /// The plugin.
    pub plugin: String,
    /// Its profile.
    pub profile: String,
    /// How well it is confined.
    pub grade: String,
    /// Why not better.
    pub grade_reasons: Vec<String>,
    /// Calls that the filter lets through, those of the host included.
    pub allowed_calls: usize,
    /// Those of them with rules for their arguments.
    pub conditional_calls: usize,
    /// Instructions of the filter.
    pub instructions: usize,
    /// Layers in force around a probe.
    pub layers: Vec<LayerReport>,
    /// Layers that were asked for and are not in force.
    pub missing: Vec<LayerReport>,
    /// Attempts made.
    pub attempts: usize,
    /// Those that were stopped.
    pub blocked: usize,
    /// Those that the profile or a permission openly gives.
    pub granted: usize,
    /// Those that went through: holes.
    pub succeeded: usize,
    /// Those that told nothing.
    pub unclear: usize,
    /// How many each layer stopped.
    pub blocked_by: BTreeMap<String, usize>,
    /// How long it took.
    pub milliseconds: u64,
}

impl Confined {
    /// As the plugin is started now.
    pub(super) fn new(
        plugin: &str,
        host: &Path,
        confinement: Confinement,
        report: Report,
        resolved: ResolvedProfile,
    ) -> Self {
        let is_audited = AtomicBool::new(false);
        Self { plugin: plugin.to_owned(), host: host.to_owned(), confinement, report, resolved, is_audited }
    }

    /// Begins an audit; its parts come as they are there, the summary last. It ends early when nobody listens.
    ///
    /// # Errors
    /// One sentence: it is being audited already, or the machine has no thread left.
    pub fn audit(self: &Arc<Self>) -> Result<mpsc::Receiver<AuditItem>, String> {
        if self.is_audited.swap(true, Ordering::AcqRel) {
            return Err(format!("plugin {} is being audited already; wait until that is done", self.plugin));
        }
        let (sender, items) = mpsc::channel(16);
        let confined = Arc::clone(self);
        let work = move || {
            let last = confined.attack(&sender).unwrap_or_else(|error| AuditItem::Failed(error.to_string()));
            confined.is_audited.store(false, Ordering::Release);
            // An error: nobody listens any more.
            let _ = sender.blocking_send(last);
        };
        let thread = thread::Builder::new().name("audit".into()).spawn(work);
        thread.map_err(|error| {
            self.is_audited.store(false, Ordering::Release);
            format!("no thread for an audit: {error}; try again later")
        })?;
        Ok(items)
    }

    fn attack(&self, items: &mpsc::Sender<AuditItem>) -> io::Result<AuditItem> {
        let begin = Instant::now();
        let judge = Judge::new(&self.confinement, &KernelFeatures::probe())
            .ok_or_else(|| io::Error::other("this architecture has no filter"))?;
        let arch = KernelFeatures::probe().arch.ok_or_else(|| io::Error::other("this architecture has no filter"))?;
        let target = Target { server: std::process::id(), threads: self.confinement.threads_max, arch };
        let prober = self.prober(self.confinement.clone())?;
        // In the plugin's own cgroup, what takes memory or threads without end would take the plugin's.
        let apart = match self.confinement.cgroup {
            Some(_) => Some(self.prober(Confinement { cgroup: None, ..self.confinement.clone() })?),
            None => None,
        };
        let report = self.control(&prober, &judge, &target)?;
        let mut summary = self.summary(&report);
        for attempt in battery::all() {
            let prober = if attempt.is_exhausting() { apart.as_ref().unwrap_or(&prober) } else { &prober };
            let Some(script) = attempt.script(&target) else { continue };
            if begin.elapsed() > DEADLINE {
                return Err(io::Error::other(format!("it took longer than {} s", DEADLINE.as_secs())));
            }
            let outcome = judge.judge(attempt, &prober.run(&script, ATTEMPT_DEADLINE)?);
            summary.count(&outcome);
            if items.blocking_send(AuditItem::Attempt(outcome)).is_err() {
                break;
            }
        }
        summary.milliseconds = begin.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
        Ok(AuditItem::Summary(summary))
    }

    fn prober(&self, confinement: Confinement) -> io::Result<Prober> {
        let program = fs::read(&self.host)?;
        // The server's own mappings are of no use here; the descriptors are sealed by now.
        let (_, server_region) = region::server_written(&self.plugin, REGION_BYTES)?;
        let (_, plugin_region) = region::plugin_written(&self.plugin, REGION_BYTES)?;
        Prober::new(&self.host, &program, (server_region, plugin_region), confinement)
    }

    /// Sees that a probe runs in this confinement at all: where none does, everything would look blocked.
    fn control(&self, prober: &Prober, judge: &Judge, target: &Target) -> io::Result<Report> {
        let control: &Attempt = &battery::CONTROL_ATTEMPT;
        let script = control.script(target).ok_or_else(|| io::Error::other("this architecture has no getpid"))?;
        let run = prober.run(&script, ATTEMPT_DEADLINE)?;
        let outcome = judge.judge(control, &run);
        if outcome.verdict == Verdict::Succeeded {
            return Ok(run.report);
        }
        Err(io::Error::other(format!(
            "no probe runs in the confinement of {}, so nothing can be said about it: {}; is {} a static executable?",
            self.plugin,
            outcome.detail,
            self.host.display()
        )))
    }

    fn summary(&self, report: &Report) -> AuditSummary {
        let grade = report.grade();
        AuditSummary {
            plugin: self.plugin.clone(),
            profile: self.confinement.profile.clone(),
            grade: grade.to_string(),
            grade_reasons: grade.reasons,
            allowed_calls: self.resolved.allowed_calls().len(),
            conditional_calls: self.resolved.conditional_calls(),
            instructions: self.confinement.seccomp.len(),
            layers: report.enforced.clone(),
            missing: report.missing.clone(),
            ..AuditSummary::default()
        }
    }
}

impl AuditSummary {
    fn count(&mut self, outcome: &Outcome) {
        self.attempts += 1;
        match outcome.verdict {
            Verdict::Blocked => self.blocked += 1,
            Verdict::Granted => self.granted += 1,
            Verdict::Succeeded => self.succeeded += 1,
            Verdict::Unclear => self.unclear += 1,
        }
        if let Some(layer) = outcome.layer {
            *self.blocked_by.entry(layer.to_string()).or_default() += 1;
        }
    }
}
