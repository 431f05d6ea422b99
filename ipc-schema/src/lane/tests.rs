#[cfg(not(miri))]
use std::os::fd::AsFd;
use std::thread;

use super::*;
use crate::layout::DESCRIPTOR_WORDS;
use crate::region::{self, TrustedRegion};

/// Calls of a test for which more is better.
const MANY: u64 = if cfg!(miri) { 20 } else { 2000 };

/// Both ends of one lane, and of its regions.
struct Ends {
    server: OwnRegion,
    server_seen: TrustedRegion,
    plugin: OwnRegion,
    plugin_seen: UntrustedRegion,
    /// A second writer of the plugin's region.
    forger: OwnRegion,
}

#[cfg(not(miri))]
fn regions(len: usize) -> Ends {
    let (server, server_fd) = region::server_written("server", len).expect("memfd");
    let (plugin_seen, plugin_fd) = region::plugin_written("plugin", len).expect("memfd");
    let plugin = || OwnRegion::map(plugin_fd.as_fd(), len).expect("map");
    let server_seen = TrustedRegion::map(server_fd.as_fd(), len).expect("map");
    Ends { server, server_seen, plugin: plugin(), plugin_seen, forger: plugin() }
}

/// Miri can't follow a mapping.
#[cfg(miri)]
fn regions(len: usize) -> Ends {
    let (server, plugin) = (region::OnHeap::new(len), region::OnHeap::new(len));
    Ends {
        server: server.own(),
        server_seen: server.trusted(),
        plugin: plugin.own(),
        plugin_seen: plugin.untrusted(),
        forger: plugin.own(),
    }
}

fn spinning(depth: usize, spin: Spin) -> (Arc<Lane>, Worker, OwnRegion) {
    let layout = Layout::new(1, depth, 4096).expect("valid");
    let Ends { server, server_seen, plugin, plugin_seen, forger } = regions(layout.region_bytes());
    let lane = Lane::all(layout, server, plugin_seen, spin, &Traffic::default()).remove(0);
    let worker = Worker::all(server_seen, plugin).expect("header").remove(0);
    (lane, worker, forger)
}

fn pair(depth: usize) -> (Arc<Lane>, Worker, OwnRegion) {
    spinning(depth, Spin::for_this_machine())
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn echo(call: Call<'_>) -> Completion {
    call.reply[..call.payload.len()].copy_from_slice(call.payload);
    Completion { status: 0, payload: call.payload.len(), value: call.request.argument }
}

fn send(lane: &Arc<Lane>, argument: u64) -> Pending {
    let mut draft = lane.begin(soon()).expect("slot");
    draft.buffer()[..8].copy_from_slice(&argument.to_le_bytes());
    draft.send(Operation::Nop, 0, 8, argument)
}

#[test]
fn every_caller_gets_its_own_answer() {
    let (lane, mut worker, _) = pair(4);
    const CALLERS: u64 = 4;
    const CALLS: u64 = MANY;
    thread::scope(|scope| {
        scope.spawn(|| (0..CALLERS * CALLS).for_each(|_| worker.serve_next(echo)));
        for caller in 0..CALLERS {
            let lane = &lane;
            scope.spawn(move || {
                let mut reply = PrivateCopy::default();
                for call in 0..CALLS {
                    let argument = caller << 32 | call;
                    let completion = send(lane, argument).wait(soon(), &mut reply).expect("answer");
                    assert_eq!(completion.value, argument);
                    assert_eq!(reply.bytes(), argument.to_le_bytes());
                }
            });
        }
    });
    assert_eq!(lane.in_flight(), 0);
}

#[test]
fn sleepers_are_woken() {
    let (lane, mut worker, _) = spinning(2, Spin::NEVER);
    thread::scope(|scope| {
        scope.spawn(|| (0..MANY / 4).for_each(|_| worker.serve_next(echo)));
        for call in 0..MANY / 4 {
            let completion = send(&lane, call).wait(soon(), &mut PrivateCopy::default()).expect("answer");
            assert_eq!(completion.value, call);
        }
    });
}

#[test]
fn a_full_lane_refuses_at_the_deadline() {
    let (lane, _worker, _) = pair(2);
    let _first = send(&lane, 1);
    let _second = send(&lane, 2);
    assert_eq!(lane.begin(Instant::now()).err(), Some(LaneError::Full));
    assert!(lane.try_begin().expect("alive").is_none());
}

#[test]
fn a_call_that_is_left_is_done_and_its_slot_comes_free() {
    let (lane, mut worker, _) = pair(1);
    assert!(lane.is_idle());
    send(&lane, 7).leave();
    assert!(!lane.is_idle() && lane.try_begin().expect("alive").is_none());
    worker.serve_next(|call| {
        assert_eq!((call.request.argument, call.cancellation.is_cancelled()), (7, false));
        echo(call)
    });
    assert_eq!(lane.in_flight(), 0);
    let next = send(&lane, 8);
    worker.serve_next(echo);
    assert_eq!(next.wait(soon(), &mut PrivateCopy::default()).expect("answer").value, 8);
    assert!(lane.is_idle());
}

/// Waits until so many callers wait for a slot.
fn until_waiting(lane: &Lane, callers: usize) {
    while lock(&lane.state).waiting.len() != callers {
        thread::yield_now();
    }
}

#[test]
fn who_waited_first_gets_the_next_slot() {
    let (lane, mut worker, _) = pair(1);
    let first = send(&lane, 0);
    let order = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for caller in 1..=3 {
            let (lane, order) = (&lane, &order);
            scope.spawn(move || {
                let call = send(lane, caller);
                order.lock().expect("order").push(caller);
                call.wait(soon(), &mut PrivateCopy::default()).expect("answer");
            });
            until_waiting(lane, caller as usize);
        }
        scope.spawn(|| (0..4).for_each(|_| worker.serve_next(echo)));
        first.wait(soon(), &mut PrivateCopy::default()).expect("answer");
    });
    assert_eq!(order.into_inner().expect("order"), [1, 2, 3]);
}

