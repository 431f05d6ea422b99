//! `photondb bench`, with an installed server alone. What it measures is nobody's business here; that it does is.

use photondb_tests::place::Place;
use photondb_tests::processes;
use serde_json::Value;

/// The report of a benchmark, which has a figure for each of these cases.
fn report(place: &Place, arguments: &[&str], cases: &[&str]) -> Value {
    let plugins = place.plugins();
    let mut command = place.photondb(&[&["bench"], arguments, &["--rounds", "1", "--json", "--plugin-dir"]].concat());
    let ended = processes::run(command.arg(plugins), "");
    assert!(ended.status.success(), "{arguments:?}: {}", ended.stderr);
    let report: Value = serde_json::from_str(&ended.stdout).expect("JSON");
    let comparisons = report["comparisons"].as_array().expect("comparisons");
    let measures = comparisons.iter().flat_map(|comparison| comparison["measures"].as_array().expect("measures"));
    let measured: Vec<&Value> = measures.flat_map(|measure| measure["cases"].as_array().expect("cases")).collect();
    for case in cases {
        let case = measured.iter().find(|measured| measured["name"] == *case).expect(case);
        assert!(case["values"][0].as_f64().is_some_and(|value| value > 0.0), "{case}");
    }
    assert_eq!(place.left_behind(), [""; 0]);
    report
}

#[test]
fn vector_search_is_measured_and_its_goals_are_shown_again() {
    let place = Place::with_first_party_plugins();
    let cases = ["an exact scan in this process, one by one", "the index, confined, one by one"];
    let saved = report(&place, &["vector", "--rows", "500", "--dims", "16"], &cases);
    let file = place.write("saved/vector.json", &saved.to_string());
    let shown = processes::run(place.photondb(&["bench", "show"]).arg(file), "");
    assert!(shown.status.success() && shown.stdout.contains("the index, confined, one by one, queries"), "{shown:?}");
}

#[test]
fn queries_are_measured_on_a_server_of_their_own() {
    let place = Place::with_first_party_plugins();
    report(&place, &["query", "--rows", "1000"], &["one document by its key", "plugin: clamp(row[\"x\"], 0, 1e9)"]);
}

#[test]
fn what_is_missing_is_named() {
    let place = Place::new();
    let ended = processes::run(&mut place.photondb(&["bench", "vector"]), "");
    assert!(!ended.status.success() && ended.stderr.contains("--plugin-dir"), "{}", ended.stderr);
    let ended = processes::run(&mut place.photondb(&["bench", "show", "absent.json"]), "");
    assert!(!ended.status.success() && ended.stderr.contains("absent.json"), "{}", ended.stderr);
}
