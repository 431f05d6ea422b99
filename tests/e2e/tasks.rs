//! Calls that tasks of an event loop await, from a real confined process.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use photondb_plugin_sdk::Datum;
use photondb_server::bench::Confined;
use photondb_server::plugins::call::Function;
use photondb_tests::place::Place;
use photondb_tests::processes;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

async fn clamp(function: &Function, number: u32) -> f64 {
    let args = [number, 10, 20].map(Datum::from).into();
    function.call(args, soon()).await.expect("an answer").as_number().expect("a number")
}

#[test]
fn tasks_of_one_thread_share_a_plugin_and_none_holds_up_the_others() {
    let place = Place::with_first_party_plugins();
    let confined = Confined::start_with(place.host(), vec![place.plugins()]).expect("plugins");
    let function = confined.manager.function("clamp").expect("stats provides it");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut calls = tokio::task::JoinSet::new();
        // More than there are slots.
        for number in 0..100 {
            let function = function.clone();
            calls.spawn(async move { (number, clamp(&function, number).await) });
        }
        while let Some(call) = calls.join_next().await {
            let (number, clamped) = call.expect("no panic");
            assert_eq!(clamped, f64::from(number.clamp(10, 20)), "{number}");
        }
        let refused = function.call(vec!["x".into(), 1.into(), 2.into()], soon()).await.expect_err("no number");
        assert!(refused.message().contains("number"), "{refused}");
    });
}

#[test]
fn a_call_survives_its_process() {
    let place = Place::with_first_party_plugins();
    let confined = Confined::start_with(place.host(), vec![place.plugins()]).expect("plugins");
    let function = confined.manager.function("clamp").expect("stats provides it");
    let process = confined.instance("stats").expect("it runs");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for round in 0..200 {
            if round == 50 {
                processes::send(Signal::SIGKILL, process.pid());
            }
            assert_eq!(clamp(&function, 15).await, 15.0);
        }
    });
    assert_ne!(confined.instance("stats").expect("it runs again").pid(), process.pid());
}
