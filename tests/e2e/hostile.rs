//! Plugins that attack: each is stopped, by name, and nobody else notices.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use photondb_tests::place::Place;
use photondb_tests::processes::{self, Process};
use photondb_tests::reql::{self, Failure, RUNTIME_ERROR};
use photondb_tests::server::Server;
use photondb_tests::wait::{self, Stop};
use serde_json::json;

/// What has to come of an attack.
struct Outcome {
    /// What the error of the query says.
    error: &'static str,
    /// The event, and what it says.
    event: (&'static str, &'static str),
}

/// The kernel stops the call before it has run.
const fn denied(call: &'static str) -> Outcome {
    Outcome { error: call, event: ("denied", call) }
}

/// The process dies of it.
const fn died(of: &'static str) -> Outcome {
    Outcome { error: of, event: ("crashed", of) }
}

/// Makes an attack in a server of its own, while another client works, and checks what comes of it.
fn attack(name: &str, expected: &Outcome) {
    let place = Place::new();
    place.install("stats");
    place.install_hostile(name, &[name]);
    let mut server = Server::start(&place);
    let attacker = server.ready_plugin(name);
    let bystander = server.ready_plugin("stats");

    let message =
        while_others_work(&server, || match reql::run(&mut server.connect(), &reql::call(name, &[json!(1)])) {
            Err(Failure::Answered(RUNTIME_ERROR, message)) => message,
            other => panic!("{name} is not stopped: {other:?}"),
        });
    assert!(message.contains(expected.error) && message.contains(name), "{name}: {message}");
    assert_eq!(message.lines().count(), 1, "{message}");

    let (kind, text) = expected.event;
    wait::until_true(&format!("{name}: an event `{kind}` with {text}; so far {}", server.log()), || {
        server.events(name, kind).iter().any(|message| message.contains(text))
    });
    wait::until_true(&format!("{name}: the process was gone"), || !attacker.is_running());
    assert!(server.is_running() && bystander.is_running(), "{name} took others with it");
    // It gets its next chance in a new process, and the operator sees that.
    assert_ne!(server.ready_plugin(name), attacker);
    assert!(server.plugin(name).restarts >= 1);
    nothing_is_left(server);
}

/// Runs `attack` while another client queries another plugin and writes; at least once before it, and once after it.
fn while_others_work<T>(server: &Server<'_>, attack: impl FnOnce() -> T) -> T {
    server.query(&reql::table_create("others"));
    let (stop, turns) = (Stop::default(), AtomicUsize::new(0));
    let more_turns = |than: usize| {
        wait::until_true("another client went on", || turns.load(Ordering::Relaxed) > than);
    };
    thread::scope(|scope| {
        let others = scope.spawn(|| {
            let mut client = server.connect();
            while !stop.is_raised() {
                let turn = turns.fetch_add(1, Ordering::Relaxed);
                let documents = [json!({"id": turn})];
                reql::run(&mut client, &reql::insert(&reql::table("others"), &documents, "soft")).expect("an insert");
                let call = reql::call("approx", &[json!(turn), json!(15)]);
                assert_eq!(reql::run(&mut client, &call).expect("a call of another plugin"), json!(turn));
            }
        });
        let stopping = stop.on_drop();
        more_turns(0);
        let outcome = attack();
        more_turns(turns.load(Ordering::Relaxed) + 1);
        drop(stopping);
        others.join().expect("a client that saw nothing wrong");
        outcome
    })
}

/// Stops the server; nothing of it is left.
fn nothing_is_left(server: Server<'_>) {
    let processes: Vec<Process> = processes::children(server.pid());
    assert!(server.terminate().success());
    wait::until_true("all processes were gone", || !processes.iter().any(Process::is_running));
    assert!(!fs::exists("/tmp/photondb-was-here").unwrap_or(true));
}

macro_rules! attacks {
    ($($name:ident: $outcome:expr;)*) => {$(
        #[test]
        fn $name() {
            attack(stringify!($name), &$outcome);
        }
    )*};
}

attacks! {
    open_file: denied("openat(\"/etc/passwd\")");
    write_file: denied("openat(\"/tmp/photondb-was-here\")");
    open_socket: denied("socket");
    fork: denied("clone");
    exec: denied("execve(\"/bin/true\")");
    kill: denied("kill");
    ptrace: denied("ptrace");
    memfd_create: denied("memfd_create");
    write_server_region: died("SIGSEGV");
    map_server_region: denied("mmap");
    send_to_server_region: denied("write");
    make_code: denied("mprotect");
    scribble: died("broke the protocol");
    spin_for_ever: died("deadline");
    sleep_for_ever: died("deadline");
    exit: died("exit status 3");
    abort: died("SIGABRT");
    overflow_stack: died("SIGABRT");
    allocate: died("SIGABRT");
}

