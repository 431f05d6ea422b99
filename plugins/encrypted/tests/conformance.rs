//! The engine keeps to the contract, called directly and over a lane, and finds what was changed in its files.

use std::fs;
use std::path::Path;

use photondb_plugin_encrypted::Encrypted;
use photondb_plugin_sdk::Cause;
use photondb_plugin_sdk::kinds::storage::Entry;
use photondb_plugin_sdk::prelude::*;
use photondb_plugin_sdk::services::{Services, StateDirectory};
use photondb_plugin_sdk::testing::Harness;
use photondb_plugin_sdk::testing::engine::{Persistence, check};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const BLOCKS: &str = "table.blocks";
/// Of a block in the file, and where the second page begins.
const SEALED: usize = 4144;
const PAGES: usize = 16_384;
/// No file may have it.
const MARKER: &[u8] = b"the words that nobody else may read";

fn no_options() -> Datum {
    Datum::object::<&str, Datum>([])
}

fn settings(keys: &[(&str, &str)], active: &str) -> Datum {
    let secrets = Datum::object(keys.iter().map(|(id, key)| (*id, Datum::from(*key))));
    Datum::object([("secrets", secrets), ("active", active.into())])
}

fn open_with(directory: &Path, settings: &Datum, options: Datum) -> Result<Box<dyn StorageEngine>, PluginError> {
    let mut plugin = Encrypted::default();
    plugin.configure(settings)?;
    let mut registry = PluginRegistry::default();
    plugin.register(&mut registry);
    let config = StorageConfig { directory: directory.to_owned(), cache_bytes: 8 << 20, options };
    registry.storage_engines()[0].open(&config)
}

fn open(directory: &Path) -> Result<Box<dyn StorageEngine>, PluginError> {
    open_with(directory, &settings(&[("a", KEY)], "a"), no_options())
}

fn key(number: u32) -> Vec<u8> {
    [MARKER, &number.to_be_bytes()].concat()
}

/// Makes a table of one document of two hundred bytes for each number, and removes every tenth.
fn fill(directory: &Path, numbers: std::ops::Range<u32>) {
    let engine = open(directory).expect("opens");
    let mut batch = WriteBatch::default();
    numbers.clone().for_each(|number| batch.put("documents", key(number), [MARKER; 6].concat()));
    engine.commit(&batch, Durability::Hard).expect("committed");
    let mut batch = WriteBatch::default();
    numbers.step_by(10).for_each(|number| batch.delete("documents", key(number)));
    engine.commit(&batch, Durability::Hard).expect("committed");
}

/// Everything that the engine holds.
fn read(engine: &dyn StorageEngine) -> Result<Vec<Entry>, StorageError> {
    engine.snapshot()?.scan("documents", &KeyRange::default(), Direction::Forward)?.collect()
}

fn is_damage(error: &PluginError) -> bool {
    error.cause() == Cause::Damaged
}

#[test]
fn it_keeps_to_the_contract() {
    let directory = tempfile::tempdir().expect("a directory");
    check(Persistence::Durable, &mut || open(directory.path()).expect("opens"));
}

#[test]
fn it_keeps_to_the_contract_over_a_lane() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut services = Services::default();
    services.state = Some(StateDirectory::new(directory.path()));
    let harness = Harness::start_granted(Encrypted::default(), &settings(&[("a", KEY)], "a"), services);
    let harness = harness.expect("starts");
    check(Persistence::Durable, &mut || harness.open_engine("encrypted", "t", &no_options()).expect("opens"));
}

#[test]
fn nothing_is_written_in_the_clear() {
    let directory = tempfile::tempdir().expect("a directory");
    fill(directory.path(), 0..2_000);
    let files = fs::read_dir(directory.path()).expect("the directory").map(|file| file.expect("a file").path());
    let files: Vec<_> = files.collect();
    assert_eq!(files.len(), 3, "{files:?}");
    for file in files {
        let bytes = fs::read(&file).expect("a file");
        for hidden in [MARKER, b"redb", b"documents"] {
            assert!(!bytes.windows(hidden.len()).any(|part| part == hidden), "{}", file.display());
        }
    }
}

