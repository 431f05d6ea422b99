//! What happened to plugins and what they printed: bounded memory, whatever a plugin does.
//!
//! Each plugin has rings of its own, so that a noisy one takes no other's lines.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use photondb_plugin_sdk::calls::quote;

use crate::admin::status::{LogLine, PluginEvent};

/// Events that are kept of one plugin.
const MAX_EVENTS: usize = 1000;
/// Text that is kept of the log lines of one plugin, and what each line counts beside its text.
const MAX_LOG_BYTES: usize = 256 << 10;
const LINE_OVERHEAD: usize = 64;

/// Events and log lines, the newest ones.
#[derive(Debug, Default)]
pub struct Journal {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    plugins: BTreeMap<String, Rings>,
    last_event: u64,
    last_line: u64,
}

#[derive(Debug, Default)]
struct Rings {
    events: VecDeque<PluginEvent>,
    lines: VecDeque<LogLine>,
    log_bytes: usize,
    dropped_lines: u64,
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
        let events = &mut inner.plugins.entry(plugin.into()).or_default().events;
        if events.len() >= MAX_EVENTS {
            events.pop_front();
        }
        events.push_back(event);
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
        let rings = inner.plugins.entry(plugin.into()).or_default();
        rings.log_bytes += line.text.len() + LINE_OVERHEAD;
        rings.lines.push_back(line);
        while rings.log_bytes > MAX_LOG_BYTES
            && let Some(oldest) = rings.lines.pop_front()
        {
            rings.log_bytes -= oldest.text.len() + LINE_OVERHEAD;
        }
    }

    /// Counts lines that a plugin printed and that were not kept, because there were too many.
    pub fn dropped(&self, plugin: &str, lines: u64) {
        if lines > 0 {
            self.lock().plugins.entry(plugin.into()).or_default().dropped_lines += lines;
        }
    }

    /// Lines of a plugin that were not kept.
    #[must_use]
    pub fn dropped_lines(&self, plugin: &str) -> u64 {
        self.lock().plugins.get(plugin).map_or(0, |rings| rings.dropped_lines)
    }

    /// The events, oldest first.
    #[must_use]
    pub fn events(&self) -> Vec<PluginEvent> {
        let mut events: Vec<_> = self.lock().plugins.values().flat_map(|rings| &rings.events).cloned().collect();
        events.sort_unstable_by_key(|event| event.id);
        events
    }

    /// The lines of one plugin or of all, oldest first.
    #[must_use]
    pub fn lines(&self, plugin: Option<&str>) -> Vec<LogLine> {
        let inner = self.lock();
        let wanted = inner.plugins.iter().filter(|(name, _)| plugin.is_none_or(|plugin| plugin == *name));
        let mut lines: Vec<_> = wanted.flat_map(|(_, rings)| &rings.lines).cloned().collect();
        drop(inner);
        lines.sort_unstable_by_key(|line| line.id);
        lines
    }
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
        for line in 0..100_000 {
            journal.line("a", "stderr", &format!("\x1b[2J{line}"));
        }
        let of_a = journal.lines(Some("a"));
        assert_eq!(of_a.last().map(|line| line.text.as_str()), Some("\\u{1b}[2J99999"));
        assert!(of_a.iter().map(|line| line.text.len() + LINE_OVERHEAD).sum::<usize>() <= MAX_LOG_BYTES);
        assert!(of_a.len() > 1000);
        journal.line("b", "stderr", &"\u{202e}".repeat(1 << 20));
        assert!(journal.lines(Some("b")).iter().all(|line| line.text.len() <= 4096 && line.text.is_ascii()));
    }

    #[test]
    fn a_noisy_plugin_takes_nothing_from_another() {
        let journal = Journal::default();
        journal.line("quiet", "stdout", "the only line");
        journal.event("quiet", "started", "the only event");
        for number in 0..20_000 {
            journal.line("noisy", "stdout", &"x".repeat(100));
            journal.event("noisy", "discovered", number.to_string());
        }
        assert_eq!(journal.lines(None).first().map(|line| line.text.as_str()), Some("the only line"));
        let events = journal.events();
        assert_eq!(events.first().map(|event| event.message.as_str()), Some("the only event"));
        assert_eq!(events.last().map(|event| event.message.as_str()), Some("19999"));
        assert_eq!(events.len(), MAX_EVENTS + 1);
    }
}
