//! The official Python driver: scripts of `e2e/python/`.
//!
//! A script reads one JSON object from its standard input, with the key `port` and whatever else the test gives, and
//! prints one JSON value.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::place::repository;
use crate::processes;
use crate::server::Server;

/// Python with the driver, as `make test` installs it.
///
/// # Panics
/// When it is missing.
#[must_use]
pub fn python() -> PathBuf {
    let python = std::env::var_os("PYTHON").map_or_else(|| ".tools/venv/bin/python".into(), PathBuf::from);
    // Paths are meant from the repository on; `cargo test` runs this elsewhere.
    let python = repository().join(python);
    assert!(python.is_file(), "{} is missing: run `make test`", python.display());
    python
}

/// Runs the script `e2e/python/NAME.py` against a server.
///
/// # Panics
/// When the script fails: with its traceback.
#[track_caller]
pub fn run(server: &Server<'_>, name: &str, mut input: Value) -> Value {
    input["port"] = server.port().into();
    let script = repository().join("tests/e2e/python").join(name).with_extension("py");
    let mut command = Command::new(python());
    command.arg("-B").arg(&script).env("PYTHONPATH", repository().join("clients/python/src"));
    let ended = processes::run(&mut command, &input.to_string());
    assert!(ended.status.success(), "{} failed:\n{}", script.display(), ended.stderr);
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{name} printed {:?}: {error}", ended.stdout))
}

/// Whether a search in the index `emb` of the table `packages` is answered by the graph alone, as its profile says.
#[track_caller]
pub fn uses_graph(server: &Server<'_>, vector: &[f32]) -> bool {
    let plan = run(server, "plan", json!({"vector": vector}));
    let lines = plan.as_array().into_iter().flatten().filter_map(Value::as_str);
    lines.into_iter().any(|line| line.contains("(vector index)"))
}
