//! Kernels and containers that lack a layer of the sandbox: refused by default, visible where the operator accepts it.

use photondb_tests::place::{Place, manifest};
use photondb_tests::reql;
use photondb_tests::server::Server;
use photondb_tests::wait;
use serde_json::json;

/// What the server says of a plugin: its error, or nothing.
fn error_of(server: &Server<'_>, name: &str) -> String {
    wait::until(&format!("{name} has settled"), || {
        let status = server.plugin(name);
        (status.state != "starting").then(|| status.error.unwrap_or_default())
    })
}

fn without_landlock_plugins_are_refused(missing: &'static str) {
    let place = Place::on_kernel_without(missing);
    place.install("stats");
    let server = Server::start(&place);
    let error = error_of(&server, "stats");
    assert_eq!(server.plugin("stats").state, "refused");
    // The reason, and what to write to run it all the same.
    for text in ["landlock", "accept_degraded"] {
        assert!(error.to_lowercase().contains(text), "{text} is not in: {error}");
    }
    assert!(server.events("stats", "refused").iter().any(|event| event.to_lowercase().contains("landlock")));
    // The server itself runs.
    server.query(&reql::table_create("t"));
    assert!(server.terminate().success());
}

#[test]
fn a_kernel_without_landlock() {
    without_landlock_plugins_are_refused("landlock");
}

#[test]
fn a_container_that_forbids_landlock() {
    without_landlock_plugins_are_refused("landlock-in-a-container");
}

#[test]
fn an_accepted_plugin_without_landlock_runs_with_grade_c_and_a_warning() {
    for missing in ["landlock", "landlock-in-a-container"] {
        let place = Place::on_kernel_without(missing);
        place.install("stats");
        place.install_hostile("a1_open_passwd", &["a1_open_passwd"]);
        let config = place.write(
            "photondb.toml",
            "[sandbox.accept_degraded]\nstats = [\"landlock\"]\na1_open_passwd = [\"landlock\"]\n",
        );
        let server = Server::start_with(&place, &["--config", config.to_str().expect("a path")]);
        assert_eq!(server.query(&reql::call("approx", &[json!(1234), json!(2)])), json!(1200));
        let status = server.plugin("stats");
        assert_eq!(status.grade.as_deref(), Some("C"), "{status:?}");
        let reasons = status.grade_reasons.join("; ").to_lowercase();
        assert!(reasons.contains("landlock"), "{reasons}");
        assert!(!status.layers.iter().any(|layer| layer == "landlock"), "{status:?}");
        assert!(server.photondb(&["plugin", "info", "stats"]).stdout.to_lowercase().contains("landlock"));
        assert!(server.events("stats", "degraded").iter().any(|event| event.to_lowercase().contains("landlock")));
        assert!(server.log().to_lowercase().contains("landlock"), "{}", server.log());
        // The filter of system calls stops what it stops.
        let failure = reql::run(&mut server.connect(), &reql::call("a1_open_passwd", &[])).expect_err("denied");
        assert!(failure.to_string().contains("openat"), "{failure}");
        assert!(server.terminate().success());
    }
}

/// The operator can accept a plugin without Landlock, but not one with a directory: nothing would keep it in there.
#[test]
fn a_plugin_with_a_directory_is_refused_without_landlock_whatever_was_accepted() {
    for missing in ["landlock", "landlock-in-a-container"] {
        let place = Place::on_kernel_without(missing);
        place.install("stats");
        place.install_hostile_in("client", &format!("{}state = true\n", manifest("client", &["client"])));
        let config = place.write(
            "photondb.toml",
            "[sandbox.accept_degraded]\nstats = [\"landlock\"]\nclient = [\"landlock\"]\n\
             [plugins.grants.client]\nstate = true\n",
        );
        let server = Server::start_with(&place, &["--config", config.to_str().expect("a path")]);
        let error = error_of(&server, "client");
        assert_eq!(server.plugin("client").state, "refused");
        for text in ["Landlock", "ABI 3", "plugins/client/state"] {
            assert!(error.contains(text), "{text} is not in: {error}");
        }
        assert_eq!(server.plugin("client").pid, None);
        assert!(reql::run(&mut server.connect(), &reql::call("client", &[json!("granted")])).is_err());
        // What was accepted without a directory runs.
        assert_eq!(server.query(&reql::call("approx", &[json!(1234), json!(2)])), json!(1200));
        assert!(server.terminate().success());
    }
}

#[test]
fn without_user_namespaces_plugins_run_and_it_is_said() {
    let place = Place::on_kernel_without("user-namespaces");
    place.install("stats");
    let server = Server::start(&place);
    assert_eq!(server.query(&reql::call("approx", &[json!(1234), json!(2)])), json!(1200));
    let status = server.plugin("stats");
    assert!(!status.layers.iter().any(|layer| layer == "userns"), "{status:?}");
    assert!(server.terminate().success());
}

#[test]
fn without_user_namespaces_a_server_that_requires_them_refuses() {
    let place = Place::on_kernel_without("user-namespaces");
    place.install("stats");
    let config = place.write("photondb.toml", "[sandbox]\nrequire = [\"landlock\", \"userns\"]\n");
    let server = Server::start_with(&place, &["--config", config.to_str().expect("a path")]);
    let error = error_of(&server, "stats");
    assert_eq!(server.plugin("stats").state, "refused");
    assert!(error.contains("user"), "{error}");
    assert!(server.terminate().success());
}

/// Without a listener nobody would learn which call was stopped; they are stopped all the same.
#[test]
fn without_a_listener_calls_are_stopped_all_the_same() {
    let place = Place::on_kernel_without("listeners");
    place.install_hostile("a1_open_passwd", &["a1_open_passwd"]);
    let server = Server::start(&place);
    let error = error_of(&server, "a1_open_passwd");
    match server.plugin("a1_open_passwd").state.as_str() {
        "refused" => assert!(error.contains("listener") || error.contains("seccomp"), "{error}"),
        _ => {
            let failure = reql::run(&mut server.connect(), &reql::call("a1_open_passwd", &[]));
            assert!(!format!("{failure:?}").contains("it worked"), "{failure:?}");
        }
    }
    assert!(server.terminate().success());
}
