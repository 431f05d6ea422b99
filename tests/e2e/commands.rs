//! The command line against a running server, and how a server stops.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use photondb_tests::data::{self, DIMS, PACKAGES};
use photondb_tests::driver;
use photondb_tests::place::{Place, manifest};
use photondb_tests::processes::{self, Process};
use photondb_tests::reql;
use photondb_tests::server::Server;
use photondb_tests::wait::{self, Stop};
use serde_json::{Value, json};

/// What a command prints, a JSON object a line.
fn rows(server: &Server<'_>, arguments: &[&str]) -> Vec<Value> {
    let ended = server.photondb(&[arguments, &["--json"]].concat());
    assert!(ended.status.success(), "{arguments:?}: {}", ended.stderr);
    ended.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The command fails with 1 and one line that has these texts.
fn fails(server: &Server<'_>, arguments: &[&str], texts: &[&str]) {
    let ended = server.photondb(arguments);
    assert_eq!((ended.status.code(), ended.stderr.lines().count()), (Some(1), 1), "{}", ended.stderr);
    assert!(texts.iter().all(|text| ended.stderr.contains(text)), "{texts:?}: {}", ended.stderr);
}

#[test]
fn plugins_are_listed_and_shown() {
    let place = Place::with_first_party_plugins();
    let server = Server::start(&place);
    server.query(&reql::call("approx", &[json!(1.25)]));

    let list = rows(&server, &["plugin", "list"]);
    assert_eq!(list.iter().map(|row| row["name"].as_str()).collect::<Vec<_>>(), [Some("hnsw"), Some("stats")]);
    let text = server.photondb(&["plugin", "list"]).stdout;
    assert!(text.starts_with("NAME") && text.lines().count() == 3, "{text}");
    for (plugin, provides) in [("hnsw", "vector_index hnsw"), ("stats", "function approx")] {
        let info = rows(&server, &["plugin", "info", plugin]).remove(0);
        assert_eq!((&info["state"], &info["permissions"]["profile"]), (&json!("ready"), &json!("strict")));
        assert!(info["provides"].as_array().is_some_and(|all| all.contains(&json!(provides))), "{info}");
        let layers = info["layers"].as_array().expect("layers");
        assert!(["seccomp", "no_new_privs", "landlock"].iter().all(|layer| layers.contains(&json!(layer))), "{info}");
        assert!(info["grade"].as_str().is_some_and(|grade| grade.starts_with(['A', 'B'])), "{info}");
        assert!(info["memory_bytes"].as_u64().is_some_and(|bytes| bytes > 0), "{info}");
        let text = server.photondb(&["plugin", "info", plugin]).stdout;
        assert!(text.contains(provides) && text.contains("strict"), "{text}");
        // The same as a query tells.
        assert_eq!(info["pid"], json!(server.plugin(plugin).pid));
    }
    assert_eq!(rows(&server, &["plugin", "info", "stats"])[0]["calls"], 1);
    fails(&server, &["plugin", "info", "absent"], &["`absent`", "hnsw, stats"]);
    fails(&server, &["plugin", "logs", "absent"], &["`absent`", "hnsw, stats"]);
    fails(&server, &["plugin", "reload", "absent"], &["`absent`", "hnsw, stats"]);
}

#[test]
fn the_operator_stops_starts_and_replaces_plugins() {
    let place = Place::with_first_party_plugins();
    let server = Server::start(&place);
    let approx = reql::call("approx", &[json!(1234), json!(2)]);
    let first = server.ready_plugin("stats");

    assert_eq!(rows(&server, &["plugin", "disable", "stats"])[0]["state"], "stopped");
    assert!(!first.is_running());
    let failure = reql::run(&mut server.connect(), &approx).expect_err("a disabled plugin").to_string();
    assert!(failure.contains("disabled") && failure.contains("photondb plugin enable stats"), "{failure}");

    assert_eq!(rows(&server, &["plugin", "enable", "stats"])[0]["state"], "ready");
    assert_eq!(server.query(&approx), json!(1200));
    let second = server.ready_plugin("stats");

    assert_eq!(rows(&server, &["plugin", "unload", "stats"])[0]["state"], "unloaded");
    assert!(!second.is_running());
    // Starts again when it is used.
    assert_eq!(server.query(&approx), json!(1200));
    let third = server.ready_plugin("stats");

    let reloaded = server.photondb(&["plugin", "reload", "stats"]);
    assert!(reloaded.stdout.contains("stats") && reloaded.stdout.contains("ready"), "{reloaded:?}");
    let fourth = server.ready_plugin("stats");
    assert!(fourth != third);
    wait::until_true("the old instance was gone", || !third.is_running());
    assert_eq!(server.query(&approx), json!(1200));
    assert_eq!(server.plugin("stats").restarts, 0, "what the operator asks for is no restart");
    for kind in ["started", "stopped", "reloaded"] {
        assert!(!server.events("stats", kind).is_empty(), "no event `{kind}`");
    }
}

#[test]
fn a_reload_fails_no_query_and_a_bad_version_replaces_nothing() {
    let place = Place::new();
    place.install_hostile("innocent", &["innocent"]);
    let server = Server::start(&place);
    let old = server.ready_plugin("innocent");
    let call = reql::call("innocent", &[json!("x")]);

    let address = server.address();
    let stop = Stop::default();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut client = reql::connect(address).expect("a connection");
            let mut calls = 0;
            while !stop.is_raised() || calls == 0 {
                assert_eq!(reql::run(&mut client, &call).expect("a call during a reload"), json!("x"));
                calls += 1;
            }
        });
        let stopping = stop.on_drop();
        for _ in 0..5 {
            let reloaded = server.photondb(&["plugin", "reload", "innocent"]);
            assert!(reloaded.status.success(), "{}", reloaded.stderr);
        }
        drop(stopping);
        client.join().expect("a client that saw no failure");
    });
    let current = server.ready_plugin("innocent");
    assert!(current != old && !old.is_running());

    place.write("plugins/innocent/plugin.toml", &manifest("innocent", &["innocent", "missing"]));
    fails(&server, &["plugin", "reload", "innocent"], &["missing"]);
    assert!(current.is_running());
    assert_eq!(server.query(&call), json!("x"));
    assert!(server.events("innocent", "reload failed")[0].contains("the running version stays"));
}

