//! The engine keeps to the contract, called directly and over a lane; what it wants is right whatever lies in it.

use std::collections::BTreeMap;

use photondb_plugin_sdk::datum::Time;
use photondb_plugin_sdk::prelude::*;
use photondb_plugin_sdk::services::{Services, StateDirectory};
use photondb_plugin_sdk::testing::Harness;
use photondb_plugin_sdk::testing::engine::{Persistence, check};
use photondb_plugin_timeseries::TimeSeries;

const DOCUMENTS: &str = "documents";

fn options(options: &[(&str, Datum)]) -> Datum {
    Datum::object(options.iter().cloned().chain([("chunk_rows", 256.into())]))
}

fn downsample(rules: &[(&str, &str)]) -> Datum {
    Datum::array(rules.iter().map(|(after, every)| Datum::object([("after", *after), ("every", *every)])))
}

struct Place {
    directory: tempfile::TempDir,
    options: Datum,
}

impl Place {
    fn new(all: &[(&str, Datum)]) -> Self {
        Self { directory: tempfile::tempdir().expect("a directory"), options: options(all) }
    }

    fn open(&self) -> Box<dyn StorageEngine> {
        let directory = self.directory.path().to_owned();
        let config = StorageConfig { directory, cache_bytes: 8 << 20, options: self.options.clone() };
        TimeSeries.open(&config).expect("opens")
    }
}

/// Primary keys as keys, in an order of their own.
fn key(document: &Datum) -> Vec<u8> {
    document.get("id").expect("an id").to_json_string().into_bytes()
}

fn put(engine: &dyn StorageEngine, documents: impl IntoIterator<Item = Datum>) {
    let documents: Vec<Datum> = documents.into_iter().collect();
    for part in documents.chunks(500) {
        let mut batch = WriteBatch::default();
        part.iter().for_each(|document| batch.put(DOCUMENTS, key(document), document.encoded()));
        engine.commit(&batch, Durability::Soft).expect("committed");
    }
}

fn all(engine: &dyn StorageEngine) -> Vec<Datum> {
    let snapshot = engine.snapshot().expect("a snapshot");
    let entries = snapshot.scan(DOCUMENTS, &KeyRange::default(), Direction::Forward).expect("a scan");
    entries.map(|entry| Datum::decode(&entry.expect("an entry").1).expect("a document")).collect()
}

/// Asks and does what is wanted, as a server does, until nothing is; how many groups that were.
fn keep_up(engine: &dyn StorageEngine, now: f64) -> usize {
    let mut count = 0;
    loop {
        let request = UpkeepRequest { documents: DOCUMENTS, primary_key: "id", now, most: 700 };
        let upkeep = engine.upkeep(&request).expect("an answer").expect("it wants upkeep");
        for group in &upkeep.groups {
            assert!((1..=256).contains(&group.len()), "{}", group.len());
            let mut batch = WriteBatch::default();
            for DocumentChange { key: known, before, after } in group {
                let document =
                    after.as_ref().or(before.as_ref()).map(|bytes| Datum::decode(bytes).expect("a document"));
                let key = key(&document.expect("a change"));
                assert!(known.is_empty() || *known == key);
                assert_eq!(engine.get(DOCUMENTS, &key).expect("a read"), *before, "it knows what is there");
                match after {
                    Some(after) => batch.put(DOCUMENTS, key, after.clone()),
                    None => batch.delete(DOCUMENTS, key),
                }
            }
            engine.commit(&batch, Durability::Soft).expect("committed");
            count += 1;
        }
        if upkeep.groups.is_empty() && !upkeep.has_more {
            return count;
        }
    }
}

fn measured(id: impl Into<Datum>, time: Datum, value: f64) -> Datum {
    Datum::object([("id", id.into()), ("time", time), ("value", value.into()), ("unit", "kPa".into())])
}

fn time(seconds: f64) -> Datum {
    Datum::Time(Time::new(seconds, 60).expect("a time"))
}

#[test]
fn it_keeps_to_the_contract() {
    let place = Place::new(&[("retention", "1s".into())]);
    check(Persistence::Durable, &mut || place.open());
}

