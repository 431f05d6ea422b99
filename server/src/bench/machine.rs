//! What the figures were measured on.

use std::fs;
use std::thread::available_parallelism;

use serde::{Deserialize, Serialize};

/// The machine, as far as it explains figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    load_before: String,
    load_after: String,
}

impl Machine {
    /// This machine now.
    #[must_use]
    pub fn now() -> Self {
        Self {
            cpu: cpu_model().unwrap_or_else(|| std::env::consts::ARCH.into()),
            cores: available_parallelism().map_or(1, std::num::NonZeroUsize::get),
            kernel: first_line("/proc/sys/kernel/osrelease"),
            load_before: load(),
            load_after: load(),
        }
    }

    /// The same machine, with the load of now at the end.
    #[must_use]
    pub fn afterwards(&self) -> Self {
        Self { load_after: load(), ..self.clone() }
    }

    /// One line for people.
    #[must_use]
    pub fn line(&self) -> String {
        let Self { cpu, cores, kernel, load_before, .. } = self;
        format!("{cpu}, {cores} cores, Linux {kernel}, load {load_before}")
    }

    /// Runnable tasks at the end, as means over 1, 5 and 15 minutes.
    #[must_use]
    pub fn load_after(&self) -> &str {
        &self.load_after
    }
}

fn load() -> String {
    first_line("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

fn cpu_model() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn first_line(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}
