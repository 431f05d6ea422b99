//! Every type of index in its confined process, beside other vector indexes: building, memory, and queries a second at
//! equal recall.
//!
//! All are built first, and for each the fastest setting is found that reaches a recall; then they are searched in turns.

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::kinds::vector::RowId;
use photondb_server::bench::{Bound, Case, Comparison, Confined, Goal, Measure, Spread, Vectors, less, more, seconds};

use super::index::{K, Process, Settled};
use super::peers::{PEERS, Peers};
use super::{THREADS, build, single};

const TARGETS: [f64; 2] = [0.95, 0.99];
const SEARCH: [Measure; 3] =
    [more("one thread", "queries a second"), more("two threads", "queries a second"), more("recall@10", "")];
const BUILD: [Measure; 2] = [less("time", "s"), less("memory", "bytes")];
/// Builds take most of the time of this benchmark.
const BUILDS: usize = 2;
/// How many times a setting is tried to see which is fastest.
const TRIES: usize = 3;

const WIDTHS: [u16; 33] = [
    10, 12, 16, 20, 24, 32, 40, 48, 56, 64, 72, 80, 96, 112, 128, 144, 160, 176, 192, 208, 224, 240, 256, 272, 288,
    304, 320, 360, 400, 480, 560, 640, 800,
];
const PROBES: [u16; 18] = [16, 24, 32, 48, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256, 288, 320, 400];
const REFINES: [u16; 13] = [2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128];

/// An index type, and the plugin that provides it.
struct Type {
    name: &'static str,
    plugin: &'static str,
    /// The title of its cases.
    case: &'static str,
}

const TYPES: [Type; 5] = [
    Type { name: "hnsw", plugin: "hnsw", case: "PhotonDB hnsw" },
    Type { name: "vamana", plugin: "vamana", case: "PhotonDB vamana" },
    Type { name: "ivf", plugin: "ivf", case: "PhotonDB ivf" },
    Type { name: "pq", plugin: "ivf", case: "PhotonDB pq" },
    Type { name: "ivf_pq", plugin: "ivf", case: "PhotonDB ivf_pq" },
];

impl Type {
    /// Search settings, each ladder from fast to thorough.
    fn ladders(&self) -> Vec<Vec<Datum>> {
        let by = |key: &'static str, values: &[u16]| -> Vec<Datum> {
            values.iter().map(|&value| Datum::object([(key, i32::from(value))])).collect()
        };
        match self.name {
            "hnsw" => vec![by("ef_search", &WIDTHS)],
            "vamana" => vec![by("search_width", &WIDTHS)],
            "ivf" => vec![by("nprobe", &PROBES)],
            "pq" => vec![by("refine", &REFINES)],
            _ => {
                let probes = |&refine: &u16| {
                    let both = |&probes: &u16| [("nprobe", i32::from(probes)), ("refine", i32::from(refine))];
                    PROBES.iter().map(|probed| Datum::object(both(probed))).collect()
                };
                REFINES[4..10].iter().map(probes).collect()
            }
        }
    }
}

/// Builds all on one thread and on two, and searches them at each of the recalls.
pub fn compare(
    vectors: &Vectors,
    rows: &[RowId],
    confined: &Confined,
    settled: &Settled,
    rounds: usize,
) -> anyhow::Result<Vec<Comparison>> {
    let peers = Peers::start(&vectors.folder);
    let mut comparisons = vec![
        building(rows, confined, settled, peers.as_ref(), 1)?,
        building(rows, confined, settled, peers.as_ref(), THREADS)?,
    ];
    let mut indexes = Vec::new();
    for (number, kind) in (0..).zip(&TYPES) {
        let index = Process::open(confined.instance(kind.plugin)?, kind.name, number, settled)?;
        index.insert(rows, true)?;
        index.save()?;
        indexes.push((kind, index));
    }
    for target in TARGETS {
        comparisons.push(searching(vectors, &indexes, peers.as_ref(), target, rounds)?);
    }
    Ok(comparisons)
}

/// Build time and memory, in turns.
fn building(
    rows: &[RowId],
    confined: &Confined,
    settled: &Settled,
    peers: Option<&Peers>,
    threads: usize,
) -> anyhow::Result<Comparison> {
    let on = if threads == 1 { "one thread".into() } else { format!("{threads} threads") };
    let title = format!("Building on {on}, and what an index takes beside the vectors (peers: with them)");
    eprintln!("measuring: {title}");
    let mut comparison = Comparison { title, measures: BUILD.into(), ..Comparison::default() };
    for round in 0..BUILDS {
        let mut row = Vec::new();
        for peer in PEERS {
            match peers.map_or(Ok(Err(absent())), |peers| peers.build(peer, threads))? {
                Ok(figures) => {
                    if round == 0 {
                        comparison.cases.push(peer.into());
                    }
                    row.push(figures.into());
                }
                Err(reason) if round == 0 => comparison.skipped.push((peer.into(), reason)),
                Err(_) => {}
            }
        }
        for kind in &TYPES {
            if round == 0 {
                comparison.cases.push(kind.case.into());
            }
            let index = Process::open(confined.instance(kind.plugin)?, kind.name, 0, settled)?;
            let taken = build(|| index.insert(rows, threads > 1).and_then(|()| index.save()))?;
            row.push(vec![taken, index.memory_bytes()? as f64]);
            index.close()?;
        }
        comparison.rounds.push(row);
    }
    let at_most = |case, measure, bound, peer| Goal::new((case, measure), Bound::AtMost(bound), (peer, measure));
    let goals = [
        at_most("PhotonDB hnsw", "time", 0.4, "hnswlib"),
        at_most("PhotonDB hnsw", "memory", 0.34, "hnswlib"),
        at_most("PhotonDB vamana", "time", 1.0, "hnswlib"),
        at_most("PhotonDB vamana", "memory", 0.4, "hnswlib"),
        at_most("PhotonDB ivf", "memory", 0.5, "faiss-ivf256-flat"),
        at_most("PhotonDB pq", "memory", 0.5, "faiss-pq192x4fs-refined"),
        at_most("PhotonDB ivf_pq", "memory", 0.5, "faiss-ivf256-pq192x4fs-refined"),
    ];
    Ok(goals.into_iter().fold(comparison, Comparison::with_goal))
}

