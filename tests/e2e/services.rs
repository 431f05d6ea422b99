//! Services of the server: what is declared and granted works, and nothing else is there.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::thread;

use photondb_tests::place::{Place, manifest};
use photondb_tests::reql::{self, Failure};
use photondb_tests::server::Server;
use photondb_tests::wait;
use serde_json::{Value, json};

/// Installs a plugin that declares these permissions.
fn install(place: &Place, name: &str, declared: &str) {
    place.install_hostile_in(name, &format!("{}{declared}\n", manifest(name, &[name])));
}

/// Starts a server with these grants.
fn start<'a>(place: &'a Place, grants: &str) -> Server<'a> {
    let file = place.write("etc/photondb.toml", grants).display().to_string();
    Server::start_with(place, &["--config", &file])
}

fn wait_for(server: &Server<'_>, plugin: &str) {
    let _ = server.ready_plugin(plugin);
}

fn ask(server: &Server<'_>, plugin: &str, arguments: &[Value]) -> Result<Value, String> {
    reql::run(&mut server.connect(), &reql::call(plugin, arguments)).map_err(|failure| match failure {
        Failure::Answered(_, message) => message,
        broken @ Failure::Broken(_) => panic!("{broken}"),
    })
}

#[track_caller]
fn refused(answer: Result<Value, String>, text: &str) {
    let message = answer.expect_err("refused");
    assert!(message.contains(text), "`{text}` is not in: {message}");
}

#[test]
fn a_service_that_is_not_both_declared_and_granted_is_never_received() {
    let place = Place::new();
    let everything = "state = true\nmetrics = true\nconnect = [\"127.0.0.1:9\"]";
    install(&place, "client_ungranted", everything);
    install(&place, "client_undeclared", "");
    install(&place, "client_both", everything);
    let grant = |name: &str| format!("[plugins.grants.{name}]\n{everything}\n");
    let server = start(&place, &format!("{}{}", grant("client_undeclared"), grant("client_both")));
    for (name, granted) in [
        ("client_ungranted", json!([])),
        ("client_undeclared", json!([])),
        ("client_both", json!(["connect", "metrics", "state"])),
    ] {
        wait_for(&server, name);
        assert_eq!(ask(&server, name, &[json!("granted")]), Ok(granted), "{name}");
    }
    for (name, kind) in [("client_ungranted", "not granted"), ("client_undeclared", "grant ignored")] {
        assert!(server.photondb(&["plugin", "reload", name]).status.success());
        let events = server.events(name, kind);
        assert_eq!(events.len(), 3, "each is told once: {events:?}");
        let events = events.join("; ");
        for permission in ["state = true", "metrics = true", "connect = [\"127.0.0.1:9\"]"] {
            assert!(events.contains(permission), "{name}: {events}");
        }
        assert_eq!(server.plugin(name).permissions.state, None);
    }
    let granted = server.plugin("client_both").permissions;
    assert_eq!((granted.metrics, granted.connect), (true, vec!["127.0.0.1:9".to_owned()]));
    assert!(!place.data().join("plugins/client_ungranted").exists());
    let metrics = ask(&server, "client_both", &[json!("metrics")]).expect("metrics");
    assert!(metrics.as_str().is_some_and(|text| text.contains("photondb_plugin_ready")), "{metrics}");
}

#[test]
fn a_weaker_profile_needs_the_operators_consent() {
    let place = Place::new();
    install(&place, "client", "profile = \"dynamic\"");
    let server = start(&place, "");
    let status = server.plugin("client");
    assert_eq!(status.state, "refused");
    let error = status.error.expect("a reason");
    assert!(error.contains("`profile = \"dynamic\"` under [plugins.grants.client]"), "{error}");
    drop(server);
    let server = start(&place, "[plugins.grants.client]\nprofile = \"dynamic\"\n");
    wait_for(&server, "client");
    assert_eq!(server.plugin("client").permissions.profile, "dynamic");
}

const STATE: &str = "[plugins.grants.client]\nstate = true\n[plugins.grants.client_other]\nstate = true\n";

