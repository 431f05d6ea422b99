//! Other vector indexes, measured by `tests/bench/vector_peers.py`.
//!
//! That takes minutes, for each of them is built first; so ours is measured before it and after it, and the peers stand
//! beside both. The best of some passes counts, with all of them.

use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::Context;
use photondb_plugin_sdk::Datum;
use photondb_server::bench::{Bound, Comparison, Goal, Measure, Vectors, less, more, seconds};
use serde::Deserialize;

use super::index::{K, Process};
use super::{CONFINED, THREADS, single};

/// Those of the script.
const PEERS: [&str; 5] =
    ["hnswlib", "faiss-hnsw16-flat", "faiss-hnsw16-fp16", "faiss-pq192x4fs-refined", "usearch-f16"];
const TARGETS: [f64; 2] = [0.95, 0.99];
/// From 32 on those that the peers are given.
const WIDTHS: [u32; 29] = [
    10, 12, 16, 20, 24, 32, 40, 48, 56, 64, 72, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256, 272, 288,
    304, 320, 360, 400,
];
const SEARCH: [Measure; 3] =
    [more("one thread", "queries a second"), more("two threads", "queries a second"), more("recall@10", "")];
const BUILD: [Measure; 2] = [less("time", "s"), less("memory", "bytes")];
/// The best of so many counts, as with the peers.
const PASSES: usize = 3;

/// A line of the script.
#[derive(Debug, Default, Deserialize)]
struct Line {
    peer: String,
    what: Option<String>,
    target: Option<f64>,
    threads: Option<usize>,
    seconds: Option<f64>,
    bytes: Option<f64>,
    recall: Option<f64>,
    single_1_thread_qps: Option<f64>,
    batch_2_threads_qps: Option<f64>,
    skipped: Option<String>,
}

impl Line {
    fn search(&self) -> Option<Vec<f64>> {
        Some(vec![self.single_1_thread_qps?, self.batch_2_threads_qps?, self.recall?])
    }
}

/// Compares our index, which took `built` seconds to build on one and on all threads and is built again by `build`, with
/// each of the peers that is installed.
pub fn compare(
    vectors: &Vectors,
    ours: &Process,
    built: [f64; THREADS],
    build: impl Fn(usize) -> anyhow::Result<f64>,
) -> anyhow::Result<Vec<Comparison>> {
    let measure = || TARGETS.map(|target| at_recall(vectors, ours, target));
    let before = measure();
    eprintln!("measuring: other indexes, each of which is built first; this takes minutes");
    let lines = run(&vectors.folder)?;
    let after = measure();
    let bytes = ours.memory_bytes()? as f64;
    let mut comparisons = Vec::new();
    for (threads, before) in (1..).zip(built) {
        comparisons.push(building(&lines, threads, [before, build(threads)?], bytes));
    }
    for ((target, before), after) in TARGETS.into_iter().zip(before).zip(after) {
        comparisons.push(search(&lines, target, before?, after?));
    }
    Ok(comparisons)
}

fn run(folder: &Path) -> anyhow::Result<Vec<Line>> {
    let python = std::env::var("PHOTONDB_BENCH_PYTHON").unwrap_or_else(|_| "python3".into());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/bench/vector_peers.py");
    let output = Command::new(&python).arg(&script).arg(folder).stderr(std::process::Stdio::inherit()).output();
    let printed = output.map(|output| output.stdout).unwrap_or_default();
    if printed.is_empty() {
        // Without Python or numpy it says nothing but what is missing, on standard error.
        let reason = "there is no Python with numpy and this; `make bench PEERS=1` installs it".to_owned();
        return Ok(PEERS
            .map(|peer| Line { peer: peer.into(), skipped: Some(reason.clone()), ..Line::default() })
            .into());
    }
    let lines = String::from_utf8(printed)?;
    lines.lines().map(|line| serde_json::from_str(line).with_context(|| format!("the peers printed {line}"))).collect()
}