#[test]
fn searches_go_on_while_their_plugin_is_replaced_or_away() {
    let place = Place::with_first_party_plugins();
    let server = Server::start(&place);
    data::import(&place, &server);
    let packages = reql::table("packages");
    let create = reql::vector_index_create(&packages, "emb", DIMS, "cosine");
    server.query(&create);
    server.query(&reql::index_wait(&packages));
    let queries = data::queries();
    let search = reql::nearest(&packages, "emb", &json!(queries[0]), 10);
    let found = server.query(&search);
    let (address, stop) = (server.address(), Stop::default());
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut client = reql::connect(address).expect("a connection");
            while !stop.is_raised() {
                assert_eq!(reql::run(&mut client, &search).expect("a search"), found);
            }
        });
        let stopping = stop.on_drop();
        let refused = server.photondb(&["plugin", "unload", "hnsw"]);
        assert!(!refused.status.success() && refused.stderr.contains("test.packages.emb"), "{}", refused.stderr);
        for action in ["reload", "disable", "enable", "unload", "reload"] {
            let force: &[&str] = if action == "unload" { &["--force"] } else { &[] };
            let changed = server.photondb(&[&["plugin", action, "hnsw"], force].concat());
            assert!(changed.status.success(), "{action}: {}", changed.stderr);
            if action == "disable" {
                assert!(!driver::uses_graph(&server, &queries[0]));
                let refused = reql::vector_index_create(&packages, "emb2", DIMS, "cosine");
                let failure = reql::run(&mut server.connect(), &refused).expect_err("no plugin").to_string();
                assert!(failure.contains("plugin enable hnsw"), "{failure}");
            } else {
                wait::until_true(&format!("searches used the graph after {action}"), || {
                    driver::uses_graph(&server, &queries[0])
                });
            }
        }
        drop(stopping);
        client.join().expect("a client that saw no failure");
    });
}

