//! Progress: a bar on a terminal, a line for every tenth otherwise.

use std::io::{IsTerminal, stderr};

use indicatif::{ProgressBar, ProgressStyle};

/// How far a command has come, shown on standard error.
pub(super) struct Progress {
    name: &'static str,
    total: u64,
    shown: Shown,
}

enum Shown {
    Bar(ProgressBar),
    /// The tenths that were printed.
    Lines(u128),
}

impl Progress {
    /// `total` is what [`Progress::at`] counts up to.
    pub(super) fn new(name: &'static str, total: u64) -> Self {
        let shown = if stderr().is_terminal() {
            let style = ProgressStyle::with_template("{prefix} [{wide_bar}] {percent:>3} % {msg} {eta} left");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ");
            Shown::Bar(ProgressBar::new(total).with_style(style).with_prefix(name))
        } else {
            Shown::Lines(0)
        };
        Self { name, total, shown }
    }

    /// `position` of the total is done.
    pub(super) fn at(&mut self, position: u64, message: &str) {
        match &mut self.shown {
            Shown::Bar(bar) => {
                bar.set_message(message.to_owned());
                bar.set_position(position);
            }
            Shown::Lines(printed) => {
                let tenths = u128::from(position) * 10 / u128::from(self.total.max(1));
                // The last tenth is for `finish`: what was read is not written yet.
                if tenths > *printed && tenths < 10 {
                    *printed = tenths;
                    eprintln!("{}: {} % ({message})", self.name, tenths * 10);
                }
            }
        }
    }

    /// Everything is done.
    pub(super) fn finish(self, message: &str) {
        match self.shown {
            Shown::Bar(bar) => bar.finish_with_message(message.to_owned()),
            Shown::Lines(_) => eprintln!("{}: 100 % ({message})", self.name),
        }
    }
}