#[test]
fn it_keeps_to_the_contract_over_a_lane_and_says_there_what_it_wants() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut services = Services::default();
    services.state = Some(StateDirectory::new(directory.path()));
    let harness = Harness::start_granted(TimeSeries, &Datum::object::<&str, Datum>([]), services).expect("starts");
    let open =
        |name: &str, all: &[(&str, Datum)]| harness.open_engine("timeseries", name, &options(all)).expect("opens");
    check(Persistence::Durable, &mut || open("t", &[]));
    let request = UpkeepRequest { documents: DOCUMENTS, primary_key: "id", now: 0.0, most: 700 };
    assert_eq!(open("plain", &[]).upkeep(&request).expect("an answer"), None, "without options it wants nothing");
    let engine = open("u", &[("retention", "10s".into())]);
    // Large ones: what is wanted does not fit into one message.
    let large = |number: u32| {
        let mut document =
            measured(number, f64::from(number).into(), 1.0).as_object().expect("an object").as_ref().clone();
        document.insert("large", "x".repeat(10_000));
        Datum::Object(document.into())
    };
    put(&*engine, (0..600).map(large));
    keep_up(&*engine, 510.0);
    assert_eq!(all(&*engine).len(), 100);
}

#[test]
fn old_documents_go_whatever_their_keys_and_however_times_are_written() {
    let place = Place::new(&[("retention", "1h".into())]);
    let engine = place.open();
    let numbers = (0..3_000_u32).map(|at| measured(at * 7_919 % 3_000, f64::from(at).into(), 1.0));
    let times = (0..3_000_u32).map(|at| measured(format!("t{}", at * 7_919 % 3_000), time(f64::from(at)), 1.0));
    let without = (0..50_u32).map(|at| Datum::object([("id", format!("w{at}")), ("time", "yesterday".to_owned())]));
    put(&*engine, numbers.chain(times).chain(without));
    assert_eq!(keep_up(&*engine, 3_600.0), 0, "nothing is older than an hour");
    assert!(keep_up(&*engine, 5_600.0) >= 16);
    let left = all(&*engine);
    assert_eq!(left.len(), 2_050);
    let is_old = |document: &Datum| match document.get("time") {
        Some(Datum::Number(seconds)) => *seconds < 2_000.0,
        Some(Datum::Time(time)) => time.epoch_seconds() < 2_000.0,
        _ => false,
    };
    assert!(!left.iter().any(is_old));
    drop(engine);
    assert_eq!(keep_up(&*place.open(), 5_600.0), 0, "opened again");
}

#[test]
fn the_oldest_go_when_there_is_too_much() {
    let place = Place::new(&[("max_bytes", 30_000.into())]);
    let engine = place.open();
    let bytes = |engine: &dyn StorageEngine| engine.statistics().get("packed_bytes").and_then(Datum::as_number);
    // A quarter of a million numbers that don't compress well.
    let value = |at: u32| f64::from(at.wrapping_mul(2_654_435_761)) / 1e3;
    put(&*engine, (0..20_000_u32).map(|at| measured(format!("{at:06}"), f64::from(at).into(), value(at))));
    let before = bytes(&*engine).expect("bytes");
    assert!(before > 60_000.0, "{before}");
    keep_up(&*engine, 1e9);
    let after = bytes(&*engine).expect("bytes");
    assert!(after < 45_000.0, "{after} of {before}");
    let left = all(&*engine);
    let oldest = left.iter().filter_map(|document| document.get("time")?.as_number()).fold(f64::MAX, f64::min);
    assert_eq!(left.len() as f64, 20_000.0 - oldest, "all that is younger stays");
    assert!(left.len() > 1_000, "{}", left.len());
}

/// What is to be left of documents, said simply: by series and begin of the span, the values.
type Model = BTreeMap<(Option<u32>, u64), Vec<f64>>;

