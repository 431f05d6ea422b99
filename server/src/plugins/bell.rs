//! Calls of plugins that tasks await: an event loop can't sleep on a word of shared memory, so the plugin rings
//! (`photondb_ipc_schema::lane`, module `task`).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use photondb_ipc_schema::lane::{Completion, Draft, Lane, LaneError, Listening, NAP, Pending};
use photondb_ipc_schema::region::PrivateCopy;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::Notify;
use tokio::time::{sleep, sleep_until, timeout_at};

/// How often one call may be told to look for nothing before it no longer listens: an honest plugin with 64 calls in
/// flight tells it 64 times.
const IDLE_LOOKS: u128 = 256;
/// How often a call looks that no longer listens.
const DEAF_NAP: Duration = Duration::from_millis(2);

/// The server's end of one plugin's bell.
#[derive(Debug)]
pub(super) struct Bell {
    /// Until the first task listens: the pipe belongs to that one's event loop.
    silent: Mutex<Option<OwnedFd>>,
    pipe: OnceLock<Receiver>,
    /// Whoever empties the pipe has taken the bytes that were meant for the others.
    emptied: Notify,
}

impl Bell {
    /// A bell, and the plugin's end of it.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub(super) fn new() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) = io::pipe()?;
        let theirs = OwnedFd::from(theirs);
        // A full pipe says all that there is to be said: its worker must not wait for us.
        fcntl(&theirs, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let silent = Mutex::new(Some(ours.into()));
        Ok((Self { silent, pipe: OnceLock::new(), emptied: Notify::new() }, theirs))
    }

    fn pipe(&self) -> io::Result<&Receiver> {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipe) = silent.take() {
            let pipe = Receiver::from_owned_fd(pipe)?;
            self.pipe.get_or_init(|| pipe);
        }
        self.pipe.get().ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// Waits until somebody rings, the pipe was emptied by another one (`emptied`), or `until`.
    async fn heard(&self, emptied: impl Future<Output = ()>, until: Instant) -> io::Result<()> {
        let pipe = self.pipe()?;
        tokio::select! {
            () = emptied => {}
            ready = pipe.readable() => {
                ready?;
                let mut rings = [0; 1024];
                let read = loop {
                    match pipe.try_read(&mut rings) {
                        Ok(read) if read == rings.len() => {}
                        other => break other,
                    }
                };
                self.emptied.notify_waiters();
                if matches!(read, Ok(0)) {
                    // The process is gone, which its lanes will tell in a moment.
                    sleep(DEAF_NAP).await;
                }
            }
            () = sleep_until(until.into()) => {}
        }
        Ok(())
    }
}

/// Waits for a slot of a lane, in the order of all who do.
///
/// # Errors
/// [`LaneError::Full`] or [`LaneError::Dead`].
pub(super) async fn begin(lane: &Arc<Lane>, deadline: Instant) -> Result<Draft, LaneError> {
    let mut begin = lane.begin_task();
    loop {
        let until = deadline.min(Instant::now() + NAP);
        match timeout_at(until.into(), &mut begin).await {
            Ok(begun) => return begun,
            Err(_) if Instant::now() >= deadline => return Err(LaneError::Full),
            Err(_) => {}
        }
    }
}

