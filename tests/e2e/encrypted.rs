//! Tables whose files are encrypted: nothing of them can be read, and what somebody changed is told.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use photondb_tests::place::Place;
use photondb_tests::processes;
use photondb_tests::reql::{self, Failure};
use photondb_tests::server::Server;
use serde_json::{Value, json};

const FIRST: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const SECOND: &str = "a0112233445566778899aabbccddeeff00112233445566778899aabbccddeef0";
/// No file may have it.
const MARKER: &str = "the-words-that-nobody-may-read";
/// Of a block in the file, and where the second page begins.
const SEALED: usize = 4144;
const PAGES: usize = 16_384;

fn place() -> Place {
    let place = Place::new();
    place.install("encrypted");
    for (name, key) in [("first", FIRST), ("second", SECOND)] {
        let path = place.write(&format!("etc/{name}.key"), &format!("{key}\n"));
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("the mode is changed");
    }
    place
}

/// Starts a server that has these keys, of which the first one is for new tables.
fn start<'a>(place: &'a Place, keys: &[&str]) -> Server<'a> {
    let secrets: String = keys.iter().map(|name| format!("{name} = \"{name}.key\"\n")).collect();
    let file = place.write(
        "etc/photondb.toml",
        &format!(
            "[plugins.grants.encrypted]\nstate = true\n[plugins.settings.encrypted]\nactive = \"{}\"\n\
             [plugins.secrets.encrypted]\n{secrets}",
            keys[0]
        ),
    );
    Server::start_with(place, &["--config", &file.display().to_string()])
}

fn table() -> Value {
    reql::table("secret")
}

fn fill(server: &Server<'_>) {
    server.query(&json!([60, [[14, ["test"]], "secret"], {"engine": "encrypted", "options": {"cache_mb": 4}}]));
    server.query(&reql::index_create(&table(), "group"));
    let documents: Vec<Value> =
        (0..2_000).map(|id| json!({"id": format!("{MARKER}-{id}"), "group": format!("{MARKER}-{}", id % 7)})).collect();
    server.query(&reql::insert(&table(), &documents, "hard"));
    server.query(&reql::index_wait(&table()));
}

/// How many documents of a group the index finds.
fn group(server: &Server<'_>, number: usize) -> Value {
    server.query(&reql::count(&json!([78, [table(), format!("{MARKER}-{number}")], {"index": "group"}])))
}

fn failure(server: &Server<'_>) -> String {
    match reql::run(&mut server.connect(), &reql::to_array(&table())) {
        Err(Failure::Answered(_, message)) => message,
        other => panic!("an error was expected: {other:?}"),
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn file(place: &Place, name: &str) -> PathBuf {
    files(&place.data()).into_iter().find(|path| path.ends_with(name)).expect("the file is there")
}

#[test]
fn files_of_a_table_and_logs_have_nothing_of_it_or_of_a_key() {
    let place = place();
    let server = start(&place, &["first"]);
    fill(&server);
    assert_eq!(group(&server, 3), 286);
    let status = server.query(&json!([175, [table()]]));
    assert_eq!(status["engine"]["statistics"]["wrapped_by"], "first", "{status}");
    processes::send(Signal::SIGKILL, server.ready_plugin("encrypted").pid());
    assert_eq!(group(&server, 3), 286, "after a crash");
    let log = server.log();
    assert!(server.terminate().success());
    assert!(!log.contains(&FIRST[..16]) && !log.contains(MARKER), "{log}");
    let files = files(&place.data());
    assert!(files.iter().any(|path| path.ends_with("table.blocks")), "{files:?}");
    for path in files {
        let bytes = fs::read(&path).expect("a file");
        for hidden in [MARKER, &FIRST[..16]] {
            let is_there = bytes.windows(hidden.len()).any(|part| part == hidden.as_bytes());
            assert!(!is_there, "`{hidden}` is in {}", path.display());
        }
    }
}

#[test]
fn a_rotated_key_opens_and_a_missing_one_is_told() {
    let place = place();
    let server = start(&place, &["first"]);
    fill(&server);
    assert!(server.terminate().success());

    let server = start(&place, &["second"]);
    let message = failure(&server);
    for part in ["Table `test.secret` is unavailable", "the key `first`, which is not configured", "`second`"] {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
    assert!(server.terminate().success());

    let server = start(&place, &["second", "first"]);
    assert_eq!(group(&server, 3), 286);
    let status = server.query(&json!([175, [table()]]));
    assert_eq!(status["engine"]["statistics"]["wrapped_by"], "second", "{status}");
    assert!(server.terminate().success());

    let server = start(&place, &["second"]);
    assert_eq!(group(&server, 3), 286);
    assert!(server.terminate().success());

    // Another key under the same name.
    place.write("etc/second.key", FIRST);
    let server = start(&place, &["second"]);
    let message = failure(&server);
    assert!(message.contains("does not open with the key `second`"), "{message}");
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    let place = place();
    let path = place.write("etc/first.key", FIRST);
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("the mode is changed");
    let server = start(&place, &["first"]);
    let plugin = server.plugin("encrypted");
    let error = plugin.error.unwrap_or_default();
    assert!(error.contains("first.key") && error.contains("chmod 600"), "{error}");
}

#[test]
fn a_changed_file_is_told_and_nothing_of_it_is_answered() {
    let place = place();
    let server = start(&place, &["first"]);
    fill(&server);
    server.query(&reql::table_create("other"));
    assert!(server.terminate().success());
    let blocks = file(&place, "table.blocks");
    let good = fs::read(&blocks).expect("the blocks");
    let mut bad = good.clone();
    (PAGES..good.len()).step_by(SEALED).for_each(|at| bad[at + 2_000] ^= 1);
    fs::write(&blocks, &bad).expect("written");

    let server = start(&place, &["first"]);
    for _ in 0..2 {
        let message = failure(&server);
        assert!(message.contains("damaged") && message.contains("is not what was written there"), "{message}");
        assert!(message.contains("restore"), "{message}");
    }
    server.query(&reql::insert(&reql::table("other"), &[json!({"id": 1})], "hard"));
    fs::write(&blocks, &good).expect("written");
    assert!(server.photondb(&["plugin", "reload", "encrypted"]).status.success());
    assert_eq!(group(&server, 3), 286, "restored");
}
