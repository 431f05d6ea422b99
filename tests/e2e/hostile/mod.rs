//! Plugins that attack: each is stopped, by name, and nobody else notices.

mod distance;
mod index;
mod table;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use photondb_tests::battery::{self, MATRIX, Row};
use photondb_tests::place::Place;
use photondb_tests::processes::{self, Process};
use photondb_tests::reql::{self, Failure, RUNTIME_ERROR};
use photondb_tests::server::Server;
use photondb_tests::wait;
use serde_json::json;

use table::ROWS;

/// Stops the server; nothing of it is left.
fn nothing_is_left(server: Server<'_>) {
    let processes: Vec<Process> = processes::children(server.pid());
    assert!(server.terminate().success());
    wait::until_true("all processes were gone", || !processes.iter().any(Process::is_running));
}

macro_rules! groups {
    ($($name:ident: $letter:literal;)*) => {$(
        #[test]
        fn $name() {
            let of_group = |row: &&Row| row.attack.starts_with($letter);
            battery::run(&ROWS.iter().filter(of_group).copied().collect::<Vec<_>>());
        }
    )*};
}

groups! {
    files: 'a';
    processes: 'b';
    signals: 'c';
    sockets: 'd';
    privilege: 'e';
    kernel_surface: 'f';
    exhaustion: 'g';
    shared_memory: 'h';
    control_socket: 'i';
    behaviour: 'j';
    output: 'k';
    on_no_list: 'x';
}

macro_rules! columns {
    ($($name:ident: $host:literal;)*) => {$(
        #[test]
        fn $name() {
            let column = MATRIX.iter().position(|(host, _)| *host == $host).expect("a column of the matrix");
            battery::run_without(column, ROWS);
        }
    )*};
}

columns! {
    without_seccomp_the_other_walls_hold: "seccomp";
    landlock_alone: "only-landlock";
    namespaces_alone: "only-namespaces";
    without_landlock_the_filter_holds: "landlock";
    without_namespaces_the_filter_holds: "namespaces";
    without_a_user_of_its_own_the_filter_holds: "uid";
    without_limits_the_filter_holds: "rlimits";
}

/// Answers that are no answers: the call fails, and the plugin goes on.
#[test]
fn answers_that_are_none_are_errors() {
    let place = Place::new();
    let names =
        [("no_results", "0 results for 1 rows"), ("not_a_number", "NaN"), ("too_many_results", "2 results for 1 rows")];
    names.iter().for_each(|(name, _)| place.install_hostile(name, &[name]));
    let server = Server::start(&place);
    for (name, text) in names {
        let process = server.ready_plugin(name);
        let failure = reql::run(&mut server.connect(), &reql::call(name, &[json!(1)])).expect_err(name);
        assert!(matches!(&failure, Failure::Answered(RUNTIME_ERROR, message) if message.contains(text)), "{failure}");
        assert!(process.is_running());
    }
    nothing_is_left(server);
}

/// Of a flood, so many lines are kept as one can read; and none can change the reader's terminal.
#[test]
fn what_a_plugin_prints_is_bounded_and_escaped() {
    let place = Place::new();
    let names = ["k1_flood_stdout", "k1_flood_stderr", "k2_escapes", "k4_endless_line", "k4_no_text"];
    names.iter().for_each(|name| place.install_hostile(name, &[name]));
    let server = Server::start(&place);
    for name in names {
        let _running = server.ready_plugin(name);
        server.query(&reql::call(name, &[]));
        wait::until_true(&format!("{name}: its lines are in the logs"), || {
            let logged = server.photondb(&["plugin", "logs", name]).stdout;
            assert!(logged.lines().count() < 5000 && logged.len() < 4 << 20, "{name}: {} bytes", logged.len());
            let acts = |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{2028}'..='\u{202e}');
            assert!(!logged.contains(acts), "{name}: {logged:?}");
            logged.lines().count() > 0
        });
    }
    nothing_is_left(server);
}