/// Waits for the answer to a call.
///
/// # Errors
/// [`LaneError`]; the call is cancelled then.
pub(super) async fn answer(
    bell: Option<&Bell>,
    pending: Pending,
    deadline: Instant,
    reply: &mut PrivateCopy,
) -> Result<Completion, LaneError> {
    let mut call = match pending.listen(reply)? {
        Listening::Answered(completion) => return Ok(completion),
        Listening::ForBell(call) => call,
    };
    let (start, mut looks) = (Instant::now(), 0);
    loop {
        let emptied = bell.map(|bell| bell.emptied.notified());
        let mut emptied = std::pin::pin!(emptied);
        // From here on, and not only from its first poll: the look comes between.
        if let Some(emptied) = emptied.as_mut().as_pin_mut() {
            emptied.enable();
        }
        if let Some(completion) = call.look(reply)? {
            return Ok(completion);
        }
        let now = Instant::now();
        if now >= deadline {
            return Err(LaneError::Deadline);
        }
        looks += 1;
        let until = deadline.min(now + NAP);
        let is_listening = looks <= IDLE_LOOKS + (now - start).as_nanos() / NAP.as_nanos();
        let heard = match (bell, emptied.as_pin_mut()) {
            (Some(bell), Some(emptied)) if is_listening => bell.heard(emptied, until).await.is_ok(),
            _ => false,
        };
        if !heard {
            // Told again and again for nothing, or without a bell: from now on only the clock tells.
            sleep_until(until.min(now + DEAF_NAP).into()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::thread;

    use photondb_ipc_schema::descriptors::Bell as Theirs;
    use photondb_ipc_schema::lane::{Call, Operation, Traffic, Worker};
    use photondb_ipc_schema::layout::Layout;
    use photondb_ipc_schema::region::{self, OwnRegion, TrustedRegion};
    use photondb_ipc_schema::wake::Spin;

    use super::*;

    /// A lane on which nobody spins, with a worker that rings, and the bell.
    fn ends(depth: usize) -> (Arc<Lane>, Worker, Bell, Arc<Theirs>) {
        let layout = Layout::new(1, depth, 4096).expect("valid");
        let (own, own_fd) = region::server_written("own", layout.region_bytes()).expect("memory");
        let (peer, peer_fd) = region::plugin_written("peer", layout.region_bytes()).expect("memory");
        let lane = Lane::all(layout, own, peer, Spin::NEVER, &Traffic::default()).remove(0);
        let server = TrustedRegion::map(own_fd.as_fd(), layout.region_bytes()).expect("map");
        let plugin = OwnRegion::map(peer_fd.as_fd(), layout.region_bytes()).expect("map");
        let (bell, theirs) = Bell::new().expect("a pipe");
        let theirs = Arc::new(Theirs::new(theirs));
        let worker = Worker::all(server, plugin).expect("header").remove(0).with_bell(Arc::clone(&theirs));
        (lane, worker, bell, theirs)
    }

    fn echo(call: Call<'_>) -> Completion {
        Completion { status: 0, payload: 0, value: call.request.argument }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    async fn call(lane: &Arc<Lane>, bell: Option<&Bell>, argument: u64) -> Result<u64, LaneError> {
        let pending = begin(lane, soon()).await?.send(Operation::Nop, 0, 0, argument);
        Ok(answer(bell, pending, soon(), &mut PrivateCopy::default()).await?.value)
    }

    /// As many tasks as calls, on an event loop of one thread, over fewer slots.
    async fn calls(lane: &Arc<Lane>, bell: Option<&Bell>, count: u64) {
        let answers = futures(count, |argument| call(lane, bell, argument)).await;
        assert_eq!(answers.into_iter().collect::<Result<Vec<_>, _>>(), Ok((0..count).collect()));
    }

    /// Polls all of them until all have ended.
    async fn futures<T, F: Future<Output = T>>(count: u64, make: impl Fn(u64) -> F) -> Vec<T> {
        let mut running: Vec<_> = (0..count).map(|number| Box::pin(make(number))).collect();
        let mut ended: Vec<Option<T>> = running.iter().map(|_| None).collect();
        std::future::poll_fn(|context| {
            for (future, ended) in running.iter_mut().zip(&mut ended) {
                if ended.is_none()
                    && let std::task::Poll::Ready(value) = future.as_mut().poll(context)
                {
                    *ended = Some(value);
                }
            }
            if ended.iter().all(Option::is_some) { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        ended.into_iter().flatten().collect()
    }

    #[tokio::test]
    async fn tasks_get_their_answers_and_share_the_slots() {
        let (lane, mut worker, bell, _theirs) = ends(2);
        let worker = thread::spawn(move || (0..500).for_each(|_| worker.serve_next(echo)));
        calls(&lane, Some(&bell), 500).await;
        worker.join().expect("worker");
        assert_eq!(lane.in_flight(), 0);
    }

    #[tokio::test]
    async fn without_a_bell_answers_are_found_all_the_same() {
        let (lane, mut worker, _, _theirs) = ends(2);
        let worker = thread::spawn(move || (0..5).for_each(|_| worker.serve_next(echo)));
        calls(&lane, None, 5).await;
        worker.join().expect("worker");
    }

    #[tokio::test]
    async fn a_bell_that_never_stops_holds_nobody_up() {
        let (lane, mut worker, bell, theirs) = ends(2);
        let flood = thread::spawn(move || {
            // Until the server's end is gone.
            while Arc::strong_count(&theirs) > 1 {
                (0..1000).for_each(|_| theirs.ring());
            }
        });
        let worker = thread::spawn(move || (0..20).for_each(|_| worker.serve_next(echo)));
        calls(&lane, Some(&bell), 20).await;
        worker.join().expect("worker");
        flood.join().expect("flood");
    }

    #[tokio::test]
    async fn a_call_ends_at_its_deadline_and_with_its_lane() {
        let (lane, _worker, bell, _theirs) = ends(1);
        let pending = begin(&lane, soon()).await.expect("slot").send(Operation::Nop, 0, 0, 0);
        let late = answer(Some(&bell), pending, Instant::now(), &mut PrivateCopy::default()).await;
        assert_eq!(late, Err(LaneError::Deadline));
        assert_eq!(begin(&lane, Instant::now()).await.err(), Some(LaneError::Full));
        let (lane, _worker, bell, _theirs) = ends(1);
        let pending = begin(&lane, soon()).await.expect("slot").send(Operation::Nop, 0, 0, 0);
        let mut reply = PrivateCopy::default();
        let (answered, began, ()) =
            tokio::join!(answer(Some(&bell), pending, soon(), &mut reply), begin(&lane, soon()), async {
                lane.kill("gone")
            });
        assert_eq!(answered, Err(LaneError::Dead("gone".into())));
        assert_eq!(began.err(), Some(LaneError::Dead("gone".into())));
    }
}
