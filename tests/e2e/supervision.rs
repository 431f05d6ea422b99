//! What the supervisor does about plugins that die, hang, or cost too much; and what callers hear of it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use photondb_tests::battery::while_others_work;
use photondb_tests::place::{Place, manifest};
use photondb_tests::processes;
use photondb_tests::reql::{self, Failure, RUNTIME_ERROR};
use photondb_tests::server::Server;
use photondb_tests::wait::{self, Stop};
use serde_json::{Value, json};

/// A server with this configuration.
fn start<'a>(place: &'a Place, config: &str) -> Server<'a> {
    let file = place.write("photondb.toml", config).display().to_string();
    Server::start_with(place, &["--config", &file])
}

/// The error of a call with one argument.
#[track_caller]
fn error_of(server: &Server<'_>, function: &str) -> String {
    match reql::run(&mut server.connect(), &reql::call(function, &[json!(1)])) {
        Err(Failure::Answered(RUNTIME_ERROR, message)) => message,
        other => panic!("{function}: {other:?}"),
    }
}

fn approx(server: &Server<'_>) -> Result<Value, Failure> {
    reql::run(&mut server.connect(), &reql::call("approx", &[json!(123), json!(1)]))
}

/// Kills a plugin that is ready.
fn kill(server: &Server<'_>, name: &str) {
    let process = server.ready_plugin(name);
    processes::send(Signal::SIGKILL, process.pid());
    wait::until_true("its end was noticed", || server.plugin(name).pid != Some(process.pid()));
}

#[test]
fn errors_tell_apart_what_happened() {
    let place = Place::new();
    let cases: [(&str, &[&str]); 8] = [
        ("panic", &["panicked", "the author did not think of this"]),
        ("abort", &["SIGABRT"]),
        ("exit", &["exit status 3"]),
        (
            "open_file",
            &["openat(\"/etc/passwd\")", "`state = true`", "[plugins.grants.open_file]", "`profile = \"dynamic\"`"],
        ),
        ("open_socket", &["socket", "`connect = [\"HOST:PORT\"]`"]),
        ("ptrace", &["ptrace", "no permission allows that"]),
        ("allocate", &["out of memory", "SIGABRT", "67108864 bytes", "raise `memory`"]),
        ("scribble", &["broke the protocol"]),
    ];
    cases.iter().for_each(|(name, _)| place.install_hostile(name, &[name]));
    let server = Server::start(&place);
    for (name, words) in cases {
        let _ready = server.ready_plugin(name);
        let message = error_of(&server, name);
        for word in words {
            assert!(message.contains(word), "{name}: {message}\n  lacks {word}");
        }
        assert!(name == "abort" || !message.contains("gave up by itself"), "{message}");
    }
}

/// By order, not by time: a call that began before, and ends at its deadline, is still on its way when the one whose
/// plugin was killed is answered.
#[test]
fn every_call_in_flight_is_answered_when_the_process_dies() {
    let place = Place::new();
    let names = ["sleep_for_ever", "spin_for_ever"];
    names.iter().for_each(|name| place.install_hostile(name, &[name]));
    let server = Server::start(&place);
    let processes = names.map(|name| server.ready_plugin(name));
    let is_over = AtomicBool::new(false);
    let answered = AtomicUsize::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            let message = error_of(&server, "spin_for_ever");
            is_over.store(true, Ordering::SeqCst);
            assert!(message.contains("deadline"), "{message}");
        });
        wait::until_true("the first call is on its way", || server.plugin("spin_for_ever").bytes_shared > 0);
        let callers: Vec<_> = (0..20)
            .map(|_| {
                scope.spawn(|| {
                    let message = error_of(&server, "sleep_for_ever");
                    answered.fetch_add(1, Ordering::SeqCst);
                    (message, is_over.load(Ordering::SeqCst))
                })
            })
            .collect();
        wait::until_true("a call is on its way", || server.plugin("sleep_for_ever").bytes_shared > 0);
        processes::send(Signal::SIGKILL, processes[0].pid());
        let outcomes: Vec<_> = callers.into_iter().map(|caller| caller.join().expect("thread")).collect();
        let at_once = outcomes.iter().filter(|(message, _)| message.contains("SIGKILL")).collect::<Vec<_>>();
        assert!(!at_once.is_empty() && at_once.iter().all(|(_, is_over)| !is_over), "{outcomes:?}");
    });
    assert_eq!(answered.into_inner(), 20);
}

