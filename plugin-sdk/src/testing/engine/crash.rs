//! What is left of an engine whose process ends in the middle of its work.
//!
//! One process [writes](write()) and tells of each step that was acknowledged; somebody ends it, at any point, or lets a
//! system call of it fail; another one opens the engine again and [checks](check) that it holds what it held after some
//! step: none before the last hard one that was acknowledged, and nothing of a half.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use crate::kinds::storage::{Direction, Durability, KeyRange, StorageEngine, StorageError, WriteBatch};

/// How many steps there are.
pub const STEPS: u32 = 48;

const KEYSPACES: [&str; 3] = ["first", "second", "third"];

/// What becomes of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// It has begun.
    Begun,
    /// It is done, and on the disk.
    Hard,
    /// It is done, in memory.
    Soft,
    /// It failed, and changed nothing. Nothing follows.
    Failed,
    /// It may be done. Nothing follows.
    Unknown,
}

enum Step {
    Commit(WriteBatch, Durability),
    Flush,
    Drop(&'static str),
}

fn step(number: u32) -> Step {
    match number {
        20 | 37 => Step::Flush,
        25 => Step::Drop(KEYSPACES[2]),
        _ => Step::Commit(batch(number), if number.is_multiple_of(3) { Durability::Soft } else { Durability::Hard }),
    }
}

/// Changes in all keyspaces: keys that come, change and go; sometimes more than a sector, a page or a block of any engine,
/// also of one that compresses.
fn batch(number: u32) -> WriteBatch {
    let mut batch = WriteBatch::default();
    let bytes = match number % 7 {
        0 => 70_000,
        4 => 3_000,
        _ => 40,
    };
    let value = noise(number, bytes);
    for keyspace in KEYSPACES {
        batch.put(keyspace, *b"last", number.to_be_bytes());
        batch.put(keyspace, (number % 11).to_be_bytes(), value.clone());
        batch.put(keyspace, [b"n", &number.to_be_bytes()[..]].concat(), vec![number as u8; 200]);
        batch.delete(keyspace, (number.wrapping_mul(5) % 11).to_be_bytes());
    }
    batch
}

/// Bytes that nothing makes shorter, the same each time.
fn noise(seed: u32, bytes: usize) -> Vec<u8> {
    let mut state = u64::from(seed);
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

/// Goes through all steps of an engine that is new, and tells of each.
pub fn write(engine: &dyn StorageEngine, tell: &mut dyn FnMut(u32, Told)) {
    for number in 1..=STEPS {
        tell(number, Told::Begun);
        let step = step(number);
        let is_commit = matches!(step, Step::Commit(..));
        let (outcome, done) = match step {
            Step::Commit(batch, durability) => {
                let done = if durability == Durability::Hard { Told::Hard } else { Told::Soft };
                (engine.commit(&batch, durability), done)
            }
            Step::Flush => (engine.flush(), Told::Hard),
            Step::Drop(keyspace) => (engine.drop_keyspace(keyspace), Told::Soft),
        };
        match outcome {
            Ok(()) => tell(number, done),
            // Of commits alone it is promised that a failure changed nothing.
            Err(error) => {
                let is_known = is_commit && !matches!(error, StorageError::Unknown(_));
                return tell(number, if is_known { Told::Failed } else { Told::Unknown });
            }
        }
    }
}

type Content = BTreeMap<(&'static str, Vec<u8>), Vec<u8>>;

/// What an engine holds after so many steps.
fn content_after(steps: u32) -> Content {
    let mut content = Content::new();
    for number in 1..=steps {
        match step(number) {
            Step::Commit(batch, _) => {
                for change in batch.changes {
                    let keyspace = KEYSPACES.into_iter().find(|known| **known == *change.keyspace);
                    let key = (keyspace.unwrap_or_default(), change.key);
                    match change.value {
                        Some(value) => drop(content.insert(key, value)),
                        None => drop(content.remove(&key)),
                    }
                }
            }
            Step::Flush => {}
            Step::Drop(dropped) => content.retain(|(keyspace, _), _| *keyspace != dropped),
        }
    }
    content
}

/// After how many steps an engine may be, of whose steps this was told, in order.
#[must_use]
pub fn possible(told: &[(u32, Told)]) -> RangeInclusive<u32> {
    let last = |wanted: &[Told]| {
        let found = told.iter().rev().find(|(_, told)| wanted.contains(told));
        found.map_or(0, |(number, _)| *number)
    };
    let failed = last(&[Told::Failed]);
    let most = last(&[Told::Begun]);
    last(&[Told::Hard])..=if failed == most { most.saturating_sub(1) } else { most }
}

/// Checks that an engine holds what it held after one of so many steps.
///
/// # Errors
/// With what it holds instead.
pub fn check(engine: &dyn StorageEngine, possible: RangeInclusive<u32>) -> Result<(), String> {
    let mut found = Content::new();
    let snapshot = engine.snapshot().map_err(|error| error.to_string())?;
    for keyspace in KEYSPACES {
        let entries = snapshot.scan(keyspace, &KeyRange::default(), Direction::Forward);
        for entry in entries.map_err(|error| error.to_string())? {
            let (key, value) = entry.map_err(|error| format!("{keyspace}: {error}"))?;
            found.insert((keyspace, key), value);
        }
    }
    if possible.clone().any(|steps| content_after(steps) == found) {
        return Ok(());
    }
    let lasts: Vec<String> = KEYSPACES
        .iter()
        .map(|keyspace| match found.get(&(keyspace, b"last".to_vec())) {
            Some(number) => {
                format!("{keyspace} is after step {}", u32::from_be_bytes(number[..].try_into().unwrap_or_default()))
            }
            None => format!("{keyspace} is after no step"),
        })
        .collect();
    let is_any = (0..=STEPS).find(|&steps| content_after(steps) == found);
    Err(match is_any {
        Some(steps) => format!("it is as after step {steps}; what was acknowledged says {possible:?}"),
        None => {
            format!("it is as after no step: {} keys; {}; possible were {possible:?}", found.len(), lasts.join(", "))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_says_what_may_be_left() {
        assert_eq!(possible(&[]), 0..=0);
        assert_eq!(possible(&[(1, Told::Begun)]), 0..=1);
        assert_eq!(possible(&[(1, Told::Begun), (1, Told::Hard), (2, Told::Begun), (2, Told::Soft)]), 1..=2);
        assert_eq!(possible(&[(1, Told::Begun), (1, Told::Hard), (2, Told::Begun), (2, Told::Failed)]), 1..=1);
        assert_eq!(possible(&[(1, Told::Begun), (1, Told::Unknown)]), 0..=1);
    }

    #[test]
    fn no_two_steps_leave_the_same_but_those_that_change_nothing() {
        for steps in 1..=STEPS {
            let is_same = content_after(steps) == content_after(steps - 1);
            assert_eq!(is_same, matches!(step(steps), Step::Flush), "step {steps}");
        }
    }
}
