use std::collections::BTreeMap;
use std::ops::Bound;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Put(Vec<(u8, i32)>),
    Delete(Vec<u8>),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => prop::collection::vec((0..40_u8, -5..5_i32), 1..12).prop_map(Step::Put),
        3 => prop::collection::vec(0..40_u8, 1..6).prop_map(Step::Delete),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..25)
}

/// Keys of several types, so that their order matters.
fn key(number: u8) -> Datum {
    match number % 4 {
        0 => Datum::from(format!("k{number}")),
        1 => Datum::from(i32::from(number) - 20),
        2 => Datum::array([Datum::from(u32::from(number / 8)), true.into()]),
        _ => Datum::Binary([number][..].into()),
    }
}

fn document(number: u8, value: i32) -> Datum {
    let tags = Datum::array((0..value.rem_euclid(4)).map(|tag| Datum::from(tag / 2)));
    Datum::object([("id", key(number)), ("v", value.into()), ("w", key(number)), ("tags", tags)])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn a_table_behaves_as_a_map(steps in steps(), low in 0..40_u8, high in 0..40_u8) {
        let (directory, mut store, mut table) = new_store();
        table.create_index(&index("v", "v")).unwrap();
        table.create_index(&index("vw", "v,w")).unwrap();
        table.create_index(&IndexDefinition { multi: true, ..index("tags", "tags") }).unwrap();
        let mut model: BTreeMap<Datum, Datum> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Put(documents) => {
                    let documents: Vec<Datum> = documents.into_iter().map(|(number, value)| document(number, value)).collect();
                    put_all(&table, &documents);
                    model.extend(documents.into_iter().map(|document| (document.get("id").unwrap().clone(), document)));
                }
                Step::Delete(numbers) => {
                    let keys: Vec<Datum> = numbers.into_iter().map(key).collect();
                    delete_all(&table, &keys);
                    keys.iter().for_each(|key| drop(model.remove(key)));
                }
                Step::Reopen => {
                    drop((store, table));
                    store = Store::open(directory.path(), &options()).unwrap();
                    table = store.table("test", "t").unwrap();
                }
            }
        }
        for name in ["v", "vw", "tags"] {
            table.wait_index(name, soon()).unwrap();
        }
        prop_assert_eq!(table.count_estimate(), model.len() as u64);
        let mut expected: Vec<Datum> = model.values().cloned().collect();
        prop_assert_eq!(&all(table.scan(&DatumRange::all(), Direction::Forward)), &expected);
        for (key, document) in &model {
            prop_assert_eq!(table.get(key).unwrap(), Some(document.clone()));
        }
        let (low, high) = (key(low), key(high));
        let range = DatumRange { lower: Bound::Excluded(low.clone().into()), upper: Bound::Included(high.clone().into()) };
        let inside: Vec<Datum> = expected.iter().rev()
            .filter(|document| *document.get("id").unwrap() > low && *document.get("id").unwrap() <= high)
            .cloned().collect();
        prop_assert_eq!(&all(table.scan(&range, Direction::Backward)), &inside);

        expected.sort_by_key(|document| document.get("v").unwrap().clone());
        prop_assert_eq!(&all(table.index_scan("v", &DatumRange::all(), Direction::Forward)), &expected);
        prop_assert_eq!(&all(table.index_scan("vw", &DatumRange::all(), Direction::Forward)), &expected);
        let mut values: Vec<Datum> = expected.iter().map(|document| document.get("v").unwrap().clone()).collect();
        values.dedup();
        prop_assert_eq!(all(table.index_values("v", &DatumRange::all(), Direction::Forward)), values);
        let tagged = |tag: i32| -> usize {
            let tags = expected.iter().flat_map(|document| document.get("tags").unwrap().as_array().unwrap().iter());
            tags.filter(|found| **found == tag.into()).count()
        };
        for tag in 0..2 {
            let found = all(table.index_scan("tags", &DatumRange::only(tag.into()), Direction::Forward));
            prop_assert_eq!(found.len(), tagged(tag));
        }
    }
}

