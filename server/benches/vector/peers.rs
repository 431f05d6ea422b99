//! Other vector indexes, in a process of `tests/bench/vector_peers.py` that is asked for one thing at a time.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, anyhow};
use serde::Deserialize;
use serde_json::json;

/// Those of the script.
pub const PEERS: [&str; 7] = [
    "hnswlib",
    "faiss-hnsw16-flat",
    "faiss-hnsw16-fp16",
    "usearch-f16",
    "faiss-ivf256-flat",
    "faiss-pq192x4fs-refined",
    "faiss-ivf256-pq192x4fs-refined",
];

/// The process.
pub struct Peers {
    child: RefCell<Child>,
    requests: RefCell<ChildStdin>,
    answers: RefCell<BufReader<ChildStdout>>,
}

/// What it answers, by what was asked.
#[derive(Debug, Default, Deserialize)]
struct Answer {
    seconds: Option<f64>,
    bytes: Option<f64>,
    recall: Option<f64>,
    one_thread: Option<f64>,
    two_threads: Option<f64>,
    skipped: Option<String>,
}

impl Peers {
    /// Starts it with the vectors of a folder; `None` where there is no Python.
    pub fn start(folder: &Path) -> Option<Self> {
        let python = std::env::var("PHOTONDB_BENCH_PYTHON").unwrap_or_else(|_| "python3".into());
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bench/vector_peers.py");
        let mut command = Command::new(python);
        command.arg(script).arg(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().ok()?;
        let (requests, answers) = (child.stdin.take()?, child.stdout.take()?);
        Some(Self {
            child: RefCell::new(child),
            requests: RefCell::new(requests),
            answers: RefCell::new(BufReader::new(answers)),
        })
    }

    /// Builds an index anew: seconds, and the bytes of it with its vectors; or why it can't.
    pub fn build(&self, peer: &str, threads: usize) -> anyhow::Result<Result<[f64; 2], String>> {
        let answer = self.ask(&json!({ "do": "build", "peer": peer, "threads": threads }))?;
        read(answer, |answer| Some([answer.seconds?, answer.bytes?]))
    }

    /// The recall of the fastest setting that reaches the target.
    pub fn find(&self, peer: &str, target: f64) -> anyhow::Result<Result<f64, String>> {
        read(self.ask(&json!({ "do": "find", "peer": peer, "target": target }))?, |answer| answer.recall)
    }

    /// Queries a second at the setting that was found, on one thread and on two.
    pub fn search(&self, peer: &str, target: f64) -> anyhow::Result<[f64; 2]> {
        let answer = self.ask(&json!({ "do": "search", "peer": peer, "target": target }))?;
        let speeds = read(answer, |answer| Some([answer.one_thread?, answer.two_threads?]))?;
        speeds.map_err(|reason| anyhow!("{peer}: {reason}"))
    }

    fn ask(&self, request: &serde_json::Value) -> anyhow::Result<Answer> {
        let mut line = String::new();
        // Where the process has ended, there is nothing to read either.
        let _ = writeln!(self.requests.borrow_mut(), "{request}");
        self.answers.borrow_mut().read_line(&mut line)?;
        if line.is_empty() {
            let reason = "there is no Python with numpy and this; `make bench PEERS=1` installs it".to_owned();
            return Ok(Answer { skipped: Some(reason), ..Answer::default() });
        }
        serde_json::from_str(&line).with_context(|| format!("the peers printed {line}"))
    }
}

impl Drop for Peers {
    fn drop(&mut self) {
        let mut child = self.child.borrow_mut();
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn read<T>(answer: Answer, wanted: impl FnOnce(&Answer) -> Option<T>) -> anyhow::Result<Result<T, String>> {
    match &answer.skipped {
        Some(reason) => Ok(Err(reason.clone())),
        None => wanted(&answer).map(Ok).with_context(|| format!("the peers answered {answer:?}")),
    }
}
