//! What a crash leaves: every write, change of length and sync is recorded, and the file as a crash at any moment may
//! leave it is opened again.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use photondb_plugin_redb::RedbEngine;
use photondb_plugin_sdk::prelude::*;
use redb::StorageBackend;

use crate::Verify;
use crate::blocks::{Blocks, Damage};
use crate::seal::{Key, Sealer, new_key};

/// One thing that was done to the file.
#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<u8>),
    Length(u64),
    Sync,
}

/// A file in memory that remembers what was done to it.
#[derive(Clone, Debug, Default)]
struct Recorder {
    bytes: Arc<Mutex<Vec<u8>>>,
    steps: Arc<Mutex<Vec<Step>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    fn holding(bytes: Vec<u8>) -> Self {
        Self { bytes: Arc::new(Mutex::new(bytes)), steps: Arc::default() }
    }

    fn record(&self, step: Step) {
        apply(&mut lock(&self.bytes), &step);
        lock(&self.steps).push(step);
    }

    fn so_far(&self) -> usize {
        lock(&self.steps).len()
    }
}

/// Does to a file what a step did. What lies behind its end is lost with the length that was.
fn apply(bytes: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Write(offset, data) => {
            let start = (*offset as usize).min(bytes.len());
            let end = (start + data.len()).min(bytes.len());
            bytes[start..end].copy_from_slice(&data[..end - start]);
        }
        Step::Length(length) => bytes.resize(*length as usize, 0),
        Step::Sync => {}
    }
}