#[test]
fn who_does_not_wait_goes_behind_those_who_do() {
    let (lane, mut worker, _) = pair(1);
    let first = send(&lane, 0);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| send(&lane, 1));
        until_waiting(&lane, 1);
        // As a scan, which takes the next slot whenever an answer is there.
        worker.serve_next(echo);
        first.wait(soon(), &mut PrivateCopy::default()).expect("answer");
        if !waiting.is_finished() && !lock(&lane.state).waiting.is_empty() {
            assert!(lane.try_begin().expect("alive").is_none());
        }
        let call = waiting.join().expect("a slot");
        worker.serve_next(echo);
        assert_eq!(call.wait(soon(), &mut PrivateCopy::default()).expect("answer").value, 1);
    });
}

#[test]
fn who_stops_waiting_leaves_the_queue() {
    let (lane, mut worker, _) = pair(1);
    let first = send(&lane, 0);
    assert_eq!(lane.begin(Instant::now()).err(), Some(LaneError::Full));
    assert!(lock(&lane.state).waiting.is_empty());
    worker.serve_next(echo);
    first.wait(soon(), &mut PrivateCopy::default()).expect("answer");
    assert!(lane.try_begin().expect("alive").is_some());
}

#[test]
fn nonces_are_never_used_twice() {
    let (lane, mut worker, _) = pair(2);
    let mut nonces = std::collections::HashSet::new();
    for call in 0..20 {
        // Some are never sent.
        match call % 3 {
            0 => drop(lane.begin(soon()).expect("slot")),
            _ => {
                let pending = send(&lane, call);
                assert!(nonces.insert(pending.nonce));
                drop(pending);
            }
        }
        worker.serve_next(echo);
    }
}

#[test]
fn a_worker_that_was_rung_answers_as_ever() {
    let (lane, mut worker, _) = pair(2);
    thread::scope(|scope| {
        scope.spawn(|| (0..MANY / 20).for_each(|_| worker.serve_next(echo)));
        for call in 0..MANY / 20 {
            lane.ring_ahead();
            let completion = send(&lane, call).wait(soon(), &mut PrivateCopy::default()).expect("answer");
            assert_eq!(completion.value, call);
        }
    });
}

#[test]
fn an_abandoned_slot_comes_back_with_its_late_answer() {
    let (lane, mut worker, _) = pair(1);
    let late = send(&lane, 1).wait(Instant::now(), &mut PrivateCopy::default());
    assert_eq!(late, Err(LaneError::Deadline));
    assert!(lane.try_begin().expect("alive").is_none());
    assert_eq!(lane.current(), Some((1, true)));
    worker.serve_next(echo);
    assert_eq!(lane.current(), None);
    let pending = send(&lane, 2);
    worker.serve_next(echo);
    assert_eq!(pending.wait(soon(), &mut PrivateCopy::default()).expect("answer").value, 2);
}