/// Attacks that fail by themselves: the plugin goes on.
#[test]
fn excesses_are_bounded() {
    let place = Place::new();
    place.install("stats");
    let names = [
        "flood_stdout",
        "huge_reply",
        "no_results",
        "not_a_number",
        "panic",
        "spawn_threads",
        "too_many_results",
        "unprotect_server_region",
    ];
    names.iter().for_each(|name| place.install_hostile(name, &[name]));
    let server = Server::start(&place);
    let processes = names.map(|name| server.ready_plugin(name));
    let call = |name: &str| reql::run(&mut server.connect(), &reql::call(name, &[json!(1)]));
    while_others_work(&server, || {
        assert_eq!(call("flood_stdout").expect("an answer"), json!("flooded"));
        let threads = call("spawn_threads").expect("an answer");
        let count = threads.as_str().and_then(|text| text.split(' ').next()?.parse::<u32>().ok());
        assert!(count.is_some_and(|count| (1..100).contains(&count)), "{threads}");
        assert_eq!(
            call("unprotect_server_region").expect("an answer"),
            json!("refused: Permission denied (os error 13)")
        );
        for (name, text) in [
            ("panic", "the author did not think of this"),
            ("huge_reply", "does not fit"),
            ("no_results", "0 results for 1 rows"),
            ("too_many_results", "2 results for 1 rows"),
            ("not_a_number", "NaN"),
        ] {
            let failure = call(name).expect_err(name);
            assert!(
                matches!(&failure, Failure::Answered(RUNTIME_ERROR, message) if message.contains(text)),
                "{failure}"
            );
        }
    });
    for process in processes {
        assert!(process.is_running());
    }
    // Of the flood, so many lines are kept as one can read; and none can change the reader's terminal.
    wait::until_true("dropped lines were counted", || {
        let ended = server.photondb(&["plugin", "logs", "flood_stdout"]);
        assert!(ended.stdout.lines().count() < 5000 && !ended.stdout.contains('\x1b'), "{}", ended.stdout);
        ended.stdout.contains("line 0")
    });
    nothing_is_left(server);
}

/// Attacks on the connection over which the server would notice that something is wrong.
#[test]
fn attacks_on_the_control_connection_end_the_plugin() {
    let place = Place::new();
    place.install("stats");
    let names = ["hang_up", "beg"];
    names.iter().for_each(|name| place.install_hostile(name, &[name]));
    let server = Server::start(&place);
    let bystander = server.ready_plugin("stats");
    for name in names {
        let attacker = server.ready_plugin(name);
        // Whether the call is answered before the process is gone is not the point.
        let _ = reql::run(&mut server.connect(), &reql::call(name, &[json!(1)]));
        wait::until_true(&format!("{name}: the process was gone"), || !attacker.is_running());
        wait::until_true(&format!("{name}: an event"), || !server.events(name, "crashed").is_empty());
    }
    assert!(server.events("hang_up", "crashed")[0].contains("control connection"));
    assert!(bystander.is_running());
    nothing_is_left(server);
}

#[test]
fn last_words_of_a_crash_are_kept() {
    let place = Place::new();
    place.install_hostile("last_words", &["last_words"]);
    let server = Server::start(&place);
    let _running = server.ready_plugin("last_words");
    reql::run(&mut server.connect(), &reql::call("last_words", &[json!(1)])).expect_err("it crashed");
    wait::until_true("the last words are in the logs", || {
        server.photondb(&["plugin", "logs", "last_words"]).stdout.contains("the very last words")
    });
    nothing_is_left(server);
}

#[test]
fn no_call_waits_for_a_plugin_that_dies_while_it_is_being_stopped() {
    let place = Place::new();
    place.install_hostile("sleep_for_ever", &["sleep_for_ever"]);
    let server = Server::start(&place);
    let sleeper = server.ready_plugin("sleep_for_ever");
    thread::scope(|scope| {
        let call = scope.spawn(|| reql::run(&mut server.connect(), &reql::call("sleep_for_ever", &[json!(1)])));
        wait::until_true("the call is on its way", || server.plugin("sleep_for_ever").bytes_shared > 0);
        let disabled = scope.spawn(|| server.photondb(&["plugin", "disable", "sleep_for_ever"]));
        wait::until_true("it is being stopped", || server.plugin("sleep_for_ever").state == "stopped");
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
    place.install_hostile("doze", &["doze"]);
    let server = Server::start(&place);
    let dozer = server.ready_plugin("doze");
    let (answered, given_up) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                let mut client = server.connect();
                for _ in 0..2 {
                    let outcome = match reql::run(&mut client, &reql::call("doze", &[json!(1)])) {
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
    assert_eq!(server.events("doze", "crashed"), Vec::<String>::new());
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