impl StorageBackend for Recorder {
    fn len(&self) -> io::Result<u64> {
        Ok(lock(&self.bytes).len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = lock(&self.bytes);
        let found = bytes.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.record(Step::Length(length));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.record(Step::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        assert!(offset as usize + data.len() <= lock(&self.bytes).len(), "a write behind the end");
        self.record(Step::Write(offset, data.to_vec()));
        Ok(())
    }
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// A generator of the same numbers each time: xorshift (Marsaglia 2003).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }
}

/// What was acknowledged: how many steps were done then, and what the table held.
struct Acknowledged {
    steps: usize,
    is_hard: bool,
    model: Model,
}

/// A table is made, changed by soft and hard commits, and closed.
fn run(file: &Recorder, key: &Key, numbers: &mut Numbers) -> Vec<Acknowledged> {
    let db = crate::redb(Blocks::create(file.clone(), Sealer::new(key)), 1 << 20, Verify::No).expect("made");
    let engine = RedbEngine::over(db, PathBuf::new());
    engine.flush().expect("a flush");
    let mut model = Model::new();
    let mut said = vec![Acknowledged { steps: file.so_far(), is_hard: true, model: model.clone() }];
    for commit in 0..28_u8 {
        let mut batch = WriteBatch::default();
        // Enough that the file grows, and then little enough that it shrinks.
        let (most, bytes) = if commit < 14 { (60, 6_000) } else { (8, 300) };
        for _ in 0..1 + numbers.below(most) {
            let key = vec![b'k', numbers.below(120) as u8];
            if numbers.below(3) == 0 || commit >= 14 && numbers.below(4) != 0 {
                batch.delete("t", key.clone());
                model.remove(&key);
            } else {
                let value = vec![commit; numbers.below(bytes)];
                batch.put("t", key.clone(), value.clone());
                model.insert(key, value);
            }
        }
        let is_hard = numbers.below(2) == 0;
        engine.commit(&batch, if is_hard { Durability::Hard } else { Durability::Soft }).expect("committed");
        said.push(Acknowledged { steps: file.so_far(), is_hard, model: model.clone() });
    }
    drop(engine);
    said.push(Acknowledged { steps: file.so_far(), is_hard: false, model });
    said
}

/// Opens a file, and says what the table holds; commits and closes it as well.
fn reopened(file: &Recorder, key: &Key) -> Result<Model, String> {
    let damage = Damage::default();
    let told = |error: String| damage.get().cloned().unwrap_or(error);
    let blocks =
        Blocks::open(file.clone(), Sealer::new(key), Damage::clone(&damage)).map_err(|e| told(e.to_string()))?;
    let db = crate::redb(blocks, 1 << 20, Verify::No).map_err(|error| told(error.to_string()))?;
    let engine = RedbEngine::over(db, PathBuf::new());
    let read = || engine.snapshot()?.scan("t", &KeyRange::default(), Direction::Forward)?.collect();
    let entries: Result<Model, StorageError> = read();
    let mut batch = WriteBatch::default();
    batch.put("after", *b"k", vec![1; 20_000]);
    let goes_on = engine.commit(&batch, Durability::Hard);
    let entries = entries.and_then(|entries| goes_on.map(|()| entries));
    entries.map_err(|error| told(error.to_string()))
}

/// How a crash treats what was not on the disk yet.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Nothing,
    Everything,
    /// Any of it, in any order.
    Some,
    /// Only the beginning of the last write is there.
    Torn,
    /// Any of it, and of each write any of its sectors.
    TornSome,
}

const LOSSES: [Loss; 5] = [Loss::Nothing, Loss::Everything, Loss::Some, Loss::Torn, Loss::TornSome];

/// The file after a crash: what was synced, and of the rest what `loss` leaves.
fn crashed(synced: &[u8], rest: &[Step], loss: Loss, numbers: &mut Numbers) -> Vec<u8> {
    let mut bytes = synced.to_vec();
    for (at, step) in rest.iter().enumerate() {
        let is_last = at + 1 == rest.len();
        match (loss, step) {
            (Loss::Everything, _) => {}
            (Loss::Some | Loss::TornSome, _) if numbers.below(2) == 0 => {}
            (Loss::Torn, Step::Write(offset, data)) if is_last => {
                let torn = data[..numbers.below(data.len())].to_vec();
                apply(&mut bytes, &Step::Write(*offset, torn));
            }
            (Loss::TornSome, Step::Write(offset, data)) => {
                for (sector, part) in (0..).zip(data.chunks(512)) {
                    if numbers.below(3) > 0 {
                        apply(&mut bytes, &Step::Write(offset + sector * 512, part.to_vec()));
                    }
                }
            }
            _ => apply(&mut bytes, step),
        }
    }
    bytes
}

/// Checks every moment of one life of a table, or every `stride`-th one.
fn every_crash(seed: u64, stride: usize) -> usize {
    let (key, mut numbers) = (new_key().expect("a key"), Numbers(seed));
    let file = Recorder::default();
    let said = run(&file, &key, &mut numbers);
    let steps = lock(&file.steps).clone();
    let (mut synced, mut synced_steps, mut checked) = (Vec::new(), 0, 0);
    for end in 0..=steps.len() {
        if end > 0 && matches!(steps[end - 1], Step::Sync) {
            steps[synced_steps..end].iter().for_each(|step| apply(&mut synced, step));
            synced_steps = end;
        }
        // Before the first flush there is no table yet.
        if end < said[0].steps || !end.is_multiple_of(stride) {
            continue;
        }
        let hard = said.iter().rposition(|it| it.is_hard && it.steps <= end).expect("the first one");
        let last = said.iter().rposition(|it| it.steps <= end).expect("the first one");
        for loss in LOSSES {
            let image = crashed(&synced, &steps[synced_steps..end], loss, &mut numbers);
            let found = reopened(&Recorder::holding(image), &key);
            let found = found.unwrap_or_else(|error| panic!("seed {seed}, step {end}, {loss:?}: {error}"));
            // All that was acknowledged as hard, and of what came behind it a whole number of commits.
            let is_some = (hard..said.len().min(last + 2)).any(|at| said[at].model == found);
            assert!(is_some, "seed {seed}, step {end}, {loss:?}: neither commit {hard} nor a later one");
            checked += 1;
        }
    }
    checked
}

#[test]
fn no_crash_loses_what_was_acknowledged_or_leaves_half_of_anything() {
    let mut checked = 0;
    for seed in 1..=4 {
        checked += every_crash(seed * 0x9e37_79b9, 3);
    }
    assert!(checked > 500, "only {checked} crashes");
}

#[test]
fn a_crash_while_a_crash_is_mended_is_mended() {
    let (key, mut numbers) = (new_key().expect("a key"), Numbers(77));
    let file = Recorder::default();
    let said = run(&file, &key, &mut numbers);
    let steps = lock(&file.steps).clone();
    // Cut in the middle of the writes behind the last hard commit but one.
    let end = said.iter().rev().filter(|it| it.is_hard).nth(1).expect("some hard ones").steps + 3;
    let mut image = Vec::new();
    steps[..end].iter().for_each(|step| apply(&mut image, step));
    let first = Recorder::holding(image.clone());
    let expected = reopened(&first, &key).expect("opens");
    let mending = lock(&first.steps).clone();
    let (mut synced, mut synced_steps) = (image, 0);
    for end in 0..=mending.len() {
        if end > 0 && matches!(mending[end - 1], Step::Sync) {
            mending[synced_steps..end].iter().for_each(|step| apply(&mut synced, step));
            synced_steps = end;
        }
        for loss in LOSSES {
            let image = crashed(&synced, &mending[synced_steps..end], loss, &mut numbers);
            let found = reopened(&Recorder::holding(image), &key);
            assert_eq!(found.as_ref(), Ok(&expected), "step {end}, {loss:?}");
        }
    }
}
