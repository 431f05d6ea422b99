//! Build time, recall and speed on a data set: `cargo run --release --example ivf_recall -- FOLDER TYPE [KEY=VALUE ...]`.
//!
//! `TYPE` is `ivf`, `pq` or `ivf_pq`. The folder is as `testing::vector::data::DataSet` says. Keys with one value are
//! those of the index and of the search; without any for the search, several are tried.

use std::error::Error;
use std::path::Path;

use photondb_plugin_ivf::{IndexType, Kind};
use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::testing::vector::measure;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: recall FOLDER ivf|pq|ivf_pq [KEY=VALUE ...]";
    let (folder, kind) = (arguments.next().ok_or(usage)?, arguments.next().ok_or(usage)?);
    let kind = [Kind::Ivf, Kind::Pq, Kind::IvfPq].into_iter().find(|known| known.name() == kind).ok_or(usage)?;
    let (mut of_index, mut of_search) = (Vec::new(), Vec::new());
    for argument in arguments {
        let (key, value) = argument.split_once('=').ok_or(usage)?;
        let setting = (key.to_owned(), Datum::from(value.parse::<i32>()?));
        if ["nprobe", "refine"].contains(&key) { of_search.push(setting) } else { of_index.push(setting) }
    }
    let searches = if of_search.is_empty() { tried(kind) } else { vec![Datum::object(of_search)] };
    measure::run(&IndexType::new(kind), Path::new(&folder), Datum::object(of_index), &searches)
}

/// Settings from fast to thorough.
fn tried(kind: Kind) -> Vec<Datum> {
    let refines = [2, 4, 6, 8, 12, 16, 24, 32].map(|refine| ("refine", refine));
    let probes = [16, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256].map(|probes| ("nprobe", probes));
    match kind {
        Kind::Ivf => probes.map(|probes| Datum::object([probes])).to_vec(),
        Kind::Pq => refines.map(|refine| Datum::object([refine])).to_vec(),
        Kind::IvfPq => {
            let both = probes.iter().flat_map(|&probes| refines[3..7].iter().map(move |&refine| [probes, refine]));
            both.map(Datum::object).collect()
        }
    }
}
