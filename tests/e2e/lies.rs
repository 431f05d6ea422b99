//! Plugins that are not what they say, and things that are no plugins: the right state, and the server starts anyway.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use nix::sys::signal::Signal;
use photondb_tests::place::{Place, manifest};
use photondb_tests::server::Server;
use photondb_tests::{processes, reql, wait};
use serde_json::{Value, json};

/// A place with a plugin that works, which it has to do whatever else there is.
fn place() -> Place {
    let place = Place::new();
    place.install("stats");
    place
}

fn stats_works(server: &Server<'_>) {
    assert_eq!(server.query(&reql::call("approx", &[json!(1234), json!(2)])), json!(1200));
    assert_eq!(server.plugin("stats").state, "ready");
}

/// The plugin is refused, with this text in its error and its event.
fn is_refused(server: &Server<'_>, name: &str, texts: &[&str]) {
    let status = server.plugin(name);
    assert_eq!((status.state.as_str(), status.pid), ("refused", None), "{status:?}");
    let error = status.error.expect("an error");
    assert_eq!(error.lines().count(), 1, "{error}");
    for kind in ["refused", "conflict"] {
        let events = server.events(name, kind);
        if let Some(event) = events.first() {
            assert!(texts.iter().all(|text| event.contains(text)), "{name}: {event}");
            assert!(texts.iter().all(|text| error.contains(text)), "{name}: {error}");
            return;
        }
    }
    panic!("{name}: no event; the log says\n{}", server.log());
}

#[test]
fn another_protocol_is_refused_with_both_numbers() {
    let place = place();
    place.install_hostile("other_protocol", &[]);
    let text = manifest("from_the_future", &[]).replace("protocol = 1", "protocol = 7");
    place.install_hostile_in("from_the_future", &text);
    let server = Server::start(&place);
    is_refused(&server, "other_protocol", &["protocol 42", "this server 1"]);
    is_refused(&server, "from_the_future", &["protocol 7", "this server 1"]);
    stats_works(&server);
}

#[test]
fn a_manifest_that_lies_is_refused() {
    let place = place();
    place.install_hostile("wrong_name", &[]);
    place.install_hostile("wrong_version", &[]);
    place.install_hostile("more_than_declared", &["declared"]);
    place.install_hostile("less_than_declared", &["declared", "missing"]);
    let server = Server::start(&place);
    is_refused(&server, "wrong_name", &["name", "somebody_else", "wrong_name"]);
    is_refused(&server, "wrong_version", &["version", "9.9.9"]);
    is_refused(&server, "more_than_declared", &["undeclared"]);
    is_refused(&server, "less_than_declared", &["missing"]);
    // Nothing of what they registered can be called.
    let failure = reql::run(&mut server.connect(), &reql::call("undeclared", &[json!(1)])).expect_err("not registered");
    assert!(failure.to_string().contains("no running plugin provides this function"), "{failure}");
    stats_works(&server);
}

#[test]
fn two_plugins_with_one_function_leave_it_to_the_first() {
    let place = place();
    // After `hnsw`, before `stats`: which of the two is first is not the point.
    place.install_hostile("greedy", &["approx", "harmless"]);
    let server = Server::start(&place);
    let states = ["greedy", "stats"].map(|name| (name, server.plugin(name).state));
    let (winner, loser) = match (states[0].1.as_str(), states[1].1.as_str()) {
        ("ready", "refused") => ("greedy", "stats"),
        ("refused", "ready") => ("stats", "greedy"),
        _ => panic!("{states:?}"),
    };
    is_refused(&server, loser, &["`approx`", &format!("`{winner}`")]);
    // All or nothing.
    if loser == "greedy" {
        assert!(reql::run(&mut server.connect(), &reql::call("harmless", &[json!(1)])).is_err());
        stats_works(&server);
    }
    // The operator decides, and the other gets its chance.
    assert!(server.photondb(&["plugin", "disable", winner]).status.success());
    let enabled = server.photondb(&["plugin", "enable", loser]);
    assert!(enabled.status.success(), "{}", enabled.stderr);
    assert_eq!(server.plugin(loser).state, "ready");
    server.query(&reql::call("approx", &[json!(1234)]));
}

#[test]
fn two_folders_with_one_plugin_leave_it_to_the_first() {
    let place = place();
    place.install_hostile_in("a", &manifest("innocent", &["innocent"]));
    place.install_hostile_in("b", &manifest("innocent", &["innocent"]));
    let server = Server::start(&place);
    assert_eq!(server.query(&reql::call("innocent", &[json!("x")])), json!("x"));
    assert_eq!(server.plugin("innocent").state, "ready");
    let conflicts = server.events("innocent", "conflict");
    assert!(conflicts.len() == 1 && conflicts[0].contains("plugins/b"), "{conflicts:?}");
    stats_works(&server);
}

