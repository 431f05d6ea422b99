//! Wrong configuration and wrong surroundings: one clear line, the right exit code, nothing else.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use nix::unistd::geteuid;
use photondb_tests::place::Place;
use photondb_tests::processes;
use photondb_tests::server::Server;

/// Runs `photondb serve`, which must end with this code and say all of these in one line; nothing on standard output.
fn fails(place: &Place, arguments: &[&str], code: i32, texts: &[&str]) {
    let ended = processes::run(&mut place.serve(arguments), "");
    let stderr = &ended.stderr;
    assert_eq!(ended.status.code(), Some(code), "{arguments:?}: {stderr}");
    assert_eq!(ended.stdout, "", "{arguments:?}");
    // Beside the line there may be what was logged before.
    let said: Vec<&str> = stderr.lines().filter(|line| line.starts_with("photondb: ")).collect();
    assert_eq!(said.len(), 1, "{arguments:?}: {stderr}");
    assert_eq!(stderr.lines().last(), said.first().copied(), "{arguments:?}");
    for text in texts {
        assert!(said[0].contains(text), "{arguments:?}: `{text}` is not in: {stderr}");
    }
    for dump in ["panicked", "Error {", "Os {", "Custom {", "RUST_BACKTRACE", "kind: "] {
        assert!(!stderr.contains(dump), "{arguments:?}: {stderr}");
    }
}

#[test]
fn a_wrong_configuration_file_is_explained_in_one_line() {
    let place = Place::new();
    for (text, expected) in [
        ("[plugin]\n", ["photondb.toml:1", "unknown key `plugin`", "`plugins`"]),
        ("[plugins]\nrequire_signature = true\n", ["photondb.toml:2", "require_signature`", "`require_signatures`"]),
        ("[plugins.grants.stats]\nmemroy = \"1GiB\"\n", ["photondb.toml:2", "memroy", "`memory`"]),
        ("[plugins.grants.stats]\nmemory = \"much\"\n", ["photondb.toml:2", "\"much\"", "512MiB"]),
        ("[plugins]\npaths = 3\n", ["photondb.toml:2", "`plugins.paths` is 3", "a list"]),
        ("[sandbox]\nrequire = [\"hope\"]\n", ["photondb.toml:2", "\"hope\"", "landlock"]),
        ("[plugins\n", ["photondb.toml:1", "not valid TOML", ""]),
    ] {
        let file = place.write("etc/photondb.toml", text).display().to_string();
        fails(&place, &["--config", &file], 2, &expected);
        // The one that lies in the data directory is read without being named.
        place.write("data/photondb.toml", text);
        fails(&place, &[], 2, &expected);
        fs::remove_file(place.data().join("photondb.toml")).expect("the file");
    }
    fails(&place, &["--config", "/no/such/photondb.toml"], 2, &["/no/such/photondb.toml", "--config"]);
}

#[test]
fn wrong_arguments_are_explained() {
    let place = Place::new();
    for arguments in
        [&["serve", "--reql-prot", "0"][..], &["serve", "--reql-port", "70000"], &["sevre"], &[], &["plugin", "info"]]
    {
        let ended = processes::run(&mut place.photondb(arguments), "");
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}: {}", ended.stderr);
        assert!(ended.stdout.is_empty() && !ended.stderr.contains("panicked"), "{}", ended.stderr);
    }
    let nearest = processes::run(&mut place.photondb(&["serve", "--reql-prot", "0"]), "");
    assert!(nearest.stderr.contains("--reql-port"), "{}", nearest.stderr);
    for arguments in [&["--version"][..], &["--help"], &["serve", "--help"]] {
        let ended = processes::run(&mut place.photondb(arguments), "");
        assert!(ended.status.success() && ended.stdout.contains("photondb"), "{arguments:?}");
    }
}

#[test]
fn a_port_in_use_is_named() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").port().to_string();
    for (flag, what) in [("--reql-port", "ReQL"), ("--http-port", "HTTP"), ("--rpc-port", "RPC")] {
        let mut command = place.photondb(&["serve", "--no-plugins"]);
        command.arg("--data").arg(place.data());
        for other in ["--reql-port", "--http-port", "--rpc-port"] {
            command.args([other, if other == flag { &port } else { "0" }]);
        }
        let ended = processes::run(&mut command, "");
        assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        for text in [what, &port, flag, "in use"] {
            assert!(ended.stderr.contains(text), "{text}: {}", ended.stderr);
        }
    }
}

#[test]
fn a_data_directory_that_cannot_be_used_is_named() {
    let place = Place::new();
    let file = place.write("a-file", "not a directory").display().to_string();
    for data in [&*file, "/proc/photondb"] {
        let mut command = place.photondb(&["serve", "--no-plugins", "--data", data]);
        let ended = processes::run(command.args(["--reql-port", "0", "--http-port", "0", "--rpc-port", "0"]), "");
        assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
        assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
        assert!(ended.stderr.contains(data) && ended.stderr.contains("--data"), "{}", ended.stderr);
    }
    if geteuid().is_root() {
        // Root can read everything: for root there is no unreadable directory.
        return;
    }
    fs::create_dir(place.data()).expect("the data directory");
    for mode in [0o000, 0o500] {
        fs::set_permissions(place.data(), fs::Permissions::from_mode(mode)).expect("its rights");
        fails(&place, &[], 1, &["data", "Permission denied"]);
    }
    fs::set_permissions(place.data(), fs::Permissions::from_mode(0o700)).expect("its rights");
}

#[test]
fn damaged_data_is_named() {
    let place = Place::new();
    let server = Server::start(&place);
    assert!(server.terminate().success());
    place.write("data/users.json", "{");
    fails(&place, &[], 1, &["users.json", "damaged"]);
}

#[test]
fn a_second_server_on_the_same_data_is_refused() {
    let place = Place::with_first_party_plugins();
    let mut server = Server::start(&place);
    fails(&place, &[], 1, &["in use by another server", "--data"]);
    // The first one goes on, and can still be reached.
    assert!(server.is_running());
    assert!(server.photondb(&["plugin", "list"]).status.success());
    assert_eq!(server.plugin("stats").state, "ready");
}

#[test]
fn plugins_can_be_switched_off() {
    let place = Place::with_first_party_plugins();
    let config = place.write("etc/photondb.toml", "[plugins.enabled]\nstats = false\n").display().to_string();
    let server = Server::start_with(&place, &["--config", &config]);
    assert_eq!((server.plugin("stats").state.as_str(), server.plugin("hnsw").state.as_str()), ("stopped", "ready"));
    assert!(server.terminate().success());

    let mut command = place.photondb(&["serve", "--no-plugins", "--data"]);
    command.arg(place.data()).args(["--reql-port", "0", "--http-port", "0", "--rpc-port", "nonsense"]);
    assert_eq!(processes::run(&mut command, "").status.code(), Some(2));
}
