//! A call that does nothing through a lane, in each of the three ways to wait, beside the least that the machine can do
//! the same way: `cargo bench -p photondb-ipc-schema`.
//!
//! | tier | baseline |
//! |---|---|
//! | hot: both ends awake on two cores | 64 bytes there and back in shared memory, by spinning |
//! | warm: both ends on one core | the same, by a futex: each side wakes the other and sleeps |
//! | cold: both ends asleep on two cores before every call | the same with two cores |
//!
//! Both ends are threads of this process, pinned, since the cost of a lane does not depend on whose pages it lies in;
//! `server/benches/ipc.rs` calls real confined processes.

use std::hint::black_box;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use std::{hint, thread};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use photondb_ipc_schema::lane::{Completion, Lane, Operation, Traffic, Worker};
use photondb_ipc_schema::layout::Layout;
use photondb_ipc_schema::region::{
    OwnRegion, PrivateCopy, TrustedRegion, UntrustedRegion, plugin_written, server_written,
};
use photondb_ipc_schema::wake::Spin;

const ROUNDS: usize = 15;
const WARM_UP: usize = 2000;
/// Longer than anybody spins.
const GAP: Duration = Duration::from_millis(1);

fn main() {
    compare("hot", 30_000, Duration::ZERO, [0, 1], spin_ping_pong);
    compare("warm", 20_000, Duration::ZERO, [0, 0], futex_ping_pong);
    compare("cold", 200, GAP, [0, 1], futex_ping_pong);
}

/// Times of the calls of one round: what half of them did not exceed, and 99 of 100.
type Round = (f64, f64);

fn compare(
    tier: &str,
    calls: usize,
    gap: Duration,
    cores: [usize; 2],
    baseline: fn(usize, Duration, [usize; 2]) -> Round,
) {
    let mut rounds: Vec<(Round, Round)> =
        (0..ROUNDS).map(|_| (baseline(calls, gap, cores), lane(calls, gap, cores))).collect();
    rounds.sort_by(|a, b| (a.1.0 / a.0.0).total_cmp(&(b.1.0 / b.0.0)));
    let ratio = |at: usize| rounds[at].1.0 / rounds[at].0.0;
    let ((base, _), (p50, p99)) = rounds[ROUNDS / 2];
    println!(
        "{tier}: lane p50 {p50:.0} ns, p99 {p99:.0} ns; baseline p50 {base:.0} ns; ratio {:.2} [{:.2} - {:.2}]",
        ratio(ROUNDS / 2),
        ratio(0),
        ratio(ROUNDS - 1)
    );
}

fn pin(core: usize) {
    let mut cores = CpuSet::new();
    if cores.set(core).and_then(|()| sched_setaffinity(Pid::from_raw(0), &cores)).is_err() {
        println!("not pinned: core {core} is not ours");
    }
}

/// Calls that don't count.
fn warm_up(gap: Duration) -> usize {
    if gap.is_zero() { WARM_UP } else { 10 }
}

fn time(calls: usize, gap: Duration, mut call: impl FnMut()) -> Round {
    (0..warm_up(gap)).for_each(|_| call());
    let mut taken = Vec::with_capacity(calls);
    for _ in 0..calls {
        if !gap.is_zero() {
            thread::sleep(gap);
        }
        let start = Instant::now();
        call();
        taken.push(start.elapsed().as_nanos() as f64);
    }
    taken.sort_by(f64::total_cmp);
    (taken[calls / 2], taken[calls * 99 / 100])
}

fn lane(calls: usize, gap: Duration, cores: [usize; 2]) -> Round {
    let layout = Layout::new(1, 8, 4096).expect("valid");
    let len = layout.region_bytes();
    let (own, own_fd) = server_written("bench", len).expect("memory");
    let (peer, peer_fd) = plugin_written("bench", len).expect("memory");
    let lane = Lane::all(layout, own, peer, Spin::for_this_machine(), &Traffic::default()).remove(0);
    let trusted = TrustedRegion::map(own_fd.as_fd(), len).expect("map");
    let mut worker =
        Worker::all(trusted, OwnRegion::map(peer_fd.as_fd(), len).expect("map")).expect("header").remove(0);
    let total = calls + warm_up(gap);
    thread::scope(|scope| {
        scope.spawn(move || {
            pin(cores[1]);
            for _ in 0..total {
                worker.serve_next(|call| Completion { status: 0, payload: 0, value: call.request.argument });
            }
        });
        scope
            .spawn(|| {
                pin(cores[0]);
                let deadline = Instant::now() + Duration::from_secs(60);
                time(calls, gap, || {
                    let pending = lane.begin(deadline).expect("slot").send(Operation::Nop, 0, 0, 7);
                    black_box(pending.wait(deadline, &mut PrivateCopy::default()).expect("answer"));
                })
            })
            .join()
            .expect("a round")
    })
}

/// A region that one side writes and the other one reads: a sequence word, and 64 bytes in a line of their own.
struct Mailbox {
    own: OwnRegion,
    seen: UntrustedRegion,
}

impl Mailbox {
    const PAYLOAD: usize = 128;

    fn new() -> Self {
        let (seen, fd) = plugin_written("mailbox", 4096).expect("memory");
        Self { own: OwnRegion::map(fd.as_fd(), 4096).expect("map"), seen }
    }

    fn send(&self, number: u64) {
        (0..8).for_each(|word| self.own.store_u64(Self::PAYLOAD + word * 8, number));
        self.own.store_u64(0, number);
    }

    fn receive(&self) {
        for word in 0..8 {
            black_box(self.seen.load_u64(Self::PAYLOAD + word * 8));
        }
    }

    fn spin(&self, number: u64) {
        while self.seen.load_u64(0) != number {
            hint::spin_loop();
        }
        self.receive();
    }

    fn sleep(&self, number: u64) {
        while self.seen.load_u64(0) != number {
            self.seen.wait(0, (number - 1) as u32, Duration::from_secs(1));
        }
        self.receive();
    }
}

fn spin_ping_pong(calls: usize, gap: Duration, cores: [usize; 2]) -> Round {
    ping_pong(calls, gap, cores, Mailbox::send, Mailbox::spin)
}

/// Each side wakes the other, and sleeps.
fn futex_ping_pong(calls: usize, gap: Duration, cores: [usize; 2]) -> Round {
    let send = |mailbox: &Mailbox, number| {
        mailbox.send(number);
        mailbox.own.wake(0);
    };
    ping_pong(calls, gap, cores, send, Mailbox::sleep)
}

fn ping_pong(
    calls: usize,
    gap: Duration,
    cores: [usize; 2],
    send: fn(&Mailbox, u64),
    receive: fn(&Mailbox, u64),
) -> Round {
    let mailboxes = [Mailbox::new(), Mailbox::new()];
    let total = (calls + warm_up(gap)) as u64;
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(cores[1]);
            for number in 1..=total {
                receive(&mailboxes[0], number);
                send(&mailboxes[1], number);
            }
        });
        let caller = scope.spawn(|| {
            pin(cores[0]);
            let mut number = 0;
            time(calls, gap, || {
                number += 1;
                send(&mailboxes[0], number);
                receive(&mailboxes[1], number);
            })
        });
        caller.join().expect("a round")
    })
}
