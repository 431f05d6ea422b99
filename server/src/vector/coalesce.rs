//! Searches of several clients join into one batch, where they would otherwise wait.
//!
//! As many searches of an index run at a time as its plugin has slots for calls; where the answer is an exact scan, as many
//! as keep the cores busy. Who comes while fewer run starts at once and
//! waits for nobody; who comes later waits, and when a search ends, its share of those who wait runs as one batch: one
//! message instead of many, or one pass over the vectors where the answer is an exact scan. The first of them to have
//! come runs it on its own thread, so that nobody whose answer is there works for others.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use photondb_plugin_sdk::{Datum, PluginError};

use super::plan::Plan;
use super::scan::Scored;

/// Larger searches are batches already, and run on their own.
const MOST_QUERIES: usize = 16;
/// The most queries of a batch that searches were joined into: others should not wait for long.
const MOST_JOINED: usize = 256;

/// For each query its rows, and how they were found.
pub(super) type Answer = Result<(Vec<Vec<Scored>>, Plan), PluginError>;

/// What searches have to have in common to be joined.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kind {
    /// Rows for each query.
    pub(super) k: usize,
    /// The index kind's search settings.
    pub(super) settings: Datum,
}

/// The searches of one index that run and that wait.
#[derive(Debug, Default)]
pub(super) struct Coalescer {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    waiting: VecDeque<Arc<Party>>,
}

/// A search that waits.
#[derive(Debug)]
struct Party {
    kind: Kind,
    queries: Vec<f32>,
    count: usize,
    deadline: Instant,
    /// Changed while the coalescer's lock is held.
    turn: Mutex<Turn>,
    changed: Condvar,
}

#[derive(Debug)]
enum Turn {
    Waits,
    /// It runs, with these others.
    Leads(Vec<Arc<Party>>),
    /// Somebody else runs it.
    Joined,
    Answered(Answer),
    /// Who ran it is gone without an answer.
    Left,
}

impl Coalescer {
    /// Answers `queries`, `count` vectors, by `search`, alone or with others of the same kind. At most `places` searches
    /// run at a time. `search` is given the queries and until when somebody waits for the answer, which it must not
    /// exceed. `None` if the deadline passes first.
    pub(super) fn search(
        &self,
        kind: &Kind,
        (queries, count): (&[f32], usize),
        deadline: Instant,
        places: usize,
        search: impl Fn(&[f32], Instant) -> Answer,
    ) -> Option<Answer> {
        if count > MOST_QUERIES {
            return Some(search(queries, deadline));
        }
        let party = {
            let mut state = self.lock();
            if state.running < places {
                state.running += 1;
                drop(state);
                let _place = Place { coalescer: self, places, others: Vec::new() };
                return Some(search(queries, deadline));
            }
            let party = Arc::new(Party {
                kind: kind.clone(),
                queries: queries.to_vec(),
                count,
                deadline,
                turn: Mutex::new(Turn::Waits),
                changed: Condvar::new(),
            });
            state.waiting.push_back(Arc::clone(&party));
            party
        };
        match self.wait(&party)? {
            ControlFlow::Break(answer) => Some(answer.unwrap_or_else(|| search(queries, deadline))),
            ControlFlow::Continue(others) => {
                let place = Place { coalescer: self, places, others };
                if place.others.is_empty() {
                    return Some(search(queries, deadline));
                }
                let mut all = party.queries.clone();
                place.others.iter().for_each(|other| all.extend_from_slice(&other.queries));
                let latest = place.others.iter().map(|other| other.deadline).fold(deadline, Instant::max);
                Some(place.share(count, search(&all, latest)))
            }
        }
    }