#[test]
fn writers_of_one_key_lose_no_update() {
    let (_directory, _store, table) = new_store();
    table.create_index(&index("n", "n")).unwrap();
    let keys: Vec<Datum> = (0..3).map(Datum::from).collect();
    let (threads, rounds) = (8, 40);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (table, keys) = (&table, &keys);
            scope.spawn(move || {
                for round in 0..rounds {
                    let durability = if (thread + round) % 8 == 0 { Durability::Hard } else { Durability::Soft };
                    let outcomes = table
                        .replace::<Infallible>(keys, durability, &mut |at, old| {
                            let n = old.and_then(|old| old.get("n")).and_then(Datum::as_number).unwrap_or(0.0);
                            Ok(Some(Datum::object([("id", keys[at].clone()), ("n", (n + 1.0).into())])))
                        })
                        .unwrap();
                    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Changed { .. })));
                }
            });
        }
    });
    table.wait_index("n", soon()).unwrap();
    let total = Datum::from(threads * rounds);
    for document in all(table.scan(&DatumRange::all(), Direction::Forward)) {
        assert_eq!(document.get("n"), Some(&total));
    }
    assert_eq!(ids(table.index_scan("n", &DatumRange::all(), Direction::Forward)), keys);
    assert_eq!(table.count_estimate(), 3);
}

#[test]
fn each_document_of_a_call_has_its_own_outcome() {
    let (_directory, _store, table) = new_store();
    let deep = (0..501).fold(Datum::Null, |inner, _| Datum::array([inner]));
    let documents = [
        Datum::object([("id", Datum::from(1)), ("a", 1.into())]),
        Datum::object([("id", Datum::from(1)), ("a", 1.into())]),
        Datum::object([("id", 3)]),
        Datum::from(1),
        Datum::object([("id", Datum::from(4)), ("deep", deep)]),
        Datum::Null,
    ];
    let keys = [1.into(), 1.into(), 2.into(), 2.into(), 4.into(), Datum::Null];
    let outcomes = table
        .replace(&keys, Durability::Hard, &mut |at, old| {
            assert_eq!(at == 1, old.is_some());
            Ok::<_, Infallible>(Some(documents[at].clone()))
        })
        .unwrap();
    assert!(matches!(&outcomes[0], Outcome::Changed { old: None, .. }));
    assert!(matches!(&outcomes[1], Outcome::Unchanged(Some(_))), "the second sees the first");
    assert!(matches!(&outcomes[2], Outcome::Refused(StoreError::KeyChanged { .. })));
    assert!(matches!(&outcomes[3], Outcome::Refused(StoreError::NotADocument(found)) if found == "NUMBER"));
    assert!(matches!(&outcomes[4], Outcome::Refused(StoreError::TooDeep)));
    assert!(matches!(&outcomes[5], Outcome::Refused(StoreError::KeyType { .. })));
    let failed = table.replace(&[1.into()], Durability::Soft, &mut |_, _| Err("no")).unwrap();
    assert!(matches!(failed[0], Outcome::Failed("no")));
    assert_eq!(all(table.scan(&DatumRange::all(), Direction::Forward)), documents[..1]);
}

#[test]
fn a_write_may_read_its_table_while_indexes_change() {
    let (_directory, _store, table) = new_store();
    let (entered, has_entered) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            table
                .replace::<Infallible>(&[1.into()], Durability::Soft, &mut |_, _| {
                    entered.send(()).unwrap();
                    // Whether or not somebody waits for this write to end, its reads go on.
                    let documents = all(table.scan(&DatumRange::all(), Direction::Forward));
                    Ok(Some(Datum::object([("id", Datum::from(1)), ("n", documents.len().into())])))
                })
                .unwrap();
        });
        has_entered.recv().unwrap();
        table.create_index(&index("n", "n")).unwrap();
    });
    table.wait_index("n", soon()).unwrap();
    assert_eq!(ids(table.index_scan("n", &DatumRange::all(), Direction::Forward)), [1.into()]);
}

#[test]
fn scans_see_one_moment() {
    let (_directory, _store, table) = new_store();
    table.create_index(&index("v", "v")).unwrap();
    let old: Vec<Datum> = (0..500).map(|at| Datum::object([("id", at), ("v", -at)])).collect();
    put_all(&table, &old);
    table.wait_index("v", soon()).unwrap();
    let mut by_key = table.scan(&DatumRange::all(), Direction::Forward).unwrap();
    let mut by_index = table.index_scan("v", &DatumRange::all(), Direction::Backward).unwrap();
    let mut seen = vec![by_key.next().unwrap().unwrap()];
    assert_eq!(by_index.next().unwrap().unwrap(), old[0]);
    delete_all(&table, &old[..250].iter().map(|document| document.get("id").unwrap().clone()).collect::<Vec<_>>());
    put_all(&table, &(200..900).map(|at| Datum::object([("id", at), ("v", 7)])).collect::<Vec<_>>());
    seen.extend(by_key.map(Result::unwrap));
    assert_eq!(seen, old);
    assert_eq!(by_index.map(Result::unwrap).collect::<Vec<_>>(), old[1..]);
    assert_eq!(table.count_estimate(), 700);
}
