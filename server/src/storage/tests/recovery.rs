use std::fs;
use std::path::{Path, PathBuf};

use super::*;

fn journals(directory: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(directory.join("storage")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "jnl")).collect()
}

/// A copy of a data directory, as a crash at this moment would leave it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn documents(range: std::ops::Range<i32>) -> Vec<Datum> {
    range.map(|id| Datum::object([("id", id), ("v", id)])).collect()
}

#[test]
fn a_directory_has_one_server() {
    let (directory, store, table) = new_store();
    let second = Store::open(directory.path(), &options()).map(drop).unwrap_err();
    assert!(matches!(second, StoreError::Locked(_)));
    assert!(second.to_string().contains("is used by another PhotonDB server"));
    drop((store, table));
    Store::open(directory.path(), &options()).unwrap();
}

#[test]
fn hard_and_soft_writes_survive_a_crash_of_the_process() {
    let (directory, _store, table) = new_store();
    table.create_index(&index("v", "v")).unwrap();
    table.wait_index("v", soon()).unwrap();
    put_all(&table, &documents(0..100));
    let crashed = tempfile::tempdir().unwrap();
    copy(directory.path(), crashed.path());
    let store = Store::open(crashed.path(), &options()).unwrap();
    let table = store.table("test", "t").unwrap();
    assert_eq!(all(table.scan(&DatumRange::all(), Direction::Forward)), documents(0..100));
    assert_eq!(all(table.index_scan("v", &DatumRange::all(), Direction::Forward)), documents(0..100));
    assert_eq!(table.count_estimate(), 100);
}

#[test]
fn a_torn_end_of_the_journal_loses_only_the_last_commit() {
    let (directory, store, table) = new_store();
    put_all(&table, &documents(0..10));
    put_all(&table, &documents(10..20));
    store.flush().unwrap();
    let crashed = tempfile::tempdir().unwrap();
    copy(directory.path(), crashed.path());
    let journal = journals(crashed.path()).pop().unwrap();
    // The journal is allocated ahead: the last commit ends at the last byte that is not zero.
    let bytes = fs::read(&journal).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    fs::write(&journal, &bytes[..end - 5]).unwrap();
    let store = Store::open(crashed.path(), &options()).unwrap();
    let table = store.table("test", "t").unwrap();
    assert_eq!(all(table.scan(&DatumRange::all(), Direction::Forward)), documents(0..10));
    assert_eq!(table.count_estimate(), 10);
}

#[test]
fn a_commit_that_misses_a_sector_is_lost_and_nothing_else() {
    let (directory, store, table) = new_store();
    put_all(&table, &documents(0..10));
    // Long, and too short to be compressed.
    let long = Datum::object([("id", Datum::from(10)), ("v", "x".repeat(3000).into())]);
    put_all(&table, &[long]);
    store.flush().unwrap();
    let crashed = tempfile::tempdir().unwrap();
    copy(directory.path(), crashed.path());
    let journal = journals(crashed.path()).pop().unwrap();
    let mut bytes = fs::read(&journal).unwrap();
    let sector = (bytes.windows(512).position(|window| *window == [b'x'; 512]).unwrap()).next_multiple_of(512);
    bytes[sector..sector + 512].fill(0);
    fs::write(&journal, bytes).unwrap();
    for _ in 0..2 {
        let store = Store::open(crashed.path(), &options()).unwrap();
        let table = store.table("test", "t").unwrap();
        assert_eq!(all(table.scan(&DatumRange::all(), Direction::Forward)), documents(0..10));
        assert_eq!(table.count_estimate(), 10);
    }
}

#[test]
fn a_damaged_journal_is_refused_with_what_to_do() {
    let (directory, store, table) = new_store();
    put_all(&table, &documents(0..50));
    store.flush().unwrap();
    let crashed = tempfile::tempdir().unwrap();
    copy(directory.path(), crashed.path());
    let journal = journals(crashed.path()).pop().unwrap();
    let mut bytes = fs::read(&journal).unwrap();
    // In the middle of the last commit: its end is there, its checksum is wrong.
    let at = bytes.windows(2).rposition(|window| window == b"id").unwrap();
    bytes[at] ^= 0x55;
    fs::write(&journal, bytes).unwrap();
    let error = Store::open(crashed.path(), &options()).map(drop).unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    assert!(error.to_string().contains("restore a backup"), "{error}");
}

#[test]
fn a_later_format_is_refused() {
    let (directory, store, table) = new_store();
    let mut batch = photondb_plugin_sdk::kinds::storage::WriteBatch::default();
    batch.put("catalog", "format", Datum::from(2).encoded());
    table.shared.commit(batch).unwrap();
    drop((store, table));
    let error = Store::open(directory.path(), &options()).map(drop).unwrap_err().to_string();
    assert!(error.contains("use a newer PhotonDB"), "{error}");
}

#[test]
fn a_directory_that_can_not_be_made_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Store::open(&file.join("data"), &options()).map(drop).unwrap_err().to_string();
    assert!(error.contains("file/data"), "{error}");
}