#[test]
fn summaries_are_those_of_the_documents_even_of_late_ones() {
    let place =
        Place::new(&[("series", "sensor".into()), ("downsample", downsample(&[("100s", "10s"), ("1000s", "100s")]))]);
    let engine = place.open();
    let (mut model, mut state) = (Model::new(), 88_172_645_463_325_252_u64);
    let mut below = |end: u32| {
        // Xorshift (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % u64::from(end)) as u32
    };
    let mut now = 0_u32;
    for round in 0..8_u32 {
        now += 500;
        let mut documents = Vec::new();
        for number in 0..1_500_u32 {
            // Most of them new, some of any age.
            let at = if below(10) == 0 { below(now) } else { now - below(500) };
            let (sensor, value) = (below(4), below(1_000));
            let id = if sensor == 3 {
                format!("{}-{round}-{number}", below(1_000))
            } else {
                format!("{round:02}-{number:04}")
            };
            let mut fields =
                vec![("id", Datum::from(id)), ("time", at.into()), ("value", value.into()), ("unit", "K".into())];
            if sensor > 0 {
                fields.push(("sensor", sensor.into()));
            }
            documents.push(Datum::object(fields));
            model.entry(((sensor > 0).then_some(sensor), u64::from(at))).or_default().push(f64::from(value));
        }
        put(&*engine, documents);
        keep_up(&*engine, f64::from(now));
        check_summaries(&all(&*engine), &model, now);
        assert_eq!(keep_up(&*engine, f64::from(now)), 0, "nothing is left to do");
    }
}

fn check_summaries(documents: &[Datum], model: &Model, now: u32) {
    // The spans that have ended long enough ago.
    let (short, long) = ((now - 100) / 10 * 10, now.saturating_sub(1_000) / 100 * 100);
    let mut expected = Model::new();
    for ((sensor, at), values) in model {
        let every = if *at < u64::from(long) { 100 } else { 10 };
        let start = if *at < u64::from(short) { at / every * every } else { *at };
        expected.entry((*sensor, start)).or_default().extend(values);
    }
    let mut found: BTreeMap<(Option<u32>, u64), (f64, Option<Datum>)> = BTreeMap::new();
    let mut raw = Model::new();
    for document in documents {
        let number = |field: &str| document.get(field).and_then(Datum::as_number);
        let at = number("time").expect("a time") as u64;
        let place = (number("sensor").map(|sensor| sensor as u32), at);
        match number("downsampled") {
            None => raw.entry(place).or_default().push(number("value").expect("a value")),
            Some(every) => {
                assert_eq!(every, if at < u64::from(long) { 100.0 } else { 10.0 }, "{document:?}");
                let documents = number("downsampled.count").expect("a number");
                assert!(found.insert(place, (documents, Some(document.clone()))).is_none(), "two of {place:?}");
            }
        }
    }
    for ((sensor, at), mut values) in expected {
        values.sort_by(f64::total_cmp);
        if at >= u64::from(short) {
            let mut raw = raw.remove(&(sensor, at)).expect("young ones stay");
            raw.sort_by(f64::total_cmp);
            assert_eq!(raw, values);
            continue;
        }
        let (documents, document) = found.remove(&(sensor, at)).unwrap_or_else(|| panic!("none of {sensor:?} {at}"));
        let document = document.expect("a document");
        let number = |field: &str| document.get(field).and_then(Datum::as_number).expect("a number");
        let (count, sum) = (values.len() as f64, values.iter().sum::<f64>());
        assert_eq!((documents, number("value.count")), (count, count));
        assert!((number("value") - sum / count).abs() < 1e-9, "{} is not {}", number("value"), sum / count);
        assert_eq!((number("value.min"), number("value.max")), (values[0], values[values.len() - 1]));
        assert_eq!(document.get("unit"), None);
    }
    assert!(raw.is_empty() && found.is_empty(), "{raw:?} {found:?}");
}

#[test]
fn a_primary_key_that_is_the_time_can_not_be_summed_up() {
    let place = Place::new(&[("downsample", downsample(&[("1s", "1m")]))]);
    let request = UpkeepRequest { documents: DOCUMENTS, primary_key: "time", now: 0.0, most: 700 };
    let error = place.open().upkeep(&request).expect_err("no such summary");
    assert!(error.to_string().contains("primary key that is not the field of the time"), "{error}");
}
