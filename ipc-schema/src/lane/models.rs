//! Models of a lane that loom runs through every order in which its threads can run and its stores can be seen, up to
//! three preemptions: `make loom`, which `make test` runs. It is the code of [`lane`](super) itself; only the memory behind it is
//! on the heap, and a futex is a queue behind a lock.
//!
//! No timeout passes here, unless a model lets it: a wake-up that is lost is a deadlock, which loom reports. Payloads are
//! watched: an access that no word orders is reported too.
//!
//! To see that they see: each of these changes was made by hand, and made at least one model fail.
//!
//! - no fence in `Lane::publish`, `Lane::sleep`, `Worker::serve_next` or `Worker::wait_for`;
//! - the store of a word relaxed, or its load on either side;
//! - a request published before its words;
//! - a sleeper's flag set after its last look, or the value that it sleeps on loaded after that look, on either side;
//! - no wake-up by the worker; nobody told of a free slot, or that the lane was killed;
//! - a slot used again before its abandoned call was answered; a cancellation set by any call of its slot.

use loom::model::Builder;
use loom::thread;

use super::*;
use crate::layout::PAGE;
use crate::region::OnHeap;

struct Ends {
    lane: Arc<Lane>,
    worker: Worker,
    plugin: OnHeap,
}

fn ends(depth: usize) -> Ends {
    let layout = Layout::new(1, depth, PAGE).expect("valid");
    let (server, plugin) = (OnHeap::new(layout.region_bytes()), OnHeap::new(layout.region_bytes()));
    let lane = Lane::all(layout, server.own(), plugin.untrusted(), Spin::NEVER, &Traffic::default()).remove(0);
    let worker = Worker::all(server.trusted(), plugin.own()).expect("header").remove(0);
    Ends { lane, worker, plugin }
}

fn explore(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(3));
    builder.check(model);
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// Answers with the payload and the argument of the request.
fn echo(call: Call<'_>) -> Completion {
    call.reply[..call.payload.len()].copy_from_slice(call.payload);
    Completion { status: 0, payload: call.payload.len(), value: call.request.argument }
}

fn serve(mut worker: Worker, calls: u64) -> thread::JoinHandle<()> {
    thread::spawn(move || (0..calls).for_each(|_| worker.serve_next(echo)))
}

fn send(draft: Draft, argument: u8) -> Pending {
    let mut draft = draft;
    draft.buffer()[0] = argument;
    draft.send(Operation::Nop, 0, 1, u64::from(argument))
}

fn call(lane: &Arc<Lane>, argument: u8) {
    let pending = send(lane.begin(soon()).expect("slot"), argument);
    let mut reply = PrivateCopy::default();
    let completion = pending.wait(soon(), &mut reply).expect("answer");
    assert_eq!((completion.value, reply.bytes()), (u64::from(argument), &[argument][..]));
}

#[test]
fn calls_are_answered_and_their_slot_is_used_again() {
    explore(|| {
        let Ends { lane, worker, .. } = ends(1);
        let worker = serve(worker, 2);
        call(&lane, 1);
        call(&lane, 2);
        worker.join().expect("worker");
    });
}

#[test]
fn calls_in_flight_together_are_answered_in_order() {
    explore(|| {
        let Ends { lane, worker, .. } = ends(2);
        let worker = serve(worker, 2);
        let first = send(lane.begin(soon()).expect("slot"), 1);
        let second = send(lane.begin(soon()).expect("slot"), 2);
        let mut reply = PrivateCopy::default();
        assert_eq!(second.wait(soon(), &mut reply).expect("answer").value, 2);
        assert_eq!(first.wait(Instant::now(), &mut reply).expect("answered before the second").value, 1);
        worker.join().expect("worker");
    });
}

#[test]
fn a_worker_that_was_rung_misses_no_call() {
    explore(|| {
        let Ends { lane, worker, .. } = ends(2);
        let worker = serve(worker, 1);
        lane.ring();
        call(&lane, 1);
        worker.join().expect("worker");
    });
}

#[test]
fn callers_share_a_lane() {
    explore(|| {
        let Ends { lane, worker, .. } = ends(2);
        let worker = serve(worker, 2);
        let other = {
            let lane = Arc::clone(&lane);
            thread::spawn(move || call(&lane, 1))
        };
        call(&lane, 2);
        other.join().expect("caller");
        worker.join().expect("worker");
    });
}

