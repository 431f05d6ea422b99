//! What plugins print: cut into lines, bounded in length and in number.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::sleep;

use super::journal::Journal;

/// The longest line that is kept of what a plugin prints.
const MAX_LINE: usize = 4096;
/// Lines a second that are kept of what a plugin prints; the rest is counted.
const MAX_LINES_PER_SECOND: u32 = 200;
/// Bytes a second that are read of it. A plugin that prints more waits for its own pipe, instead of keeping the thread
/// busy that looks after all plugins.
const MAX_BYTES_PER_SECOND: usize = 16 << 20;
const SECOND: Duration = Duration::from_secs(1);

/// What a plugin printed that tells how it ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct LastWords {
    /// The runtime of Rust said that so many bytes could not be had. The plugin's word: it is believed only of a process
    /// that aborted.
    pub failed_allocation: Option<u64>,
}

impl LastWords {
    fn hear(&mut self, line: &str) {
        let bytes = line.strip_prefix("memory allocation of ").and_then(|rest| rest.strip_suffix(" bytes failed"));
        self.failed_allocation = bytes.and_then(|bytes| bytes.parse().ok()).or(self.failed_allocation);
    }
}

/// Keeps what comes out of a pipe as log lines, until it is closed.
pub(super) async fn keep_lines(
    mut reader: impl AsyncRead + Unpin,
    plugin: String,
    source: &'static str,
    journal: Arc<Journal>,
) -> LastWords {
    let (mut lines, mut last_words) = (Lines::default(), LastWords::default());
    let mut chunk = vec![0; 64 << 10];
    let (mut second, mut bytes) = (Instant::now(), 0);
    while let Ok(count @ 1..) = reader.read(&mut chunk).await {
        let mut keep = |line: &str| {
            last_words.hear(line);
            journal.line(&plugin, source, line);
        };
        let dropped = lines.push(&chunk[..count], Instant::now(), &mut keep);
        journal.dropped(&plugin, dropped);
        if second.elapsed() >= SECOND {
            (second, bytes) = (Instant::now(), 0);
        }
        bytes += count;
        if bytes > MAX_BYTES_PER_SECOND {
            sleep(SECOND.saturating_sub(second.elapsed())).await;
        }
    }
    let dropped = lines.finish(|line| {
        last_words.hear(line);
        journal.line(&plugin, source, line);
    });
    journal.dropped(&plugin, dropped);
    last_words
}

/// Cuts what a plugin prints into lines: bounded in length and in number.
#[derive(Default)]
pub(crate) struct Lines {
    partial: Vec<u8>,
    second: Option<Instant>,
    kept: u32,
    /// Lines that were dropped and not told of yet.
    dropped: u64,
}

impl Lines {
    /// Returns how many lines were dropped of these bytes.
    pub(crate) fn push(&mut self, bytes: &[u8], now: Instant, mut keep: impl FnMut(&str)) -> u64 {
        if self.second.is_none_or(|second| now.duration_since(second) >= SECOND) {
            self.second = Some(now);
            self.kept = 0;
            self.tell(&mut keep);
        }
        let before = self.dropped;
        for &byte in bytes {
            if byte != b'\n' && self.partial.len() < MAX_LINE {
                self.partial.push(byte);
                continue;
            }
            self.line(&mut keep);
            if byte != b'\n' {
                self.partial.push(byte);
            }
        }
        self.dropped - before
    }

    fn line(&mut self, keep: &mut impl FnMut(&str)) {
        if self.kept < MAX_LINES_PER_SECOND {
            self.kept += 1;
            keep(&String::from_utf8_lossy(&self.partial));
        } else {
            self.dropped += 1;
        }
        self.partial.clear();
    }

    fn tell(&mut self, keep: &mut impl FnMut(&str)) {
        if self.dropped > 0 {
            keep(&format!("({} lines dropped: more than {MAX_LINES_PER_SECOND} a second)", self.dropped));
            self.dropped = 0;
        }
    }

    /// As [`push`](Self::push), for what is left. The last line of all is kept in any case: it often says why.
    pub(crate) fn finish(mut self, mut keep: impl FnMut(&str)) -> u64 {
        self.tell(&mut keep);
        if !self.partial.is_empty() {
            keep(&String::from_utf8_lossy(&self.partial));
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_is_cut_and_counted() {
        let (mut lines, mut kept) = (Lines::default(), Vec::new());
        let start = Instant::now();
        assert_eq!(lines.push(&b"x\n".repeat(1000), start, |line| kept.push(line.to_owned())), 800);
        assert_eq!(kept.len(), MAX_LINES_PER_SECOND as usize);
        kept.clear();
        assert_eq!(lines.push(b"y\n", start + SECOND, |line| kept.push(line.to_owned())), 0);
        assert_eq!(kept, ["(800 lines dropped: more than 200 a second)", "y"]);
        kept.clear();
        assert_eq!(lines.push(&b"z\n".repeat(200), start + SECOND, |_| {}), 1);
        lines.finish(|line| kept.push(line.to_owned()));
        assert_eq!(kept, ["(1 lines dropped: more than 200 a second)"], "told at the end as well");
    }

    #[test]
    fn an_endless_line_is_cut() {
        let (mut lines, mut kept) = (Lines::default(), Vec::new());
        lines.push(&[b'x'; MAX_LINE * 2 + 1], Instant::now(), |line| kept.push(line.len()));
        lines.finish(|line| kept.push(line.len()));
        assert_eq!(kept, [MAX_LINE, MAX_LINE, 1]);
    }

    #[test]
    fn what_the_runtime_says_of_a_failed_allocation_is_heard() {
        let heard = |line: &str| {
            let mut last_words = LastWords::default();
            last_words.hear(line);
            last_words.failed_allocation
        };
        assert_eq!(heard("memory allocation of 16777216 bytes failed"), Some(16_777_216));
        assert_eq!(heard("memory allocation of many bytes failed"), None);
        assert_eq!(heard("all is well"), None);
    }

    #[tokio::test]
    async fn a_pipe_is_read_to_its_end() {
        let journal = Arc::new(Journal::default());
        let text = format!("first\n{}memory allocation of 7 bytes failed\n", "x\n".repeat(10));
        let words = keep_lines(text.as_bytes(), "geo".into(), "stderr", Arc::clone(&journal)).await;
        assert_eq!(words, LastWords { failed_allocation: Some(7) });
        assert_eq!(journal.lines(Some("geo")).len(), 12);
    }
}