#[test]
fn an_open_breaker_fails_calls_at_once_and_one_answer_closes_it() {
    let place = Place::new();
    place.install("stats");
    let restarts = "[plugins.restarts]\nfirst_pause = \"1ms\"\nlongest_pause = \"1h\"\nopen_after = 2\n";
    let server = start(&place, restarts);
    kill(&server, "stats");
    kill(&server, "stats");
    wait::until_true("the breaker opened", || server.plugin("stats").breaker == "open");
    let message = approx(&server).expect_err("at once, and not in an hour").to_string();
    assert!(message.contains("calls fail at once for now") && message.contains("stats"), "{message}");
    let status = server.plugin("stats");
    assert_eq!((status.state.as_str(), status.restarts_in_last_minute), ("backing off", 1), "{status:?}");
    assert!(server.events("stats", "breaker").iter().any(|event| event.starts_with("open")));
    // The operator need not wait.
    assert!(server.photondb(&["plugin", "enable", "stats"]).status.success());
    assert_eq!(approx(&server).expect("it runs again"), json!(100));
    assert_eq!(server.plugin("stats").breaker, "closed");
}

#[test]
fn a_half_open_breaker_is_closed_by_the_first_answer() {
    let place = Place::new();
    place.install("stats");
    let server = start(&place, "[plugins.restarts]\nfirst_pause = \"1ms\"\nlongest_pause = \"10ms\"\nopen_after = 1\n");
    kill(&server, "stats");
    let _ready = server.ready_plugin("stats");
    assert_eq!(server.plugin("stats").breaker, "half open");
    assert_eq!(approx(&server).expect("one call is let through"), json!(100));
    wait::until_true("the answer closed it", || server.plugin("stats").breaker == "closed");
}

#[test]
fn restarts_of_all_plugins_together_are_bounded() {
    let place = Place::with_first_party_plugins();
    let server = start(&place, "[plugins.restarts]\nall_per_minute = 1\n");
    kill(&server, "stats");
    let _ready = server.ready_plugin("stats");
    let hnsw = server.ready_plugin("hnsw");
    processes::send(Signal::SIGKILL, hnsw.pid());
    wait::until_true("the next restart waits", || server.plugin("hnsw").state == "backing off");
    assert_eq!(server.plugin("hnsw").restarts, 0);
    // Nobody else waits for it, and what the operator asks for is done.
    assert_eq!(approx(&server).expect("another plugin"), json!(100));
    assert!(server.photondb(&["plugin", "enable", "hnsw"]).status.success());
    let _ready = server.ready_plugin("hnsw");
}

#[test]
fn policies_decide_what_callers_get() {
    let place = Place::with_first_party_plugins();
    for name in ["exit", "abort"] {
        place.install_hostile(name, &[name]);
    }
    let server = start(
        &place,
        "[plugins.grants.stats]\non_failure = \"null\"\n\
         [plugins.grants.exit]\non_failure = { functions = \"null\" }\n\
         [plugins.grants.abort]\non_failure = \"skip\"\n\
         [plugins.grants.hnsw]\non_failure = \"fail\"\n",
    );
    // Null, whether the plugin is down or dies of the call; but not for what the caller did wrong.
    assert_eq!(server.query(&reql::call("exit", &[json!(1)])), Value::Null);
    assert_eq!(approx(&server).expect("it runs"), json!(100));
    assert!(server.photondb(&["plugin", "disable", "stats"]).status.success());
    assert_eq!(approx(&server).expect("null"), Value::Null);
    assert_eq!(server.plugin("stats").on_failure, ["functions: null"]);
    // A policy that nothing can follow is told, and the default counts.
    assert!(error_of(&server, "abort").contains("SIGABRT"));
    assert_eq!(server.plugin("abort").on_failure, ["functions: fail", "without effect: \"skip\""]);
    assert!(server.events("abort", "policy ignored").iter().any(|event| event.contains("\"skip\"")));
    // Searches fail where the operator wants them to ...
    server.query(&reql::table_create("packages"));
    let table = reql::table("packages");
    let documents: Vec<Value> = (0..10).map(|id| json!({"id": id, "emb": [id, 1]})).collect();
    server.query(&reql::insert(&table, &documents, "soft"));
    server.query(&reql::vector_index_create(&table, "emb", 2, "l2"));
    server.query(&reql::index_wait(&table));
    let search = reql::nearest(&table, "emb", &json!([3, 1]), 1);
    let found = server.query(&search);
    assert_eq!(found[0]["doc"]["id"], 3, "{found}");
    assert!(server.photondb(&["plugin", "disable", "hnsw"]).status.success());
    let failure = reql::run(&mut server.connect(), &search).expect_err("its plugin is disabled").to_string();
    assert!(failure.contains("hnsw") && failure.contains("plugin enable hnsw"), "{failure}");
    assert!(server.terminate().success());
    // ... and are exact scans by default.
    let server = Server::start(&place);
    let _ready = server.ready_plugin("hnsw");
    assert!(server.photondb(&["plugin", "disable", "hnsw"]).status.success());
    assert_eq!(server.query(&search), found);
}