#[test]
fn last_words_of_a_crash_are_kept() {
    let place = Place::new();
    place.install_hostile("x_last_words", &["x_last_words"]);
    let server = Server::start(&place);
    let _running = server.ready_plugin("x_last_words");
    reql::run(&mut server.connect(), &reql::call("x_last_words", &[json!(1)])).expect_err("it crashed");
    wait::until_true("the last words are in the logs", || {
        server.photondb(&["plugin", "logs", "x_last_words"]).stdout.contains("the very last words")
    });
    nothing_is_left(server);
}

#[test]
fn no_call_waits_for_a_plugin_that_dies_while_it_is_being_stopped() {
    let place = Place::new();
    place.install_hostile("j2_never_reply", &["j2_never_reply"]);
    let server = Server::start(&place);
    let sleeper = server.ready_plugin("j2_never_reply");
    thread::scope(|scope| {
        let call = scope.spawn(|| reql::run(&mut server.connect(), &reql::call("j2_never_reply", &[json!(1)])));
        wait::until_true("the call is on its way", || server.plugin("j2_never_reply").bytes_shared > 0);
        let disabled = scope.spawn(|| server.photondb(&["plugin", "disable", "j2_never_reply"]));
        wait::until_true("it is being stopped", || server.plugin("j2_never_reply").state == "stopped");
        processes::send(Signal::SIGKILL, sleeper.pid());
        let failure = call.join().expect("thread").expect_err("it died");
        assert!(failure.to_string().contains("SIGKILL"), "{failure}");
        disabled.join().expect("thread");
    });
    nothing_is_left(server);
}

/// With more calls than it can answer in time, a plugin is not to blame that callers give up.
#[test]
fn a_plugin_is_not_killed_for_being_popular() {
    let place = Place::new();
    place.install_hostile("j3_slow_poison", &["j3_slow_poison"]);
    let server = Server::start(&place);
    let dozer = server.ready_plugin("j3_slow_poison");
    let (answered, given_up) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                let mut client = server.connect();
                for _ in 0..2 {
                    let outcome = match reql::run(&mut client, &reql::call("j3_slow_poison", &[json!(1)])) {
                        Ok(_) => &answered,
                        Err(_) => &given_up,
                    };
                    outcome.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert!(answered.into_inner() > 0 && given_up.into_inner() > 0, "more calls than it can answer in time");
    assert!(dozer.is_running());
    assert_eq!(server.events("j3_slow_poison", "crashed"), Vec::<String>::new());
    nothing_is_left(server);
}

/// Attacks before the plugin has said what it provides.
#[test]
fn attacks_at_the_start_are_named() {
    let place = Place::new();
    place.install("stats");
    let starts = [
        ("exit_at_start", "exit status 7"),
        ("attack_at_start", "openat(\"/etc/passwd\")"),
        ("sleep_at_start", "no handshake within"),
    ];
    starts.iter().for_each(|(name, _)| place.install_hostile(name, &[name]));
    let server = Server::start(&place);
    assert_eq!(server.query(&reql::call("approx", &[json!(123), json!(1)])), json!(100));
    for (name, text) in starts {
        let error = wait::until(&format!("{name} has an error"), || server.plugin(name).error);
        assert!(error.contains(text), "{name}: {error}");
        let failure = reql::run(&mut server.connect(), &reql::call(name, &[json!(1)])).expect_err(name);
        assert!(matches!(failure, Failure::Answered(RUNTIME_ERROR, _)), "{failure}");
    }
    // Tried again some times, then given up; an attack is not tried again.
    wait::until_true("exit_at_start was given up", || server.plugin("exit_at_start").state == "failed");
    assert_eq!(server.plugin("attack_at_start").state, "refused");
    assert_eq!(server.events("attack_at_start", "denied").len(), 1);
    nothing_is_left(server);
}
