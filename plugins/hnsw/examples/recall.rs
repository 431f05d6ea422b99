//! Build time, recall and speed on a data set: `cargo run --release --example recall -- FOLDER [EF_SEARCH ...]`.
//!
//! The folder is as `testing::vector::data::DataSet` says. With one width, also the speed of filtered searches.

use std::error::Error;
use std::path::Path;

use photondb_plugin_hnsw::Hnsw;
use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::testing::vector::measure;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: recall FOLDER [EF_SEARCH ...]")?;
    let widths: Vec<i32> = arguments.map(|width| width.parse()).collect::<Result<_, _>>()?;
    let all = [10, 16, 24, 32, 40, 48, 56, 64, 80, 96, 128, 192, 256, 320, 400];
    let widths = if widths.is_empty() { &all } else { &widths[..] };
    let searches: Vec<Datum> = widths.iter().map(|&width| Datum::object([("ef_search", width)])).collect();
    measure::run(&Hnsw::default(), Path::new(&folder), Datum::Null, &searches)
}