#[test]
fn a_call_that_was_given_up_is_cancelled_and_the_plugin_lives() {
    let place = Place::new();
    place.install_hostile("patient", &["patient"]);
    let server = Server::start(&place);
    let process = server.ready_plugin("patient");
    // To sort rows, all of them are needed: they go in one message. A `map` would send fewer to a function that is so slow.
    let many = json!([41, [reql::range(200), reql::function("patient")]]);
    let before = server.plugin("patient").calls;
    let failure = reql::run(&mut server.connect(), &reql::to_array(&many)).expect_err("20 s of work").to_string();
    assert!(failure.contains("deadline"), "{failure}");
    // What ran out of time was not tried once more.
    assert_eq!(server.plugin("patient").calls - before, 1);
    assert_eq!(server.query(&reql::call("patient", &[json!(7)])), json!(7));
    assert!(process.is_running(), "it heard that nobody waited any more");
    assert_eq!(server.events("patient", "crashed"), Vec::<String>::new());
}

#[test]
fn a_hung_plugin_costs_a_batch_one_deadline() {
    let place = Place::new();
    place.install_hostile("sleep_for_ever", &["sleep_for_ever"]);
    let server = Server::start(&place);
    let _ready = server.ready_plugin("sleep_for_ever");
    let map = reql::to_array(&reql::map(&reql::range(10), &reql::function("sleep_for_ever")));
    let failure = reql::run(&mut server.connect(), &map).expect_err("it sleeps").to_string();
    assert!(failure.contains("deadline"), "{failure}");
    assert_eq!(server.plugin("sleep_for_ever").calls, 1);
}

/// With the usual configuration, applications do not notice that a plugin dies now and then.
#[test]
fn pure_calls_wait_for_the_restart_after_a_crash() {
    let place = Place::new();
    place.install("stats");
    let server = Server::start(&place);
    let _ready = server.ready_plugin("stats");
    server.query(&reql::table_create("others"));
    while_others_work(&server, || {
        kill(&server, "stats");
        let _replaced = server.ready_plugin("stats");
    });
    let status = server.plugin("stats");
    assert_eq!((status.errors, status.restarts, status.breaker.as_str()), (0, 1, "closed"));
}

/// The watch finds what no limit of the kernel stopped.
#[test]
fn threads_beyond_the_grant_end_the_plugin() {
    let place = Place::without_layer("rlimits");
    place.install("stats");
    place.install_hostile("g2_thread_bomb", &["g2_thread_bomb"]);
    let server = Server::start(&place);
    let bomb = server.ready_plugin("g2_thread_bomb");
    if server.plugin("g2_thread_bomb").layers.iter().any(|layer| layer == "cgroup") {
        eprintln!("skipped: plugins have cgroups here, which bound their threads even without resource limits");
        return;
    }
    server.query(&reql::table_create("others"));
    while_others_work(&server, || {
        // It may be answered before the watch looks.
        let _ = reql::run(&mut server.connect(), &reql::call("g2_thread_bomb", &[]));
        wait::until_true("it was stopped", || !bomb.is_running());
    });
    let crashed = wait::until("an event says why", || server.events("g2_thread_bomb", "crashed").pop());
    assert!(crashed.contains(" threads, and may have "), "{crashed}");
}

#[test]
fn a_plugin_that_leaves_a_question_open_is_replaced() {
    let place = Place::new();
    place.install("stats");
    let name = "j9_validate_hangs";
    let indexes = format!("[provides]\nvector_indexes = [\"{name}\"]");
    place.install_hostile_in(name, &manifest(name, &[]).replace("[provides]", &indexes));
    let server = Server::start(&place);
    let process = server.ready_plugin(name);
    server.query(&reql::table_create("others"));
    while_others_work(&server, || {
        let field = json!([69, [[2, [1]], [170, [[10, [1]], "v"]]]]);
        let options = json!({"vector": {"type": name, "dims": 2, "metric": "l2"}});
        let create = json!([75, [reql::table("others"), "v", field], options]);
        let failure = reql::run(&mut server.connect(), &create).expect_err("it never says whether it could");
        assert!(failure.to_string().contains("did not answer"), "{failure}");
        wait::until_true("it was stopped", || !process.is_running());
    });
    let crashed = wait::until("an event says why", || server.events(name, "crashed").pop());
    // Its control thread is busy with the question, so that the pings find it out first.
    assert!(crashed.contains("did not answer a ping") || crashed.contains("`validate_index` within"), "{crashed}");
    let _replaced = server.ready_plugin(name);
}