#[test]
fn a_plugin_that_came_later_is_found() {
    let place = Place::with_first_party_plugins();
    let server = Server::start(&place);
    place.install_hostile("innocent", &["innocent"]);
    let enabled = server.photondb(&["plugin", "enable", "innocent"]);
    assert!(enabled.status.success(), "{}", enabled.stderr);
    assert_eq!(server.query(&reql::call("innocent", &[json!(1)])), json!(1));
}

#[test]
fn what_a_plugin_prints_is_kept() {
    let place = Place::new();
    place.install_hostile("panic", &["panic"]);
    let server = Server::start(&place);
    assert!(reql::run(&mut server.connect(), &reql::call("panic", &[json!(1)])).is_err());
    let line = wait::until("the panic was logged", || {
        let lines = rows(&server, &["plugin", "logs", "panic"]);
        lines.into_iter().find(|line| line["text"].as_str().is_some_and(|text| text.contains("did not think of this")))
    });
    assert_eq!((&line["plugin"], &line["source"]), (&json!("panic"), &json!("stderr")));
    assert!(server.photondb(&["plugin", "logs"]).stdout.contains("did not think of this"));
    let rows = server.query(&reql::to_array(&reql::system_table("plugin_logs")));
    assert!(rows.to_string().contains("did not think of this"));
}

#[test]
fn only_the_owner_may_ask_and_without_a_server_the_line_says_so() {
    let place = Place::new();
    let server = Server::start(&place);
    let socket = place.data().join("photondb.sock");
    assert_eq!(fs::metadata(&socket).expect("the socket").permissions().mode() & 0o777, 0o600);
    server.kill();
    for data in [place.data(), place.data().join("elsewhere")] {
        let ended = processes::run(place.photondb(&["plugin", "list"]).arg("--data").arg(&data), "");
        assert_eq!((ended.status.code(), ended.stderr.lines().count()), (Some(1), 1), "{}", ended.stderr);
        assert!(ended.stderr.contains("no server answers at") && ended.stderr.contains("--data"), "{}", ended.stderr);
    }
}

#[test]
fn documents_and_vectors_are_imported() {
    let place = Place::new();
    let server = Server::start(&place);
    data::import(&place, &server);
    let packages = reql::table("packages");
    assert_eq!(server.query(&reql::count(&packages)), json!(PACKAGES));
    let (documents, vectors) = (data::packages(), data::vectors());
    for id in [0, 1, PACKAGES / 2, PACKAGES - 1] {
        let mut stored = server.query(&reql::get(&packages, id));
        let vector = stored.as_object_mut().and_then(|document| document.remove("emb")).expect("a vector");
        let numbers = vector.as_array().into_iter().flatten().filter_map(Value::as_f64).map(|number| number as f32);
        assert_eq!(numbers.collect::<Vec<_>>(), vectors[id]);
        assert_eq!(stored, documents[id]);
    }
}

#[test]
fn a_server_that_is_told_to_stop_finishes_and_stops() {
    let place = Place::with_first_party_plugins();
    let server = Server::start(&place);
    server.query(&reql::table_create("t"));
    let plugins = processes::children(server.pid());
    assert_eq!(plugins.len(), 4, "two that serve, and two hosts that stand by");
    // A client that only sits there keeps nobody from stopping; soft writes are kept as well.
    let idle = server.connect();
    server.query(&reql::insert(&reql::table("t"), &[json!({"id": 1})], "soft"));
    assert!(server.terminate().success());
    drop(idle);
    assert!(!plugins.iter().any(Process::is_running));
    assert!(!place.data().join("photondb.sock").exists());
    let server = Server::start(&place);
    assert_eq!(server.query(&reql::count(&reql::table("t"))), json!(1));
}