#[test]
fn rubbish_in_the_plugin_directory_is_said_and_passed_over() {
    let place = place();
    let plugins = place.plugins();
    let good = manifest("innocent", &["innocent"]);
    for (path, text) in [
        ("notes.txt", "not a plugin"),
        ("empty_manifest/plugin.toml", ""),
        ("no_toml/plugin.toml", "this is = not toml ]"),
        ("unknown_key/plugin.toml", &good.replace("[permissions]", "[permissions]\nroot = true")),
        ("bad_name/plugin.toml", &good.replace("name = \"innocent\"", "name = \"../innocent\"")),
        ("bad_path/plugin.toml", &good.replace("executable = \"", "executable = \"../../")),
        ("no_executable/plugin.toml", &good.replace("innocent", "no_executable")),
        ("no_program/plugin.toml", &good.replace("innocent", "no_program")),
        ("no_program/photondb-hostile-plugin", "#!/bin/sh\necho this is a script\n"),
        (
            "unknown_profile/plugin.toml",
            &good.replace("innocent", "unknown_profile").replace("[permissions]", "[permissions]\nprofile = \"root\""),
        ),
        ("unknown_profile/photondb-hostile-plugin", "rubbish"),
    ] {
        place.write(&format!("plugins/{path}"), text);
    }
    fs::write(plugins.join("bytes"), [0xff, 0xfe, 0x00]).expect("a file of bytes");
    fs::create_dir(plugins.join("empty")).expect("an empty folder");
    fs::create_dir_all(plugins.join("folder_for_a_file/plugin.toml")).expect("a folder");
    symlink("nowhere", plugins.join("dangling")).expect("a dangling link");
    symlink(".", plugins.join("loop")).expect("a loop");
    let server = Server::start_with(&place, &["--plugin-dir", "/no/such/directory"]);
    stats_works(&server);

    let event = |name: &str| {
        let path = plugins.join(name).display().to_string();
        server.events(&path, "ignored").pop().unwrap_or_else(|| panic!("nothing is said of {name}:\n{}", server.log()))
    };
    for (name, text) in [
        ("notes.txt", "not a plugin"),
        ("bytes", "not a plugin"),
        ("dangling", "not a plugin"),
        ("empty", "no plugin.toml"),
        ("loop", "no plugin.toml"),
        ("folder_for_a_file", "plugin.toml"),
        ("empty_manifest", "plugin"),
        ("no_toml", "line 1"),
        ("unknown_key", "root"),
        ("bad_name", "plugin.name"),
        ("bad_path", "plugin.executable"),
    ] {
        let message = event(name);
        assert!(message.contains(text) && message.lines().count() == 1, "{name}: {message}");
    }
    assert_eq!(server.events("/no/such/directory", "ignored").len(), 1);
    is_refused(&server, "no_executable", &["photondb-hostile-plugin"]);
    is_refused(&server, "unknown_profile", &["root", "strict"]);
    let status = server.plugin("no_program");
    assert!(matches!(status.state.as_str(), "refused" | "failed") && status.error.is_some(), "{status:?}");
}

/// What was looked at is what runs, and nothing else: the server keeps a sealed copy of the executable, and the manifest
/// that it read, until the operator says `reload`.
#[test]
fn files_swapped_after_they_were_read_change_nothing() {
    let place = place();
    place.install_hostile("innocent", &["innocent"]);
    let server = Server::start(&place);
    let process = server.ready_plugin("innocent");
    let call = |value: Value| server.query(&reql::call("innocent", &[value]));
    assert_eq!(call(json!("before")), json!("before"));

    let executable = place.plugins().join("innocent/photondb-hostile-plugin");
    fs::remove_file(&executable).expect("the link");
    fs::write(&executable, "no program").expect("another file");
    fs::set_permissions(&executable, fs::Permissions::from_mode(0o755)).expect("its rights");
    let asks_for_more = manifest("innocent", &["innocent", "approx"]).replace("64MiB", "512MiB");
    place.write("plugins/innocent/plugin.toml", &asks_for_more);
    processes::send(Signal::SIGKILL, process.pid());
    wait::until_true("the process was gone", || !process.is_running());
    wait::until_true("it was started again", || server.ready_plugin("innocent") != process);
    assert_eq!(call(json!("after")), json!("after"));
    assert_eq!(server.plugin("innocent").permissions.memory_bytes, 64 << 20);
    stats_works(&server);

    // Read anew, it is what it is now; the version that runs goes on.
    assert!(!server.photondb(&["plugin", "reload", "innocent"]).status.success());
    assert!(!server.events("innocent", "reload failed").is_empty());
    assert_eq!(call(json!("still")), json!("still"));
    stats_works(&server);
}

#[test]
fn an_unreadable_plugin_is_refused() {
    let place = place();
    place.install_hostile("innocent", &["innocent"]);
    let folder = place.plugins().join("innocent");
    let executable = folder.join("photondb-hostile-plugin");
    fs::remove_file(&executable).expect("the link");
    fs::create_dir(&executable).expect("a folder in place of the executable");
    fs::set_permissions(&executable, fs::Permissions::from_mode(0o700)).expect("its rights");
    let server = Server::start(&place);
    is_refused(&server, "innocent", &["not a regular file"]);
    stats_works(&server);
}
