//! What a query did and how long it took, for `profile: true`.
//!
//! A term that is evaluated within another one becomes its subtask. Streams are computed while they are read, so the
//! work of a lazy operation shows under the one that reads it.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use photondb_plugin_sdk::Datum;

/// Most tasks that are written down.
const MAX_TASKS: usize = 10_000;

/// The record of one query.
#[derive(Default)]
pub struct Profile {
    tasks: Option<Mutex<Record>>,
}

#[derive(Default)]
struct Record {
    /// Finished tasks for each level of those that are not.
    open: Vec<Vec<Datum>>,
    done: Vec<Datum>,
    count: usize,
}

impl Profile {
    /// A record, which writes nothing down unless it is `on`.
    #[must_use]
    pub fn new(on: bool) -> Self {
        Self { tasks: on.then(Mutex::default) }
    }

    /// Whether anything is written down.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.tasks.is_some()
    }

    /// Begins a task.
    pub fn enter(&self) -> Option<Instant> {
        let mut record = self.tasks.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        record.open.push(Vec::new());
        Some(Instant::now())
    }

    /// Ends the task that began last.
    pub fn leave(&self, started: Option<Instant>, description: impl FnOnce() -> String) {
        let (Some(tasks), Some(started)) = (&self.tasks, started) else { return };
        let mut record = tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let below = record.open.pop().unwrap_or_default();
        record.count += 1;
        if record.count > MAX_TASKS {
            return;
        }
        let task = Datum::object([
            ("description", Datum::from(description())),
            ("duration(ms)", Datum::from(started.elapsed().as_secs_f64() * 1000.0)),
            ("sub_tasks", Datum::from(below)),
        ]);
        match record.open.last_mut() {
            Some(above) => above.push(task),
            None => record.done.push(task),
        }
    }

    /// What was written down since the last call.
    #[must_use]
    pub fn take(&self) -> Option<Vec<Datum>> {
        let mut record = self.tasks.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        Some(std::mem::take(&mut record.done))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_nest() {
        let profile = Profile::new(true);
        let outer = profile.enter();
        let inner = profile.enter();
        profile.leave(inner, || "inner".to_owned());
        profile.leave(outer, || "outer".to_owned());
        let done = profile.take().unwrap();
        assert_eq!(done.len(), 1);
        assert_eq!(done[0].get("description").and_then(Datum::as_str), Some("outer"));
        let below = done[0].get("sub_tasks").and_then(Datum::as_array).unwrap();
        assert_eq!(below[0].get("description").and_then(Datum::as_str), Some("inner"));
        assert!(Profile::new(false).take().is_none());
    }
}