#[test]
fn a_worker_hears_of_calls_that_were_given_up_and_of_no_others() {
    let (lane, mut worker, _) = pair(2);
    let cancelled = |worker: &mut Worker| {
        let mut found = None;
        worker.serve_next(|call| {
            found = Some((call.number, call.cancellation.is_cancelled()));
            echo(call)
        });
        found
    };
    drop(send(&lane, 1));
    let patient = send(&lane, 2);
    assert_eq!((cancelled(&mut worker), cancelled(&mut worker)), (Some((1, true)), Some((2, false))));
    patient.wait(soon(), &mut PrivateCopy::default()).expect("answer");
    let reused = send(&lane, 3);
    assert_eq!(cancelled(&mut worker), Some((3, false)), "the slot of call 1 once more");
    reused.wait(soon(), &mut PrivateCopy::default()).expect("answer");
}

#[test]
fn a_call_is_cancelled_while_it_is_served() {
    let (lane, mut worker, _) = pair(1);
    let pending = send(&lane, 1);
    worker.serve_next(|call| {
        assert!(!call.cancellation.is_cancelled());
        assert_eq!(pending.wait(Instant::now(), &mut PrivateCopy::default()), Err(LaneError::Deadline));
        assert!(thread::scope(|scope| scope.spawn(|| call.cancellation.is_cancelled()).join().expect("thread")));
        echo(call)
    });
}

#[test]
fn calls_behind_the_one_that_the_worker_is_at_are_not_its_fault() {
    let (lane, mut worker, _) = pair(3);
    let patient = send(&lane, 1);
    let give_up = |argument| send(&lane, argument).wait(Instant::now(), &mut PrivateCopy::default());
    assert_eq!((give_up(2), give_up(3)), (Err(LaneError::Deadline), Err(LaneError::Deadline)));
    assert_eq!(lane.current(), Some((1, false)));
    for current in [2, 3] {
        worker.serve_next(echo);
        assert_eq!(lane.current(), Some((current, true)), "the worker goes on");
    }
    worker.serve_next(echo);
    assert_eq!(lane.current(), None);
    patient.wait(soon(), &mut PrivateCopy::default()).expect("answer");
}

#[test]
fn a_draft_that_is_dropped_does_not_hold_up_the_others() {
    let (lane, mut worker, _) = pair(2);
    drop(lane.begin(soon()).expect("slot"));
    let pending = send(&lane, 7);
    worker.serve_next(echo);
    worker.serve_next(echo);
    assert_eq!(pending.wait(soon(), &mut PrivateCopy::default()).expect("answer").value, 7);
}

#[test]
fn death_reaches_everybody() {
    let (lane, _worker, _) = pair(1);
    let pending = send(&lane, 1);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| pending.wait(soon(), &mut PrivateCopy::default()));
        lane.kill("SIGSEGV");
        assert_eq!(waiting.join().expect("thread"), Err(LaneError::Dead("SIGSEGV".into())));
    });
    assert!(matches!(lane.begin(soon()), Err(LaneError::Dead(_))));
}

#[test]
fn forged_completions_are_violations() {
    let forge = |sequence: u64, words: [u64; 4]| {
        let (lane, _worker, forger) = pair(2);
        let pending = send(&lane, 1);
        let at = lane.sequence(1);
        let nonce = if words[1] == 1 { lane.nonce(1) } else { words[1] };
        for (index, word) in [words[0], nonce, words[2], words[3]].into_iter().enumerate() {
            forger.store_u64(at + 8 + index * 8, word);
        }
        forger.store_u64(at, sequence);
        pending.wait(soon(), &mut PrivateCopy::default())
    };
    assert!(matches!(forge(3, [0, 1, 0, 0]), Err(LaneError::Violation(reason)) if reason.contains("sequence")));
    assert!(matches!(forge(1, [0, 77, 0, 0]), Err(LaneError::Violation(reason)) if reason.contains("nonce")));
    assert!(matches!(forge(1, [0, 1, 4097, 0]), Err(LaneError::Violation(reason)) if reason.contains("longer")));
    assert!(matches!(forge(1, [0, 1, u64::MAX, 0]), Err(LaneError::Violation(_))));
    assert!(matches!(forge(1, [256, 1, 0, 0]), Err(LaneError::Violation(reason)) if reason.contains("status")));
    assert!(forge(1, [255, 1, 4096, 0]).is_ok());
}