#[test]
fn a_state_directory_is_private_and_survives() {
    let place = Place::new();
    for name in ["client", "client_other"] {
        install(&place, name, "state = true");
    }
    let server = start(&place, STATE);
    let (process, _) = (server.ready_plugin("client"), server.ready_plugin("client_other"));
    ask(&server, "client", &[json!("write"), json!("note"), json!("mine")]).expect("written");
    let read = |server: &Server<'_>, plugin: &str, path: &str| ask(server, plugin, &[json!("read"), json!(path)]);
    assert_eq!(read(&server, "client", "note"), Ok(json!("mine")));

    assert!(server.photondb(&["plugin", "reload", "client"]).status.success());
    assert_ne!(server.ready_plugin("client"), process);
    assert_eq!(read(&server, "client", "note"), Ok(json!("mine")));

    let directory = place.data().join("plugins/client/state");
    symlink("/etc/passwd", directory.join("link")).expect("a link");
    for path in [
        "link",
        "/etc/passwd",
        "../../../storage",
        "../../../users.json",
        &directory.join("note").display().to_string(),
    ] {
        // Its own file by its whole name may work or not, as long as others can't.
        if !path.ends_with("note") {
            read(&server, "client", path).expect_err(path);
        }
        read(&server, "client_other", path).expect_err(path);
    }
    read(&server, "client_other", "../../client/state/note").expect_err("another plugin's");
    drop(server);

    let server = start(&place, STATE);
    wait_for(&server, "client");
    assert_eq!(read(&server, "client", "note"), Ok(json!("mine")));
}

#[test]
fn a_quota_is_enforced_and_named() {
    for (quota, fill, name) in
        [("state_bytes = \"1MiB\"", [512 << 10, 8], "state_bytes"), ("state_files = 20", [1, 100], "state_files")]
    {
        let place = Place::new();
        install(&place, "client", "state = true");
        let grant = format!("[plugins.grants.client]\nstate = true\n{quota}\n");
        let server = start(&place, &grant);
        let process = server.ready_plugin("client");
        // Killed for it while it does it, or just after.
        let _ = ask(&server, "client", &[json!("fill"), json!(fill[0]), json!(fill[1])]);
        wait::until_true("the process was killed", || !process.is_running());
        let status =
            wait::until("it is refused", || Some(server.plugin("client")).filter(|status| status.state == "refused"));
        let error = status.error.expect("a reason");
        assert!(error.contains(name) && error.contains("[plugins.grants.client]"), "{error}");
        let crashed = server.events("client", "crashed").join("; ");
        assert!(crashed.contains(name), "{crashed}");

        for entry in fs::read_dir(place.data().join("plugins/client/state")).expect("the directory") {
            fs::remove_file(entry.expect("an entry").path()).expect("removed");
        }
        assert!(server.photondb(&["plugin", "enable", "client"]).status.success());
        wait_for(&server, "client");
    }
}

#[test]
fn connections_go_where_they_are_listed_and_nowhere_else() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut said = [0; 5];
            stream.read_exact(&mut said).and_then(|()| stream.write_all(b"world")).expect("a talk");
        }
    });
    let place = Place::new();
    let by_address = format!("connect = [\"127.0.0.1:{port}\"]");
    let by_name = format!("connect = [\"localhost:{port}\"]");
    let both = format!("connect = [\"localhost:{port}\", \"127.0.0.1:{port}\"]");
    let mut grants = String::new();
    for (name, list) in [("client_address", &by_address), ("client_name", &by_name), ("client_both", &both)] {
        install(&place, name, list);
        grants += &format!("[plugins.grants.{name}]\n{list}\n");
    }
    let server = start(&place, &grants);
    let dial = |plugin: &str, host: &str, port: u16| ask(&server, plugin, &[json!("dial"), json!(host), json!(port)]);
    for name in ["client_address", "client_name", "client_both"] {
        wait_for(&server, name);
    }
    assert_eq!(dial("client_address", "127.0.0.1", port), Ok(json!("world")));
    assert_eq!(dial("client_address", "::ffff:127.0.0.1", port), Ok(json!("world")), "the same address");
    assert_eq!(dial("client_both", "localhost", port), Ok(json!("world")), "a name that stands for a listed address");
    let private = "is not a public address";
    refused(dial("client_name", "localhost", port), private);
    for (host, port) in [
        ("127.0.0.1", port - 1),
        ("127.0.0.1", server.port()),
        ("localhost", port),
        ("127.0.0.2", port),
        ("0.0.0.0", port),
        ("127.1", port),
    ] {
        refused(dial("client_address", host, port), "[plugins.grants.client_address]");
    }
    let events = server.events("client_name", "connection refused");
    assert!(events.iter().any(|event| event.contains(private)), "{events:?}");
}