fn absent() -> String {
    "there is no Python; `make bench PEERS=1` installs what is needed".into()
}

/// Queries a second at a recall, in turns.
fn searching(
    vectors: &Vectors,
    indexes: &[(&Type, Process)],
    peers: Option<&Peers>,
    target: f64,
    rounds: usize,
) -> anyhow::Result<Comparison> {
    let title = format!("The nearest {K} at recall@10 of {target}");
    eprintln!("finding settings: {title}");
    let mut cases = Vec::new();
    for peer in PEERS {
        let found = peers.map_or(Ok(Err(absent())), |peers| peers.find(peer, target))?;
        cases.push(match (found, peers) {
            (Ok(recall), Some(peers)) => Case::new(peer, move || {
                let [one, two] = peers.search(peer, target)?;
                Ok(vec![one, two, recall])
            }),
            (Ok(_), None) => Case::skipped(peer, absent()),
            (Err(reason), _) => Case::skipped(peer, reason),
        });
    }
    for (kind, index) in indexes {
        cases.push(match fastest(vectors, kind, index, target)? {
            Ok((settings, recall)) => Case::new(kind.case, move || {
                let one = single(vectors, |query| index.search_with(query, &settings))?[0];
                Ok(vec![one, two_threads(vectors, index, &settings)?, recall])
            }),
            Err(most) => Case::skipped(kind.case, format!("its recall is {most:.4} at most")),
        });
    }
    let comparison = Comparison::measure(title, &SEARCH, rounds, cases)?;
    Ok(goals(target).into_iter().fold(comparison, Comparison::with_goal))
}

/// What is to be reached at a recall.
fn goals(target: f64) -> Vec<Goal> {
    let strict = target > 0.97;
    let goal = |case, measure, times, peer| Goal::new((case, measure), Bound::AtLeast(times), (peer, measure));
    let (one, two) = ("one thread", "two threads");
    let graph = if strict { 6.0 } else { 4.0 };
    let mut goals = vec![
        goal("PhotonDB hnsw", one, graph, "faiss-hnsw16-flat"),
        goal("PhotonDB vamana", one, graph, "faiss-hnsw16-flat"),
    ];
    for peer in ["hnswlib", "faiss-hnsw16-flat", "faiss-hnsw16-fp16", "usearch-f16"] {
        for case in ["PhotonDB hnsw", "PhotonDB vamana"] {
            goals.push(goal(case, two, if strict { 5.0 } else { 3.0 }, peer));
        }
    }
    if strict {
        goals.push(goal("PhotonDB hnsw", one, 2.0, "faiss-pq192x4fs-refined"));
        goals.push(goal("PhotonDB pq", one, 1.5, "faiss-pq192x4fs-refined"));
    } else {
        goals.push(goal("PhotonDB ivf", one, 3.0, "faiss-ivf256-flat"));
    }
    goals.push(goal("PhotonDB ivf_pq", one, 2.0, "faiss-ivf256-pq192x4fs-refined"));
    goals
}

/// The fastest settings that reach a recall, and theirs; or the best recall there is.
fn fastest(vectors: &Vectors, kind: &Type, index: &Process, target: f64) -> anyhow::Result<Result<(Datum, f64), f64>> {
    let (mut fastest, mut most, mut best) = (None, 0.0_f64, 0.0);
    for ladder in kind.ladders() {
        let Some((settings, recall)) = first_to_reach(vectors, index, &ladder, target, &mut most)? else { continue };
        let mut tries = Vec::new();
        for _ in 0..TRIES {
            tries.push(single(vectors, |query| index.search_with(query, &settings))?[0]);
        }
        let speed = Spread::of(tries).max;
        if speed > best {
            (fastest, best) = (Some((settings, recall)), speed);
        }
    }
    Ok(fastest.ok_or(most))
}

/// The first step of a ladder that reaches a recall, by bisection.
fn first_to_reach(
    vectors: &Vectors,
    index: &Process,
    ladder: &[Datum],
    target: f64,
    most: &mut f64,
) -> anyhow::Result<Option<(Datum, f64)>> {
    let (mut least, mut beyond, mut reached) = (0, ladder.len(), None);
    while least < beyond {
        let middle = least.midpoint(beyond);
        let recall = vectors.recall(&index.search_with(&vectors.queries, &ladder[middle])?, K);
        *most = most.max(recall);
        if recall >= target {
            (beyond, reached) = (middle, Some((ladder[middle].clone(), recall)));
        } else {
            least = middle + 1;
        }
    }
    Ok(reached)
}

/// Queries a second where each of two threads asks half of them at once.
fn two_threads(vectors: &Vectors, index: &Process, settings: &Datum) -> anyhow::Result<f64> {
    let rows = vectors.queries.len() / vectors.dims;
    let half = rows.div_ceil(THREADS) * vectors.dims;
    let (taken, ()) = seconds(|| {
        std::thread::scope(|scope| {
            let halves = vectors.queries.chunks(half).map(|half| scope.spawn(|| index.search_with(half, settings)));
            for asked in halves.collect::<Vec<_>>() {
                asked.join().map_err(|_| anyhow::anyhow!("a search panicked"))??;
            }
            Ok(())
        })
    })?;
    Ok(rows as f64 / taken)
}