    /// What became of a search that waits: its answer, if there is one, or its turn to run, with others. `None` if its
    /// deadline passes first.
    fn wait(&self, party: &Arc<Party>) -> Option<ControlFlow<Option<Answer>, Vec<Arc<Party>>>> {
        let mut turn = lock(&party.turn);
        loop {
            match std::mem::replace(&mut *turn, Turn::Joined) {
                Turn::Answered(answer) => return Some(ControlFlow::Break(Some(answer))),
                Turn::Left => return Some(ControlFlow::Break(None)),
                Turn::Leads(others) => return Some(ControlFlow::Continue(others)),
                unchanged => *turn = unchanged,
            }
            let left = party.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                drop(turn);
                return self.give_up(party);
            }
            turn = party.changed.wait_timeout(turn, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Leaves the queue. Whose turn has come meanwhile passes it on.
    fn give_up<T>(&self, party: &Arc<Party>) -> Option<T> {
        let mut state = self.lock();
        state.waiting.retain(|waiting| !Arc::ptr_eq(waiting, party));
        let turn = std::mem::replace(&mut *lock(&party.turn), Turn::Joined);
        drop(state);
        if let Turn::Leads(others) = turn {
            drop(Place { coalescer: self, places: 1, others });
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    /// The next that run together, in order of arrival: of those that wait a share for each place.
    fn next(&mut self, places: usize) -> Option<(Arc<Party>, Vec<Arc<Party>>)> {
        let share = self.waiting.len().div_ceil(places.max(1));
        let first = self.waiting.pop_front()?;
        let mut queries = first.count;
        let mut others = Vec::new();
        self.waiting.retain(|party| {
            let joins = others.len() + 1 < share && party.kind == first.kind && queries + party.count <= MOST_JOINED;
            if joins {
                queries += party.count;
                others.push(Arc::clone(party));
            }
            !joins
        });
        Some((first, others))
    }
}

/// The right to run a search. Whoever is next gets it when it is dropped.
struct Place<'a> {
    coalescer: &'a Coalescer,
    places: usize,
    /// Those whose searches run here too, and who have no answer yet.
    others: Vec<Arc<Party>>,
}

impl Place<'_> {
    /// Gives the others their parts of an answer, of which the first `own` queries are the caller's.
    fn share(mut self, own: usize, answer: Answer) -> Answer {
        let (mut found, plan) = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.others.drain(..).for_each(|other| other.tell(Turn::Answered(Err(error.clone()))));
                return Err(error);
            }
        };
        let mut rest = found.split_off(own.min(found.len())).into_iter();
        for other in self.others.drain(..) {
            let part = rest.by_ref().take(other.count).collect();
            other.tell(Turn::Answered(Ok((part, plan.clone()))));
        }
        Ok((found, plan))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.others.drain(..).for_each(|other| other.tell(Turn::Left));
        let mut state = self.coalescer.lock();
        match state.next(self.places) {
            Some((first, others)) => {
                others.iter().for_each(|other| *lock(&other.turn) = Turn::Joined);
                first.tell(Turn::Leads(others));
            }
            None => state.running -= 1,
        }
    }
}

