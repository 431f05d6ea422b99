//! The engine keeps to the contract, called directly and over a lane.

use photondb_plugin_redb::Redb;
use photondb_plugin_sdk::prelude::*;
use photondb_plugin_sdk::services::{Services, StateDirectory};
use photondb_plugin_sdk::testing::Harness;
use photondb_plugin_sdk::testing::engine::{Persistence, check};

fn no_options() -> Datum {
    Datum::object::<&str, Datum>([])
}

#[test]
fn it_keeps_to_the_contract() {
    let directory = tempfile::tempdir().expect("a directory");
    let config = StorageConfig { directory: directory.path().to_owned(), cache_bytes: 8 << 20, options: no_options() };
    check(Persistence::Durable, &mut || Redb.open(&config).expect("opens"));
}

#[test]
fn it_keeps_to_the_contract_over_a_lane() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut services = Services::default();
    services.state = Some(StateDirectory::new(directory.path()));
    let harness = Harness::start_granted(Redb, &no_options(), services).expect("starts");
    check(Persistence::Durable, &mut || harness.open_engine("redb", "t", &no_options()).expect("opens"));
    let files = std::fs::read_dir(directory.path().join("engines/t")).expect("the engine's directory");
    assert_eq!(files.count(), 1, "one file a table");
}
