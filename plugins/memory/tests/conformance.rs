//! The engine keeps to the contract, called directly and over a lane.

use std::path::PathBuf;

use photondb_plugin_memory::Memory;
use photondb_plugin_sdk::prelude::*;
use photondb_plugin_sdk::testing::Harness;
use photondb_plugin_sdk::testing::engine::{Persistence, check};

fn no_options() -> Datum {
    Datum::object::<&str, Datum>([])
}

#[test]
fn it_keeps_to_the_contract() {
    let config = StorageConfig { directory: PathBuf::new(), cache_bytes: 1 << 20, options: no_options() };
    check(Persistence::Volatile, &mut || Memory.open(&config).expect("opens"));
}

#[test]
fn it_keeps_to_the_contract_over_a_lane() {
    let harness = Harness::start(Memory);
    check(Persistence::Volatile, &mut || harness.open_engine("memory", "t", &no_options()).expect("opens"));
}
