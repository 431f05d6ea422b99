//! The sandbox on the command line, without a server and with one: what a machine gives, what a profile says, any
//! command in any profile, and a plugin's own confinement under attack.

use std::fs;
use std::path::Path;

use photondb_tests::place::{Place, repository};
use photondb_tests::processes::{self, Ended};
use photondb_tests::server::Server;
use serde_json::{Value, json};

/// Renewed with PHOTONDB_BLESS=1: what an audit of `hnsw` stopped, attempt by attempt, and what `strict` allows.
const GOLDEN: &str = "tests/e2e/golden/sandbox-strict.txt";

fn sandbox(place: &Place, arguments: &[&str]) -> Ended {
    processes::run(&mut place.photondb(&[&["sandbox"], arguments].concat()), "")
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn the_doctor_says_that_plugins_can_run_and_how_well() {
    let place = Place::new();
    let output = sandbox(&place, &["doctor", "--json"]);
    let diagnosis = json_of(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{diagnosis}");
    assert_eq!(diagnosis["plugins_can_run"], json!(true));
    let findings = diagnosis["findings"].as_array().expect("findings");
    for name in ["seccomp", "listener", "landlock", "user namespace", "cgroup", "no_new_privs"] {
        assert!(findings.iter().any(|finding| finding["name"] == name), "{name}: {diagnosis}");
    }
    let words = sandbox(&place, &["doctor"]).stdout;
    assert!(words.contains(&format!("a strict one gets grade {}", diagnosis["grade"].as_str().expect("a grade"))));
}

#[test]
fn profiles_are_listed_and_shown_with_their_reasons() {
    let place = Place::new();
    let list = sandbox(&place, &["profiles"]).stdout;
    for name in ["strict", "dynamic", "interpreter", "jit", "gpu"] {
        assert!(list.lines().any(|line| line.starts_with(name)), "{list}");
    }
    let shown = sandbox(&place, &["show", "strict"]).stdout;
    assert!(shown.contains("tgkill: abort; only to itself") && shown.contains("files: none"), "{shown}");
    let state = json_of(&sandbox(&place, &["show", "strict", "--permission", "state", "--json"]).stdout);
    assert!(
        state["calls"].as_u64() > json_of(&sandbox(&place, &["show", "strict", "--json"]).stdout)["calls"].as_u64()
    );
    let unknown = sandbox(&place, &["show", "strikt"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(unknown.stderr.contains("did you mean `strict`"));
}

#[test]
fn a_command_runs_with_what_it_is_given_and_no_more() {
    let place = Place::new();
    let secret = place.write("files/secret", "42\n");
    let secret = secret.to_str().expect("a path");
    let run = |more: &[&str], command: &[&str]| {
        sandbox(&place, &[&["run", "--profile", "dynamic"], more, &["--"], command].concat())
    };
    let refused = run(&[], &["cat", secret]);
    assert_eq!((refused.status.code(), refused.stdout.as_str()), (Some(1), ""), "{refused:?}");
    let given = run(&["--read", secret], &["cat", secret]);
    assert_eq!((given.status.code(), given.stdout.as_str()), (Some(0), "42\n"), "{given:?}");
    // Its exit status is the command's, or says which signal.
    assert_eq!(run(&[], &["sh", "-c", "exit 7"]).status.code(), Some(7));
    assert_eq!(run(&[], &["sh", "-c", "kill -SEGV $$"]).status.code().map(|code| code >= 128), Some(true));
    // Of the environment, what was named.
    assert_eq!(run(&["--env", "A=b"], &["sh", "-c", "echo $A$HOME"]).stdout, "b\n");
    // In a word: which layers, and the grade.
    let verbose = run(&["--json"], &["true"]);
    let report: Value = json_of(&verbose.stderr);
    assert_eq!((&report["profile"], &report["grade"]), (&json!("dynamic"), &json!("B")));
}

#[test]
fn what_is_no_command_is_said_with_the_status_of_shells() {
    let place = Place::new();
    let no_program = place.write("files/text", "no program\n");
    for (command, code) in
        [("no-such-program", 127), ("/no/such/program", 127), (no_program.to_str().expect("a path"), 126)]
    {
        let output = sandbox(&place, &["run", "--profile", "dynamic", "--", command]);
        assert_eq!((output.status.code(), output.stderr.lines().count()), (Some(code), 1), "{output:?}");
    }
    let output = sandbox(&place, &["run", "--profile", "strict", "--read", "/etc", "--", "true"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn learning_names_what_would_be_refused_and_changes_nothing() {
    let place = Place::new();
    let secret = place.write("files/secret", "42\n");
    let secret = secret.to_str().expect("a path");
    let learned = sandbox(&place, &["learn", "--profile", "dynamic", "--json", "--", "cat", secret]);
    assert_eq!((learned.status.code(), learned.stdout.as_str()), (Some(0), "42\n"), "{learned:?}");
    let list: Value = json_of(&learned.stderr);
    let refused = list["refused"].as_array().expect("a list");
    let own = refused.iter().find(|row| row["path"] == secret).unwrap_or_else(|| panic!("{list}"));
    assert_eq!(own["allow"], json!(format!("--read {secret}")));
}

#[test]
fn an_audit_stops_every_attempt_and_disturbs_nobody() {
    let place = Place::with_first_party_plugins();
    let server = Server::start(&place);
    let before = server.ready_plugin("hnsw");
    let ended = server.photondb(&["plugin", "audit", "hnsw", "--json"]);
    assert!(ended.status.success(), "{ended:?}");
    let audit: Value = json_of(&ended.stdout);
    assert_eq!((&audit["succeeded"], &audit["unclear"], &audit["granted"]), (&json!(0), &json!(0), &json!(0)));
    assert!(audit["attempts"].as_u64() >= Some(120), "{audit}");
    assert!(server.ready_plugin("hnsw") == before, "it was restarted");
    assert_eq!(server.plugin("hnsw").restarts, 0);
    println!(
        "audit of hnsw: {} attempts, {} blocked by {}, grade {}",
        audit["attempts"], audit["blocked"], audit["blocked_by"], audit["grade"]
    );
    agrees_with_golden(&place, &audit);
}

/// What stops an attempt first must not change unnoticed: a policy that became wider is a difference in a file.
fn agrees_with_golden(place: &Place, audit: &Value) {
    let strict = json_of(&sandbox(place, &["show", "strict", "--json"]).stdout);
    let mut lines = vec![format!("strict: {} calls, {} with rules", strict["calls"], strict["conditional_calls"])];
    for outcome in audit["outcomes"].as_array().expect("outcomes") {
        let text = |key: &str| outcome[key].as_str().unwrap_or("-").to_owned();
        // How a thread bomb ends depends on the machine: where the kernel does not count, the supervisor does.
        let layer = if text("id") == "G2" { "limit".to_owned() } else { text("layer") };
        lines.push(format!("{} {} {layer}", text("id"), text("verdict")));
    }
    let found = lines.join("\n") + "\n";
    if cfg!(not(target_arch = "x86_64")) {
        eprintln!("skipped: the golden file is of x86-64");
        return;
    }
    let path: &Path = &repository().join(GOLDEN);
    if std::env::var_os("PHOTONDB_BLESS").is_some() {
        fs::write(path, &found).expect("the golden file");
    }
    let golden = fs::read_to_string(path).unwrap_or_default();
    assert_eq!(found, golden, "{GOLDEN} is not what an audit finds; PHOTONDB_BLESS=1 renews it, if that is meant");
}

#[test]
fn permissions_are_shown_from_both_sides() {
    let place = Place::with_first_party_plugins();
    let server = Server::start(&place);
    let shown = server.photondb(&["plugin", "permissions", "stats", "--json"]);
    assert!(shown.status.success(), "{shown:?}");
    let status: Value = json_of(&shown.stdout);
    assert_eq!(status["declared"]["profile"], json!("strict"));
    assert_eq!(status["services"], json!([]));
    assert!(status["kernel"]["allowed_calls"].as_u64().is_some_and(|calls| calls <= 45), "{status}");
    let words = server.photondb(&["plugin", "permissions", "stats"]).stdout;
    assert!(
        words.contains("DECLARED") && words.contains("seccomp") && words.contains("services given: none"),
        "{words}"
    );
    let absent = server.photondb(&["plugin", "permissions", "absent"]);
    assert!(!absent.status.success() && absent.stderr.contains("hnsw, stats"), "{absent:?}");
}