#[test]
fn answers_that_always_come_late_open_the_breaker() {
    let place = Place::new();
    place.install("stats");
    place.install_hostile("always_late", &["always_late"]);
    let server = start(&place, "[plugins.restarts]\nlongest_pause = \"1h\"\n");
    let process = server.ready_plugin("always_late");
    server.query(&reql::table_create("others"));
    while_others_work(&server, || {
        wait::until_true("the breaker opened", || {
            // On a busy machine one may come too late, or not look slow to the watch.
            let _ = reql::run(&mut server.connect(), &reql::call("always_late", &[json!(1)]));
            server.plugin("always_late").breaker == "open"
        });
        let message = error_of(&server, "always_late");
        assert!(message.contains("calls fail at once for now"), "{message}");
    });
    assert!(process.is_running(), "it did what it was asked");
    assert!(server.photondb(&["plugin", "reload", "always_late"]).status.success());
}

/// The operator need not wait until a start has failed.
#[test]
fn a_plugin_that_hangs_at_its_start_can_be_disabled() {
    let place = Place::new();
    place.install_hostile("sleep_at_start", &["sleep_at_start"]);
    let server = start(&place, "[plugins.restarts]\nfirst_pause = \"1ms\"\nlongest_pause = \"1ms\"\n");
    let starting = wait::until("a start", || {
        let status = server.plugin("sleep_at_start");
        (status.state == "starting").then(|| processes::children(server.pid()).pop()).flatten()
    });
    assert!(server.photondb(&["plugin", "disable", "sleep_at_start"]).status.success());
    assert_eq!(server.plugin("sleep_at_start").state, "stopped");
    assert!(!starting.is_running());
    let why = server.events("sleep_at_start", "start failed").pop().expect("an event");
    assert!(why.contains("was to be stopped while it was starting"), "{why}");
}

/// Everything at once, from several sides.
#[test]
fn storms_of_signals_and_changes_end_in_one_working_process() {
    const CHANGES: [&str; 4] = ["reload", "enable", "disable", "unload"];
    const SIGNALS: [Signal; 4] = [Signal::SIGKILL, Signal::SIGSTOP, Signal::SIGCONT, Signal::SIGSEGV];
    let place = Place::new();
    place.install("stats");
    let restarts = "[plugins.restarts]\nfirst_pause = \"1ms\"\nlongest_pause = \"5ms\"\nopen_after = 1000\n\
                    give_up_after = 100000\nper_minute = 100000\nall_per_minute = 100000\n";
    let server = start(&place, restarts);
    let _ready = server.ready_plugin("stats");
    let stop = Stop::default();
    thread::scope(|scope| {
        let stopping = stop.on_drop();
        scope.spawn(|| {
            let mut turn = 0;
            while !stop.is_raised() {
                if let Some(pid) = server.plugin("stats").pid {
                    processes::send(SIGNALS[turn % SIGNALS.len()], pid);
                    turn += 1;
                }
            }
        });
        for _ in 0..2 {
            scope.spawn(|| {
                let mut client = server.connect();
                while !stop.is_raised() {
                    match reql::run(&mut client, &reql::call("approx", &[json!(123), json!(1)])) {
                        Ok(answer) => assert_eq!(answer, json!(100)),
                        Err(Failure::Answered(RUNTIME_ERROR, message)) => {
                            assert!(message.contains("stats"), "{message}")
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
            });
        }
        let operators: Vec<_> = (0..3)
            .map(|first| {
                let server = &server;
                scope.spawn(move || {
                    for turn in 0..24 {
                        // It may fail: what it was asked of may have died of a signal.
                        let _ = server.photondb(&["plugin", CHANGES[(first + turn) % CHANGES.len()], "stats"]);
                    }
                })
            })
            .collect();
        operators.into_iter().for_each(|operator| operator.join().expect("an operator"));
        drop(stopping);
    });
    wait::until_true("it runs again", || {
        server.photondb(&["plugin", "enable", "stats"]).status.success() && approx(&server).is_ok()
    });
    wait::until_true("one process is left, and one stands by", || processes::children(server.pid()).len() == 2);
    assert!(server.terminate().success());
}
