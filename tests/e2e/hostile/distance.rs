//! Distances that lie: they harm the indexes that use them, and nobody else.

use std::collections::BTreeSet;

use photondb_tests::battery::{record_line, while_others_work};
use photondb_tests::place::{Place, manifest};
use photondb_tests::reql::{self, Failure, RUNTIME_ERROR};
use photondb_tests::server::Server;
use serde_json::{Value, json};

use super::index::{DIMS, ROWS, distance, fill, vector};
use super::nothing_is_left;

const K: usize = 5;

/// `index_create(name, lambda row: row["v"], vector={"type": "hnsw", "metric": metric, ...})`.
fn create(table: &Value, name: &str, metric: &str) -> Value {
    let field = json!([69, [[2, [1]], [170, [[10, [1]], "v"]]]]);
    json!([75, [table, name, field], {"vector": {"type": "hnsw", "dims": DIMS, "metric": metric}}])
}

/// Which documents a search says are nearest, and how far; the text of an error.
fn search(server: &Server<'_>, index: &str, number: usize) -> Result<Vec<(usize, f64)>, String> {
    let mut term = reql::nearest(&reql::table("t"), index, &json!(vector(number)), K);
    // Only every other document.
    term[2]["filter"] = json!([69, [[2, [1]], [17, [[28, [[170, [[10, [1]], "id"]], 2]], 1]]]]);
    match reql::run(&mut server.connect(), &term) {
        Ok(found) => {
            let row = |row: &Value| {
                let id = row["doc"]["id"].as_u64().and_then(|id| usize::try_from(id).ok()).unwrap_or(usize::MAX);
                (id, row["dist"].as_f64().unwrap_or(f64::NAN))
            };
            Ok(found.as_array().into_iter().flatten().map(row).collect())
        }
        Err(Failure::Answered(_, message)) => Err(message),
        Err(failure) => panic!("{index}: {failure}"),
    }
}

/// What a lie may not change: which documents there are, and which a filter accepts.
fn check(server: &Server<'_>, name: &str, gone: &BTreeSet<usize>) -> Result<(), String> {
    match search(server, name, 701) {
        Err(message) if message.contains(name) => Ok(()),
        Err(message) => Err(format!("an error that does not name it: {message}")),
        Ok(found) => {
            let ids: BTreeSet<usize> = found.iter().map(|(id, _)| *id).collect();
            let is_sound = ids.len() == found.len()
                && ids.iter().all(|id| *id < ROWS && id % 2 == 1 && !gone.contains(id))
                && found.iter().all(|(_, distance)| distance.is_finite());
            if is_sound { Ok(()) } else { Err(format!("{found:?}")) }
        }
    }
}

#[test]
fn distances_that_lie() {
    let place = Place::new();
    ["stats", "hnsw"].iter().for_each(|name| place.install(name));
    let names = place.hostile_names("j12_");
    assert!(names.len() > 10, "{names:?}");
    for name in &names {
        let text = manifest(name, &[]).replace("[provides]", &format!("[provides]\ndistances = [\"{name}\"]"));
        place.install_hostile_in(name, &text);
    }
    let mut server = Server::start(&place);
    let (table, _) = fill(&server);
    server.query(&create(&table, "honest", "l2"));
    let (mut unexpected, mut gone) = (Vec::new(), BTreeSet::new());
    while_others_work(&server, || {
        let mut created = Vec::new();
        for name in &names {
            match reql::run(&mut server.connect(), &create(&table, name, name)) {
                Ok(_) => created.push(name),
                Err(Failure::Answered(RUNTIME_ERROR, message)) if name.starts_with("j12_prepare") => {
                    assert!(message.contains(name.as_str()), "{message}");
                }
                Err(failure) => unexpected.push(format!("{name}: {failure}")),
            }
        }
        for round in 0..2 {
            for name in &created {
                if let Err(lie) = check(&server, name, &gone) {
                    unexpected.push(format!("{name}, round {round}: {lie}"));
                }
            }
            let number = 701 - 2 * round;
            server.query(&json!([54, [reql::get(&table, number)]]));
            gone.insert(number);
            // The same table's other index finds what is nearest, at the distances that it is at.
            let found = search(&server, "honest", 701).expect("an answer of the honest index");
            assert_eq!(found.len(), K);
            for (id, said) in found {
                assert!(
                    !gone.contains(&id) && (distance(&vector(id), &vector(701)) - said).abs() < 1e-2,
                    "{id}: {said}"
                );
            }
        }
        for name in created.iter().filter(|name| name.contains("another_in_every_process")) {
            for _ in 0..3 {
                let _ = server.photondb(&["plugin", "reload", name]);
                if let Err(lie) = check(&server, name, &gone) {
                    unexpected.push(format!("{name}, reloaded: {lie}"));
                }
            }
        }
    });
    for name in &names {
        let wrong: Vec<&String> = unexpected.iter().filter(|line| line.starts_with(name.as_str())).collect();
        record_line(&json!({
            "row": "J12", "attack": name, "layer": "protocol", "without": null, "through": false,
            "unexpected": wrong.first(),
        }));
    }
    assert!(unexpected.is_empty(), "{unexpected:#?}");
    assert!(server.is_running());
    nothing_is_left(server);
}