#[test]
fn a_table_without_its_key_file_or_its_blocks_is_left_as_it_is() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    fill(path, 0..100);
    let (blocks, key) = (path.join(BLOCKS), path.join("table.key"));
    fs::rename(&key, path.join("elsewhere")).expect("renamed");
    let error = open(path).map(drop).expect_err("no key");
    assert!(is_damage(&error) && error.message().contains("restore it from a backup"), "{error}");
    fs::rename(path.join("elsewhere"), &key).expect("renamed");
    fs::rename(&blocks, path.join("elsewhere")).expect("renamed");
    let error = open(path).map(drop).expect_err("no blocks");
    assert!(is_damage(&error) && error.message().contains("table.blocks is missing"), "{error}");
    fs::rename(path.join("elsewhere"), &blocks).expect("renamed");
    assert_eq!(read(&*open(path).expect("opens")).expect("read").len(), 90);
}

#[test]
fn two_processes_do_not_open_a_table() {
    let directory = tempfile::tempdir().expect("a directory");
    let engine = open(directory.path()).expect("opens");
    let error = open(directory.path()).map(drop).expect_err("it is locked");
    assert!(error.cause() == Cause::Busy && error.message().contains("another process has"), "{error}");
    drop(engine);
    open(directory.path()).expect("opens");
}

#[test]
fn every_changed_block_is_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    fill(path, 0..400);
    let blocks = path.join(BLOCKS);
    let good = fs::read(&blocks).expect("the blocks");
    let before = read(&*open(path).expect("opens")).expect("read");
    let mut found = 0;
    for number in 0..(good.len() - PAGES) / SEALED {
        let start = PAGES + number * SEALED;
        if good[start..start + SEALED].iter().all(|byte| *byte == 0) {
            continue;
        }
        // A bit of its sequence, of its nonce, of its text, of its tag in turn; or all of it is gone.
        let mut bad = good.clone();
        match [0, 8, 32, 2_000, SEALED - 1].get(number % 6) {
            Some(at) => bad[start + at] ^= 1 << (number % 8),
            None => bad[start..start + SEALED].fill(0),
        }
        fs::write(&blocks, &bad).expect("written");
        // A block that nothing reaches any more harms nobody.
        match open(path).map(|engine| (read(&*engine), read(&*engine), engine.statistics())) {
            Err(error) => assert!(is_damage(&error), "{error}"),
            Ok((Ok(entries), ..)) => {
                assert_eq!(entries, before, "block {number}");
                continue;
            }
            Ok((Err(error), again, statistics)) => {
                assert!(matches!(&error, StorageError::Damaged { .. }), "{error}");
                assert!(error.to_string().contains(&format!("block {}", number + 1)), "{error}");
                assert_eq!(again.expect_err("it stays damaged").to_string(), error.to_string());
                assert!(statistics.to_json_string().contains("is not what was written there"), "{statistics:?}");
            }
        }
        found += 1;
    }
    assert!(found > 20, "only {found} blocks were reached");
    fs::write(&blocks, &good).expect("written");
    assert_eq!(read(&*open(path).expect("opens")).expect("read"), before);
}