#[test]
fn callers_wait_for_a_slot() {
    explore(|| {
        let Ends { lane, worker, .. } = ends(1);
        let worker = serve(worker, 2);
        let other = {
            let lane = Arc::clone(&lane);
            thread::spawn(move || call(&lane, 1))
        };
        call(&lane, 2);
        other.join().expect("caller");
        worker.join().expect("worker");
        assert_eq!(lane.in_flight(), 0);
    });
}

#[test]
fn a_slot_is_used_again_only_when_its_abandoned_call_was_answered() {
    explore(|| {
        let Ends { lane, mut worker, .. } = ends(1);
        let worker = thread::spawn(move || {
            worker.serve_next(|call| {
                // Whether it is cancelled yet is a matter of luck; the request is whole either way.
                let _ = call.cancellation.is_cancelled();
                assert_eq!((call.number, call.payload), (1, &[1][..]));
                echo(call)
            });
            worker.serve_next(|call| {
                assert!(!call.cancellation.is_cancelled(), "it was the call before that was given up");
                assert_eq!((call.number, call.payload), (2, &[2][..]));
                echo(call)
            });
        });
        drop(send(lane.begin(soon()).expect("slot"), 1));
        let draft = loop {
            match lane.try_begin().expect("alive") {
                Some(draft) => break draft,
                None => thread::yield_now(),
            }
        };
        assert_eq!(send(draft, 2).wait(soon(), &mut PrivateCopy::default()).expect("answer").value, 2);
        worker.join().expect("worker");
    });
}

#[test]
fn a_deadline_and_an_answer_may_meet() {
    explore(|| {
        let Ends { lane, worker, .. } = ends(1);
        let worker = serve(worker, 1);
        let pending = send(lane.begin(soon()).expect("slot"), 1);
        match pending.wait(Instant::now(), &mut PrivateCopy::default()) {
            Ok(completion) => assert_eq!(completion.value, 1),
            Err(error) => assert_eq!(error, LaneError::Deadline),
        }
        worker.join().expect("worker");
        assert_eq!((lane.in_flight(), lane.current()), (0, None));
        assert!(lane.try_begin().expect("alive").is_some(), "the slot is free in both cases");
    });
}

#[test]
fn a_draft_that_is_dropped_is_answered_too() {
    explore(|| {
        let Ends { lane, worker, .. } = ends(2);
        let worker = serve(worker, 2);
        drop(lane.begin(soon()).expect("slot"));
        call(&lane, 2);
        worker.join().expect("worker");
    });
}

#[test]
fn a_kill_ends_who_waits_for_an_answer() {
    explore(|| {
        let Ends { lane, plugin, worker } = ends(1);
        let pending = send(lane.begin(soon()).expect("slot"), 1);
        let killer = {
            let lane = Arc::clone(&lane);
            thread::spawn(move || {
                lane.kill("test");
                // Who looked just before the kill, and slept just after, sleeps for a nap.
                plugin.expire();
            })
        };
        let ended = pending.wait(soon(), &mut PrivateCopy::default());
        assert_eq!(ended, Err(LaneError::Dead("test".into())));
        assert_eq!(lane.try_begin().err(), Some(LaneError::Dead("test".into())));
        killer.join().expect("killer");
        drop(worker);
    });
}

#[test]
fn a_kill_ends_who_waits_for_a_slot() {
    explore(|| {
        let Ends { lane, .. } = ends(1);
        let _busy = send(lane.begin(soon()).expect("slot"), 1);
        let waiting = {
            let lane = Arc::clone(&lane);
            thread::spawn(move || lane.begin(soon()).map(drop))
        };
        lane.kill("test");
        assert_eq!(waiting.join().expect("caller"), Err(LaneError::Dead("test".into())));
    });
}

#[test]
fn a_kill_and_an_answer_may_meet() {
    explore(|| {
        let Ends { lane, worker, plugin } = ends(1);
        let pending = send(lane.begin(soon()).expect("slot"), 1);
        let worker = serve(worker, 1);
        let killer = {
            let lane = Arc::clone(&lane);
            thread::spawn(move || {
                lane.kill("test");
                plugin.expire();
            })
        };
        match pending.wait(soon(), &mut PrivateCopy::default()) {
            Ok(completion) => assert_eq!(completion.value, 1),
            Err(error) => assert_eq!(error, LaneError::Dead("test".into())),
        }
        worker.join().expect("worker");
        killer.join().expect("killer");
    });
}
