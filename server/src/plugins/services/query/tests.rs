//! Queries within calls on real lanes, of which nobody answers any: only what the server does is tried here.

use std::sync::Arc;
use std::time::{Duration, Instant};

use photondb_ipc_schema::lane::{Draft, Lane, Traffic};
use photondb_ipc_schema::layout::Layout;
use photondb_ipc_schema::region;
use photondb_ipc_schema::wake::Spin;
use photondb_plugin_sdk::Datum;
use tempfile::TempDir;

use super::*;
use crate::query::nested::MAX_QUERIES;
use crate::query::{EngineParts, Identity, NoPlugins, NoSearch, index_functions};
use crate::storage::{NoStorageEngines, NoVectorIndexes, Store, StoreOptions, TableOptions};

/// An engine with the empty tables `test.granted` and `test.secret`.
fn engine() -> (Arc<EngineSlot>, TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    let options = StoreOptions {
        cache_bytes: 1 << 20,
        functions: index_functions(),
        vectors: Arc::new(NoVectorIndexes),
        engines: Arc::new(NoStorageEngines),
        upkeep: Duration::from_secs(3600),
    };
    let store = Store::open(directory.path(), &options).expect("a store");
    for name in ["granted", "secret"] {
        store.create_table("test", name, &TableOptions::default()).expect("a table");
    }
    let slot = EngineSlot::new();
    let parts = EngineParts {
        store,
        plugins: Arc::new(NoPlugins),
        nearest: Arc::new(NoSearch),
        system: Vec::new(),
        identity: Identity { id: "id".into(), name: "test".into() },
    };
    assert!(slot.set(Engine::new(parts)).is_ok());
    (Arc::new(slot), directory)
}

fn queries(instance: u64, engine: &Arc<EngineSlot>) -> Arc<Queries> {
    let granted = vec!["read:test.granted".parse().expect("a grant"), "write:test.granted".parse().expect("a grant")];
    Queries::new(instance, Scope::new("geo", granted), Arc::clone(engine))
}

