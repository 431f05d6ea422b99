//! What plugins print: cut into lines, bounded in length and in number.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt};

use super::journal::Journal;

/// The longest line that is kept of what a plugin prints.
const MAX_LINE: usize = 4096;
/// Lines a second that are kept of what a plugin prints; the rest is counted.
const MAX_LINES_PER_SECOND: u32 = 200;

/// Keeps what comes out of a pipe as log lines, until it is closed.
pub(super) async fn keep_lines(
    mut reader: impl AsyncRead + Unpin,
    plugin: String,
    source: &'static str,
    journal: Arc<Journal>,
) {
    let mut lines = Lines::default();
    let mut chunk = [0; 4096];
    while let Ok(count @ 1..) = reader.read(&mut chunk).await {
        lines.push(&chunk[..count], Instant::now(), |line| journal.line(&plugin, source, line));
    }
    lines.finish(|line| journal.line(&plugin, source, line));
}

/// Cuts what a plugin prints into lines: bounded in length and in number.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
    second: Option<Instant>,
    kept: u32,
    dropped: u64,
}

impl Lines {
    fn push(&mut self, bytes: &[u8], now: Instant, mut keep: impl FnMut(&str)) {
        if self.second.is_none_or(|second| now.duration_since(second) >= Duration::from_secs(1)) {
            self.second = Some(now);
            self.kept = 0;
            if self.dropped > 0 {
                keep(&format!("({} lines dropped: more than {MAX_LINES_PER_SECOND} a second)", self.dropped));
                self.dropped = 0;
            }
        }
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

    fn finish(mut self, mut keep: impl FnMut(&str)) {
        if !self.partial.is_empty() {
            self.line(&mut keep);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_is_cut_and_counted() {
        let (mut lines, mut kept) = (Lines::default(), Vec::new());
        let start = Instant::now();
        lines.push(&b"x\n".repeat(1000), start, |line| kept.push(line.to_owned()));
        assert_eq!(kept.len(), MAX_LINES_PER_SECOND as usize);
        kept.clear();
        lines.push(b"y\n", start + Duration::from_secs(1), |line| kept.push(line.to_owned()));
        assert_eq!(kept, ["(800 lines dropped: more than 200 a second)", "y"]);
    }

    #[test]
    fn an_endless_line_is_cut() {
        let (mut lines, mut kept) = (Lines::default(), Vec::new());
        lines.push(&[b'x'; MAX_LINE * 2 + 1], Instant::now(), |line| kept.push(line.len()));
        lines.finish(|line| kept.push(line.len()));
        assert_eq!(kept, [MAX_LINE, MAX_LINE, 1]);
    }
}