/// A lane whose loads from the plugin's region run `hook` first, which may write to it.
fn watched(depth: usize, hook: impl Fn(&OwnRegion, usize) + Send + Sync + 'static) -> (Arc<Lane>, Worker) {
    let layout = Layout::new(1, depth, 4096).expect("valid");
    let Ends { server, server_seen, plugin, plugin_seen, forger } = regions(layout.region_bytes());
    let plugin_seen = plugin_seen.before_each_load(move |offset| hook(&forger, offset));
    let lane = Lane::all(layout, server, plugin_seen, Spin::NEVER, &Traffic::default()).remove(0);
    (lane, Worker::all(server_seen, plugin).expect("header").remove(0))
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn each_word_of_an_answer_is_loaded_once() {
    let loads = Arc::new(Mutex::new(std::collections::HashMap::<usize, u32>::new()));
    let (lane, mut worker) = watched(2, {
        let loads = Arc::clone(&loads);
        move |_, offset| *held(&loads).entry(offset).or_default() += 1
    });
    let pending = send(&lane, 1);
    worker.serve_next(|call| {
        call.reply[..4096].fill(1);
        Completion { status: 0, payload: 4096, value: 0 }
    });
    held(&loads).clear();
    pending.wait(Instant::now(), &mut PrivateCopy::default()).expect("answer");
    let loads = held(&loads);
    let (descriptor, payload) = (lane.sequence(1), lane.layout.buffer(0, 1));
    let words = (descriptor..descriptor + 8 * (1 + DESCRIPTOR_WORDS)).chain(payload).step_by(8);
    let words: Vec<usize> = words.collect();
    assert_eq!(loads.len(), words.len(), "and no other word");
    assert!(words.iter().all(|word| loads.get(word) == Some(&1)), "{loads:?}");
}

#[test]
fn a_descriptor_that_changes_after_it_was_loaded_changes_nothing() {
    let descriptor = Layout::new(1, 1, 4096).expect("valid").sequence(0, 0);
    // As soon as the server goes on to the next word, the one before becomes impossible.
    let (lane, mut worker) = watched(1, move |forger, offset| {
        if (descriptor + 8..descriptor + 8 * (1 + DESCRIPTOR_WORDS)).contains(&offset) {
            forger.store_u64(offset - 8, u64::MAX);
        }
    });
    let pending = send(&lane, 9);
    worker.serve_next(echo);
    let mut reply = PrivateCopy::default();
    let completion = pending.wait(Instant::now(), &mut reply).expect("answer");
    assert_eq!((completion.status, completion.payload, completion.value), (0, 8, 9));
    assert_eq!(reply.bytes(), 9_u64.to_le_bytes());
}

#[test]
fn a_plugin_that_wakes_its_caller_for_nothing_is_no_longer_listened_to() {
    let looks = Arc::new(Mutex::new(0_u32));
    let (lane, mut worker) = watched(1, {
        let (looks, sequence) = (Arc::clone(&looks), Layout::new(1, 1, 4096).expect("valid").sequence(0, 0));
        move |_, offset| {
            if offset == sequence {
                *held(&looks) += 1;
            }
        }
    });
    let stop = AtomicBool::new(false);
    let patience = Duration::from_millis(400);
    thread::scope(|scope| {
        let storm = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                lane.peer.wake_waiters(lane.sequence(0));
            }
        });
        let pending = send(&lane, 1);
        *held(&looks) = 0;
        let ended = pending.wait(Instant::now() + patience, &mut PrivateCopy::default());
        assert_eq!(ended, Err(LaneError::Deadline));
        stop.store(true, Ordering::Relaxed);
        storm.join().expect("storm");
    });
    // Two loads a look. On a slow machine there are fewer.
    let heard = IDLE_LOOKS + patience.as_nanos() / NAP.as_nanos();
    let deaf = patience.as_nanos() / DEAF_NAP.as_nanos();
    let looks = *held(&looks);
    assert!(u128::from(looks / 2) <= heard + deaf + 4, "{looks} loads");
    worker.serve_next(echo);
}