impl Party {
    fn tell(&self, turn: Turn) {
        *lock(&self.turn) = turn;
        self.changed.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    fn kind(k: usize) -> Kind {
        Kind { k, settings: Datum::Null }
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    /// A query's number is its row.
    fn found(queries: &[f32]) -> Answer {
        let rows = queries.iter().map(|&query| vec![Scored { distance: query, row: query as u32 }]);
        Ok((rows.collect(), Plan::Graph { pending: 0 }))
    }

    fn rows(answer: Option<Answer>) -> Vec<u32> {
        answer.expect("in time").expect("found").0.into_iter().map(|rows| rows[0].row).collect()
    }

    impl Coalescer {
        fn until_waiting(&self, parties: usize) {
            while self.lock().waiting.len() < parties {
                thread::yield_now();
            }
        }

        /// Holds the only place until the sender is dropped, runs `meanwhile`, and returns what it returns.
        fn while_busy<T>(&self, meanwhile: impl FnOnce(mpsc::Sender<()>) -> T) -> T {
            let (sender, receiver) = mpsc::channel::<()>();
            let (started, has_started) = mpsc::channel();
            thread::scope(|scope| {
                scope.spawn(move || {
                    self.search(&kind(1), (&[0.0], 1), soon(), 1, |queries, _| {
                        started.send(()).expect("somebody waits");
                        let _ = receiver.recv();
                        found(queries)
                    })
                });
                has_started.recv().expect("it starts");
                meanwhile(sender)
            })
        }
    }

    #[test]
    fn nobody_waits_where_there_is_a_place() {
        let coalescer = Coalescer::default();
        coalescer.while_busy(|_busy| {
            let answer = coalescer.search(&kind(1), (&[7.0], 1), soon(), 2, |queries, _| found(queries));
            assert_eq!(rows(answer), [7]);
            let batch = [3.0; MOST_QUERIES + 1];
            let answer = coalescer.search(&kind(1), (&batch, batch.len()), soon(), 1, |queries, _| found(queries));
            assert_eq!(rows(answer).len(), batch.len(), "a large batch needs no place");
        });
        assert_eq!(coalescer.lock().running, 0);
    }

    #[test]
    fn those_who_wait_are_answered_together() {
        let (coalescer, calls) = (Coalescer::default(), AtomicUsize::new(0));
        let latest = soon() + Duration::from_secs(20);
        thread::scope(|scope| {
            let parties = coalescer.while_busy(|busy| {
                let parties: Vec<_> = (1..=6_u8)
                    .map(|party| {
                        let (coalescer, calls) = (&coalescer, &calls);
                        let k = if party == 3 { 4 } else { 5 };
                        let deadline = if party == 6 { latest } else { soon() };
                        let handle = scope.spawn(move || {
                            let queries = vec![f32::from(party); usize::from(party)];
                            let answer =
                                coalescer.search(&kind(k), (&queries, queries.len()), deadline, 1, |queries, until| {
                                    calls.fetch_add(1, Ordering::Relaxed);
                                    if k == 5 {
                                        assert_eq!(until, latest, "somebody waits until then");
                                    }
                                    found(queries)
                                });
                            (party, rows(answer))
                        });
                        coalescer.until_waiting(usize::from(party));
                        handle
                    })
                    .collect();
                drop(busy);
                parties
            });
            for party in parties {
                let (party, rows) = party.join().expect("no panic");
                assert_eq!(rows, vec![u32::from(party); usize::from(party)]);
            }
        });
        assert_eq!(calls.load(Ordering::Relaxed), 2, "one call for each kind");
        assert_eq!(coalescer.lock().running, 0);
    }

    #[test]
    fn an_error_is_everybodys_and_a_panic_only_the_leaders() {
        for panics in [false, true] {
            let coalescer = Coalescer::default();
            let refused = || PluginError::argument("ef is too large");
            thread::scope(|scope| {
                let parties = coalescer.while_busy(|busy| {
                    let parties = [1_u8, 2, 3].map(|party| {
                        let coalescer = &coalescer;
                        let handle = scope.spawn(move || {
                            let query = [f32::from(party)];
                            coalescer.search(&kind(1), (&query, 1), soon(), 1, |queries, _| match queries.len() {
                                3 if panics => panic!("as this test wants"),
                                3 => Err(refused()),
                                _ => found(queries),
                            })
                        });
                        coalescer.until_waiting(usize::from(party));
                        handle
                    });
                    drop(busy);
                    parties
                });
                for (party, handle) in (1..).zip(parties) {
                    match handle.join() {
                        Err(_) => assert!(panics && party == 1),
                        Ok(answer) if panics => assert_eq!(rows(answer), [party]),
                        Ok(answer) => assert_eq!(answer.expect("in time").expect_err("refused"), refused()),
                    }
                }
            });
            assert_eq!(coalescer.lock().running, 0);
        }
    }

    #[test]
    fn who_waits_too_long_leaves() {
        let coalescer = Coalescer::default();
        coalescer.while_busy(|_busy| {
            let past = Instant::now();
            assert!(coalescer.search(&kind(1), (&[1.0], 1), past, 1, |_, _| unreachable!("no turn")).is_none());
            assert!(coalescer.lock().waiting.is_empty());
        });
        assert_eq!(coalescer.lock().running, 0);
    }

    #[test]
    fn a_place_takes_its_share_of_those_who_wait() {
        let party = |count| {
            Arc::new(Party {
                kind: kind(1),
                queries: vec![0.0; count],
                count,
                deadline: soon(),
                turn: Mutex::new(Turn::Waits),
                changed: Condvar::new(),
            })
        };
        let mut state = State { running: 2, waiting: (0..5).map(|_| party(1)).collect() };
        let joined = |state: &mut State| state.next(2).map(|(_, others)| 1 + others.len());
        assert_eq!(
            [joined(&mut state), joined(&mut state), joined(&mut state), joined(&mut state)],
            [Some(3), Some(1), Some(1), None]
        );
        state.waiting = (0..40).map(|_| party(MOST_QUERIES)).collect();
        assert_eq!(joined(&mut state), Some(MOST_JOINED / MOST_QUERIES), "a batch has its bounds");
    }
}
