//! The engine keeps to the contract, called directly and over a lane.

use photondb_plugin_columnar::Columnar;
use photondb_plugin_sdk::prelude::*;
use photondb_plugin_sdk::services::{Services, StateDirectory};
use photondb_plugin_sdk::testing::Harness;
use photondb_plugin_sdk::testing::engine::{Persistence, check};

fn small_chunks() -> Datum {
    Datum::object([("chunk_rows", 256)])
}

#[test]
fn it_keeps_to_the_contract() {
    let directory = tempfile::tempdir().expect("a directory");
    let config =
        StorageConfig { directory: directory.path().to_owned(), cache_bytes: 8 << 20, options: small_chunks() };
    check(Persistence::Durable, &mut || Columnar.open(&config).expect("opens"));
}

#[test]
fn it_keeps_to_the_contract_over_a_lane() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut services = Services::default();
    services.state = Some(StateDirectory::new(directory.path()));
    let harness = Harness::start_granted(Columnar, &Datum::object::<&str, Datum>([]), services).expect("starts");
    check(Persistence::Durable, &mut || harness.open_engine("columnar", "t", &small_chunks()).expect("opens"));
}

#[test]
fn documents_are_packed_and_the_file_is_small() {
    let directory = tempfile::tempdir().expect("a directory");
    let config =
        StorageConfig { directory: directory.path().to_owned(), cache_bytes: 8 << 20, options: small_chunks() };
    let engine = Columnar.open(&config).expect("opens");
    for first in (0..20_000_u32).step_by(200) {
        let mut batch = WriteBatch::default();
        for number in first..first + 200 {
            let kind = ["click", "view", "order"][number as usize % 3];
            let document =
                [("id", Datum::from(number)), ("kind", kind.into()), ("price", Datum::from(f64::from(number) / 4.0))];
            batch.put("documents", number.to_be_bytes(), Datum::object(document).encoded());
        }
        engine.commit(&batch, Durability::Soft).expect("commits");
    }
    engine.flush().expect("a flush");
    let statistics = engine.statistics();
    let number = |key: &str| statistics.get(key).and_then(Datum::as_number).expect("a number");
    assert_eq!(statistics.get("engine"), Some(&"columnar".into()));
    assert!(number("packed_rows") >= 19_700.0 && number("chunks") > 70.0, "{statistics:?}");
    assert!(number("packed_bytes") * 5.0 < number("raw_bytes"), "{statistics:?}");
}
