//! `photondb plugin test`: the plugins that come with PhotonDB keep to what they have to in their sandbox, and one that
//! does not is told of.

use photondb_tests::place::Place;
use photondb_tests::processes;
use serde_json::Value;

/// The outcomes of a test, and whether it went well.
fn test(place: &Place, arguments: &[&str]) -> (Vec<Value>, bool) {
    let ended = processes::run(&mut place.photondb(&[&["plugin", "test", "--json"], arguments].concat()), "");
    let lines = ended.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    let outcomes: Vec<Value> = lines.collect();
    assert!(!outcomes.is_empty(), "nothing was tested: {}", ended.stderr);
    (outcomes, ended.status.success())
}

#[test]
fn first_party_plugins_keep_to_what_they_have_to() {
    for name in Place::built_plugins() {
        let place = Place::new();
        place.install(&name);
        let folder = place.plugins().join(&name).display().to_string();
        let configuration = place.write("photondb.toml", &place.configuration_of(&name)).display().to_string();
        let (outcomes, is_success) = test(&place, &[&folder, "--config", &configuration]);
        let failed: Vec<&Value> = outcomes.iter().filter(|outcome| !outcome["failure"].is_null()).collect();
        assert!(failed.is_empty() && is_success, "{name}: {failed:#?}");
        assert!(outcomes.iter().any(|outcome| outcome["part"] == "plugin"), "{name}: it was not killed: {outcomes:?}");
    }
}

#[test]
fn a_plugin_that_dies_of_an_argument_is_told_of() {
    let place = Place::new();
    place.install_hostile("abort", &["abort"]);
    let folder = place.plugins().join("abort").display().to_string();
    let (outcomes, is_success) = test(&place, &[&folder]);
    assert!(!is_success, "{outcomes:#?}");
    let failure = outcomes.iter().find_map(|outcome| outcome["failure"].as_str()).expect("a failure");
    assert!(failure.contains("SIGABRT"), "{failure}");
    // The same for people, who name the executable as well.
    let executable = format!("{folder}/plugin.toml");
    let ended = processes::run(&mut place.photondb(&["plugin", "test", &executable]), "");
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.stdout.contains("FAILED") && !ended.stderr.contains("panicked"), "{}{}", ended.stdout, ended.stderr);
}

#[test]
fn what_is_no_plugin_is_said() {
    let place = Place::new();
    for (path, hint) in [("/nonexistent", "can't be found"), ("/tmp", "no plugin.toml in it")] {
        let ended = processes::run(&mut place.photondb(&["plugin", "test", path]), "");
        assert_eq!(ended.status.code(), Some(1));
        assert!(ended.stderr.contains(hint), "{}", ended.stderr);
    }
}