fn lanes(count: usize) -> Vec<Arc<Lane>> {
    let layout = Layout::new(count, 8, 1 << 20).expect("a layout");
    let (own, _) = region::server_written("test", layout.region_bytes()).expect("memory");
    let (peer, _) = region::plugin_written("test", layout.region_bytes()).expect("memory");
    Lane::all(layout, own, peer, Spin::for_this_machine(), &Traffic::default())
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn call(lane: &Arc<Lane>) -> Draft {
    lane.begin(soon()).expect("a slot")
}

const COUNT: &[u8] = br#"[43,[[15,[[14,["test"]],"granted"]]]]"#;
const ENDLESS: &[u8] = br#"[43,[[39,[[173,[1000000000000]],[69,[[2,[1]],false]]]]]]"#;

async fn ask(queries: &Arc<Queries>, call: (u16, u64), term: &[u8]) -> Result<Datum, PluginError> {
    let result = queries.run(call.0, call.1, term.to_vec()).await?;
    Ok(Datum::decode(&result).expect("a datum"))
}

#[tokio::test]
async fn only_calls_in_flight_of_the_same_process_run_queries() {
    let (engine, _directory) = engine();
    let (first, second) = (queries(1, &engine), queries(2, &engine));
    let lanes = lanes(2);
    let (draft, other) = (call(&lanes[1]), call(&lanes[0]));
    let allowed = first.allow(&draft, &Origin::until(soon()));
    let _others = second.allow(&other, &Origin::until(soon()));
    assert_eq!(ask(&first, (1, 1), COUNT).await.expect("in flight"), Datum::from(0));
    for forged in [(0, 1), (1, 0), (1, 2), (1, u64::MAX), (u16::MAX, 1)] {
        let error = ask(&first, forged, COUNT).await.expect_err("forged");
        assert_eq!(error.cause(), Cause::Argument, "{forged:?}: {error}");
        assert!(error.message().contains("is in flight"), "{error}");
    }
    assert!(ask(&second, (1, 1), COUNT).await.is_err(), "another plugin's call");
    drop(allowed);
    assert!(ask(&first, (1, 1), COUNT).await.expect_err("finished").message().contains("is in flight"));
    assert!(first.calls().is_empty());
}

#[tokio::test]
async fn what_a_query_fails_with_says_whose_fault_it_is() {
    let (engine, _directory) = engine();
    let queries = queries(1, &engine);
    let draft = call(&lanes(1)[0]);
    let _allowed = queries.allow(&draft, &Origin::until(soon()));
    for (term, cause, text) in [
        (&br#"[43,[[15,[[14,["test"]],"secret"]]]]"#[..], Cause::Denied, "query = [\"read:test.secret\"]"),
        (b"[16,[[15,[[14,[\"test\"]],\"granted\"]],null]]", Cause::NonExistence, "NULL"),
        (b"[9999,[]]", Cause::Argument, "9999"),
        (b"no JSON", Cause::Argument, "expected"),
        (b"[12,[\"mine\"]]", Cause::Argument, "mine"),
        (b"[51,[[173,[200000]],\"array\"]]", Cause::Limit, "100000"),
        (b"[11,[\"plugin.nothing\"]]", Cause::Unavailable, "nothing"),
    ] {
        let error = ask(&queries, (0, 1), term).await.expect_err(&String::from_utf8_lossy(term));
        assert_eq!(error.cause(), cause, "{error}");
        assert!(error.message().contains(text), "{error}");
    }
    let long = format!("[12,[\"{}\"]]", "ß".repeat(100_000));
    let error = ask(&queries, (0, 1), long.as_bytes()).await.expect_err("r.error");
    assert!(error.message().len() <= MAX_MESSAGE);
}

#[tokio::test]
async fn a_query_ends_with_its_call_and_by_its_deadline() {
    let (engine, _directory) = engine();
    let queries = queries(1, &engine);
    let lanes = lanes(1);
    let (first, second) = (call(&lanes[0]), call(&lanes[0]));
    let _short = queries.allow(&first, &Origin::until(Instant::now() + Duration::from_millis(300)));
    assert!(ask(&queries, (0, 1), ENDLESS).await.expect_err("endless").message().contains("deadline"));
    let allowed = queries.allow(&second, &Origin::until(soon()));
    let running = tokio::spawn({
        let queries = Arc::clone(&queries);
        async move { ask(&queries, (0, 2), ENDLESS).await }
    });
    drop(allowed);
    let error = running.await.expect("no panic").expect_err("its call has ended");
    assert!(error.message().contains("ended") || error.message().contains("in flight"), "{error}");
}

#[tokio::test]
async fn a_flood_is_bounded_and_leaves_other_calls_alone() {
    let (engine, _directory) = engine();
    let queries = queries(1, &engine);
    let lanes = lanes(1);
    let (first, second) = (call(&lanes[0]), call(&lanes[0]));
    let flooding = queries.allow(&first, &Origin::until(soon()));
    let _other = queries.allow(&second, &Origin::until(soon()));
    // More than there are threads: those behind wait for one.
    let ask_first = |term: &'static [u8]| {
        let queries = Arc::clone(&queries);
        tokio::spawn(async move { ask(&queries, (0, 1), term).await })
    };
    let running: Vec<_> = (0..MAX_QUERIES).map(|_| ask_first(ENDLESS)).collect();
    tokio::task::yield_now().await;
    let refused = ask(&queries, (0, 1), COUNT).await.expect_err("one too many");
    assert_eq!(refused.cause(), Cause::Limit, "{refused}");
    drop(flooding);
    for query in running {
        assert!(query.await.expect("no panic").is_err());
    }
    assert_eq!(ask(&queries, (0, 2), COUNT).await.expect("another call"), Datum::from(0));
}

#[tokio::test]
async fn before_the_data_is_open_there_is_an_error() {
    let queries = queries(1, &Arc::new(EngineSlot::new()));
    let draft = call(&lanes(1)[0]);
    let _allowed = queries.allow(&draft, &Origin::until(soon()));
    assert_eq!(ask(&queries, (0, 1), COUNT).await.expect_err("no data").cause(), Cause::Unavailable);
}

#[test]
fn no_term_works_for_long_without_looking_at_the_time() {
    let (engine, _directory) = engine();
    let engine = engine.get().expect("set");
    let scope = Arc::new(Scope::new("geo", Vec::new()));
    let run = |term: String| {
        let calling = Arc::new(Calling::new(1, 0, &Origin::until(Instant::now() + Duration::from_secs(1))));
        engine.run_nested(term.as_bytes(), &scope, &calling).expect_err("too much")
    };
    // Each of 100,000 numbers is compared with each of 100,000 others.
    let numbers = r#"[51,[[173,[100000]],"ARRAY"]]"#;
    let others = format!(r#"[38,[{numbers},[69,[[2,[1]],[24,[[10,[1]],0.5]]]]]]"#);
    let error = run(format!("[93,[{numbers},[154,[{others}]]]]"));
    assert!(error.message().contains("deadline"), "{error}");
    // One string is made longer 100,000 times.
    let strings = format!(r#"[38,[{numbers},[69,[[2,[1]],"{}"]]]]"#, "x".repeat(100));
    let error = run(format!("[24,[[154,[{strings}]]]]"));
    assert!(error.message().contains("deadline"), "{error}");
    let error = run(format!(r#"[97,["{}","[ab]*a[ab]{{2000}}c"]]"#, "a".repeat((64 << 10) + 1)));
    assert!(error.message().contains("65536 bytes"), "{error}");
}
