//! What happened to plugins and what they printed: bounded memory, whatever a plugin does.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use photondb_plugin_sdk::calls::quote;

use crate::admin::status::{LogLine, PluginEvent};

/// Events that are kept.
const MAX_EVENTS: usize = 10_000;
/// Log lines that are kept of all plugins together.
const MAX_LINES: usize = 10_000;

/// Events and log lines, the newest ones.
#[derive(Debug, Default)]
pub struct Journal {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    events: VecDeque<PluginEvent>,
    lines: VecDeque<LogLine>,
    last_event: u64,
    last_line: u64,
}

impl Journal {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it holds the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records an event; `kind` is one of a few words, such as `started` or `crashed`.
    pub fn event(&self, plugin: &str, kind: &str, message: impl Into<String>) {
        let message = message.into();
        match kind {
            "started" | "stopped" | "reloaded" | "discovered" => tracing::info!(plugin, "{kind}: {message}"),
            _ => tracing::warn!(plugin, "{kind}: {message}"),
        }
        let mut inner = self.lock();
        inner.last_event += 1;
        let event =
            PluginEvent { id: inner.last_event, time: now(), plugin: plugin.into(), kind: kind.into(), message };
        push(&mut inner.events, event, MAX_EVENTS);
    }

    /// Records a line that a plugin printed; cut, and with control characters escaped.
    pub fn line(&self, plugin: &str, source: &str, text: &str) {
        let mut inner = self.lock();
        inner.last_line += 1;
        let line = LogLine {
            id: inner.last_line,
            time: now(),
            plugin: plugin.into(),
            source: source.into(),
            text: quote(text),
        };
        push(&mut inner.lines, line, MAX_LINES);
    }

    /// The events, oldest first.
    #[must_use]
    pub fn events(&self) -> Vec<PluginEvent> {
        self.lock().events.iter().cloned().collect()
    }

    /// The lines of one plugin or of all, oldest first.
    #[must_use]
    pub fn lines(&self, plugin: Option<&str>) -> Vec<LogLine> {
        self.lock().lines.iter().filter(|line| plugin.is_none_or(|name| line.plugin == name)).cloned().collect()
    }
}

fn push<T>(queue: &mut VecDeque<T>, item: T, limit: usize) {
    if queue.len() >= limit {
        queue.pop_front();
    }
    queue.push_back(item);
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_escaped() {
        let journal = Journal::default();
        for line in 0..MAX_LINES + 5 {
            journal.line(if line % 2 == 0 { "a" } else { "b" }, "stderr", &format!("\x1b[2J{line}"));
        }
        assert_eq!(journal.lines(None).len(), MAX_LINES);
        let of_a = journal.lines(Some("a"));
        assert_eq!(of_a.last().map(|line| line.text.as_str()), Some("\\u{1b}[2J10004"));
    }
}