/// The figures at the least width that reaches a recall.
fn at_recall(vectors: &Vectors, ours: &Process, target: f64) -> anyhow::Result<Vec<f64>> {
    for width in WIDTHS {
        let settings = Datum::object([("ef_search", f64::from(width))]);
        let found = ours.search_with(&vectors.queries, &settings)?;
        let recall = vectors.recall(&found, K);
        if recall >= target {
            let (mut one, mut two) = (0.0f64, 0.0f64);
            for _ in 0..PASSES {
                one = one.max(single(vectors, |query| ours.search_with(query, &settings))?[0]);
                two = two.max(two_threads(vectors, ours, &settings)?);
            }
            return Ok(vec![one, two, recall]);
        }
    }
    anyhow::bail!("the recall of {target} is not reached")
}

/// Queries a second where each of two threads asks half of them at once.
fn two_threads(vectors: &Vectors, ours: &Process, settings: &Datum) -> anyhow::Result<f64> {
    let rows = vectors.queries.len() / vectors.dims;
    let half = rows.div_ceil(THREADS) * vectors.dims;
    let (taken, ()) = seconds(|| {
        thread::scope(|scope| {
            let halves = vectors.queries.chunks(half).map(|half| scope.spawn(|| ours.search_with(half, settings)));
            for asked in halves.collect::<Vec<_>>() {
                asked.join().map_err(|_| anyhow::anyhow!("a search panicked"))??;
            }
            Ok(())
        })
    })?;
    Ok(rows as f64 / taken)
}

fn search(lines: &[Line], target: f64, before: Vec<f64>, after: Vec<f64>) -> Comparison {
    let title =
        format!("The nearest {K} at recall@10 of {target}; best of 3 passes; the peers once, between ours twice");
    let mut comparison = Comparison { title, measures: SEARCH.into(), ..Comparison::default() };
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for line in lines.iter().filter(|line| line.target.is_none_or(|at| at == target)) {
        if let Some(figures) = line.search() {
            comparison.cases.push(line.peer.clone());
            first.push(figures.clone());
            second.push(figures);
        } else if let Some(reason) = &line.skipped {
            comparison.skipped.push((line.peer.clone(), reason.clone()));
        }
    }
    comparison.cases.push(CONFINED.into());
    comparison.rounds = vec![[first, vec![before]].concat(), [second, vec![after]].concat()];
    let strict = target > 0.97;
    let single = |times, peer| Goal::new((CONFINED, "one thread"), Bound::AtLeast(times), (peer, "one thread"));
    comparison = comparison.with_goal(single(if strict { 6.0 } else { 4.0 }, "faiss-hnsw16-flat"));
    if strict {
        comparison = comparison.with_goal(single(2.0, "faiss-pq192x4fs-refined"));
    }
    for peer in ["hnswlib", "faiss-hnsw16-flat", "faiss-hnsw16-fp16", "usearch-f16"] {
        let bound = Bound::AtLeast(if strict { 5.0 } else { 3.0 });
        comparison = comparison.with_goal(Goal::new((CONFINED, "two threads"), bound, (peer, "two threads")));
    }
    comparison
}

fn building(lines: &[Line], threads: usize, built: [f64; 2], bytes: f64) -> Comparison {
    let on = if threads == 1 { "one thread".into() } else { format!("{threads} threads") };
    let mut comparison = Comparison {
        title: format!("Building on {on}, and what the index takes beside the vectors (peers: with them)"),
        measures: BUILD.into(),
        ..Comparison::default()
    };
    let mut figures = Vec::new();
    for line in lines {
        match (line.what.as_deref(), line.threads, line.seconds, line.bytes) {
            (Some("build"), Some(on), Some(taken), Some(bytes)) if on == threads => {
                comparison.cases.push(line.peer.clone());
                figures.push(vec![taken, bytes]);
            }
            (None, ..) => {
                let reason = line.skipped.clone().unwrap_or_default();
                comparison.skipped.push((line.peer.clone(), reason));
            }
            _ => {}
        }
    }
    comparison.cases.push(CONFINED.into());
    comparison.rounds = built.map(|taken| [figures.clone(), vec![vec![taken, bytes]]].concat()).into();
    comparison.with_goal(Goal::new((CONFINED, "time"), Bound::AtMost(0.4), ("hnswlib", "time"))).with_goal(Goal::new(
        (CONFINED, "memory"),
        Bound::AtMost(0.34),
        ("hnswlib", "memory"),
    ))
}