#[test]
fn blocks_that_were_swapped_cut_or_come_from_elsewhere_are_found() {
    let (directory, other) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    let path = directory.path();
    fill(path, 0..2_000);
    fill(other.path(), 0..2_000);
    let blocks = path.join(BLOCKS);
    let good = fs::read(&blocks).expect("the blocks");
    let of_other = fs::read(other.path().join(BLOCKS)).expect("the blocks");
    let check = |what: &str, bad: &[u8]| {
        fs::write(&blocks, bad).expect("written");
        let outcome = open(path).and_then(|engine| Ok(read(&*engine)?));
        let error = outcome.map(drop).expect_err(what);
        assert!(is_damage(&error), "{what}: {error}");
        error.message().to_owned()
    };
    let at = |block: usize| PAGES + block * SEALED..PAGES + (block + 1) * SEALED;
    let mut bad = good.clone();
    let written = (0..200).filter(|block| good[at(*block)].iter().any(|byte| *byte != 0));
    let written: Vec<usize> = written.collect();
    for pair in written.windows(2) {
        bad[at(pair[0])].copy_from_slice(&good[at(pair[1])]);
    }
    check("blocks in one another's place", &bad);
    let mut bad = good.clone();
    bad[PAGES..].copy_from_slice(&of_other[PAGES..][..good.len() - PAGES]);
    check("blocks of another table", &bad);
    assert!(check("a file of another table", &of_other).contains("belong to another table"));
    assert!(check("a file that was cut", &good[..good.len() - SEALED]).contains("1 blocks are missing"));
    assert!(check("a file that was cut in a block", &good[..good.len() - 1]).contains("was cut"));
    check("an empty file", &[]);
    // Damage to one copy of the header is mended from the other one.
    for copy in [0, 8_192] {
        let mut bad = good.clone();
        bad[copy + 100] ^= 1;
        fs::write(&blocks, &bad).expect("written");
        assert_eq!(read(&*open(path).expect("opens")).expect("read").len(), 1_800);
    }
    let mut bad = good.clone();
    (bad[100], bad[8_292]) = (bad[100] ^ 1, bad[8_292] ^ 1);
    assert!(check("both copies of the header", &bad).contains("both copies of the header"));
}

#[test]
fn an_older_header_is_found_where_blocks_changed_since() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    fill(path, 0..2_000);
    let blocks = path.join(BLOCKS);
    let old = fs::read(&blocks).expect("the blocks");
    for _ in 0..3 {
        fill(path, 0..2_000);
    }
    let mut bad = fs::read(&blocks).expect("the blocks");
    bad[..PAGES].copy_from_slice(&old[..PAGES]);
    fs::write(&blocks, &bad).expect("written");
    let error = open(path).and_then(|engine| Ok(read(&*engine)?)).map(drop).expect_err("an older header");
    assert!(is_damage(&error), "{error}");
    assert!(error.message().contains("an older header was put back"), "{error}");
}

#[test]
fn an_older_block_is_found_when_all_are_verified() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    fill(path, 0..2_000);
    let blocks = path.join(BLOCKS);
    let old = fs::read(&blocks).expect("the blocks");
    fill(path, 0..2_000);
    let new = fs::read(&blocks).expect("the blocks");
    let verify = || open_with(path, &settings(&[("a", KEY)], "a"), Datum::object([("verify", true)]));
    verify().map(drop).expect("all is well");
    let changed = (PAGES..old.len()).step_by(SEALED).filter(|at| old[*at..at + SEALED] != new[*at..at + SEALED]);
    let mut found = 0;
    for at in changed {
        let mut bad = new.clone();
        bad[at..at + SEALED].copy_from_slice(&old[at..at + SEALED]);
        fs::write(&blocks, &bad).expect("written");
        found += usize::from(verify().map(drop).is_err_and(|error| is_damage(&error)));
    }
    assert!(found > 20, "only {found} older blocks were found");
}

#[test]
fn a_rotated_key_opens_and_a_missing_one_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path();
    fill(path, 0..100);
    let second = KEY.replace("00", "ab");
    let rotated = settings(&[("a", KEY), ("b", &second)], "b");
    let engine = open_with(path, &rotated, no_options()).expect("opens");
    assert!(engine.statistics().to_json_string().contains("\"wrapped_by\":\"b\""), "{:?}", engine.statistics());
    drop(engine);
    let error = open(path).map(drop).expect_err("the key is not there");
    assert!(error.message().contains("the key `b`, which is not configured"), "{error}");
    let engine = open_with(path, &settings(&[("b", &second)], "b"), no_options()).expect("opens");
    assert_eq!(read(&*engine).expect("read").len(), 90);
}
