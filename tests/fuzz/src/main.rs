//! All fuzz targets in one executable, of which `PHOTONDB_FUZZ_TARGET` picks one; without it, their names are printed.
//!
//! Each target takes bytes that somebody else controls and hands them to the code that reads them in the product. A panic,
//! an overflow, memory or time without bound is a crash; what comes out is held to what it promises where there is
//! such a promise. `tests/tools/fuzz` builds this with coverage and runs the targets: `make fuzz`.

#![no_main]

mod client;
mod control;
mod engines;
mod files;
mod lanes;
mod texts;
mod values;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

type Target = fn(&[u8]);

/// Every target by name, and what its bytes are.
const TARGETS: &[(&str, Target)] = &[
    ("batch", lanes::batch),
    ("lane", lanes::lane),
    ("search_reply", lanes::search_reply),
    ("datum", values::datum),
    ("json", values::json),
    ("control", control::control),
    ("handshake_reply", control::handshake_reply),
    ("host_report", control::host_report),
    ("listener", control::listener),
    ("manifest", texts::manifest),
    ("profile", texts::profile),
    ("config", texts::config),
    ("plugin_output", texts::plugin_output),
    ("saved_graph", files::saved_graph),
    ("hnsw_graph", files::hnsw_graph),
    ("vamana_graph", files::vamana_graph),
    ("ivf_lists", files::ivf_lists),
    ("column", files::column),
    ("packed_chunk", engines::packed_chunk),
    ("engine_reply", engines::engine_reply),
    ("engine_request", engines::engine_request),
    ("npy", files::npy),
    ("reql_handshake", client::handshake),
    ("reql_frame", client::frame),
    ("reql_term", client::term),
];

fuzz_target!(|bytes: &[u8]| {
    static TARGET: OnceLock<Target> = OnceLock::new();
    let run = TARGET.get_or_init(|| {
        let wanted = std::env::var("PHOTONDB_FUZZ_TARGET").unwrap_or_default();
        let names: Vec<_> = TARGETS.iter().map(|(name, _)| *name).collect();
        let found = TARGETS.iter().find(|(name, _)| *name == wanted);
        let Some((_, run)) = found else {
            println!("{}", names.join(" "));
            std::process::exit(0);
        };
        *run
    });
    run(bytes);
});
