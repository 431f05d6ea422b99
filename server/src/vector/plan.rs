//! How a search is answered, and what that is expected to cost.
//!
//! Costs are in scores of one row: what an exact scan takes for a row, some 15 ns with 384 numbers on one core. They were
//! measured once, and are the same on every machine, so that a search is planned alike everywhere: what is weighed against
//! each other differs by factors.

use std::borrow::Cow;
use std::fmt;

/// Reading a document and asking a filter about it, once it is in the engine's cache.
const DOCUMENT: usize = 150;
/// Finding one more row in a graph.
const NEXT_ROW: usize = 40;

/// A filter is tried on this many times the wanted rows first. An index finds the last of the rows that it is asked for less
/// surely than the first ones, and a filter may want just those: so it is asked for more than most filters need.
const OVERSAMPLING: usize = 16;
/// So many times more rows than a filter's share asks for are tried, since the near rows may be refused more often.
const CAUTION: usize = 2;
/// Where the index goes by a metric that is only near the distance that is meant, it is asked for so many times the wanted
/// rows, and some more; these are measured.
const CANDIDATES: usize = 8;
const MORE_CANDIDATES: usize = 64;
/// The most rows of one query that are worth asking an index for.
const MAX_TRIED: usize = 20_000;

/// How many of the nearest rows a filter is tried on first, for `k` that it accepts.
pub(super) fn first_sample(k: usize) -> usize {
    k * OVERSAMPLING + 32
}

/// How many rows to measure, of which the `k` nearest are wanted.
pub(super) fn first_candidates(k: usize) -> usize {
    k * CANDIDATES + MORE_CANDIDATES
}

/// How many of the nearest rows to try a filter on next, which accepted `accepted` of `tried` rows, and too few of each
/// query's; `None` if it is cheaper to ask the filter about all `rows` first. `queries` share what they read.
pub(super) fn next_sample(k: usize, queries: usize, (accepted, tried): (usize, usize), rows: usize) -> Option<usize> {
    let wanted = (k * CAUTION).saturating_mul(tried.max(1)) / accepted.max(1);
    let sample = wanted.clamp(1, rows);
    let by_sample = queries.saturating_mul(sample).saturating_mul(DOCUMENT + NEXT_ROW);
    // Then the matches are scored, which is little.
    let by_filter = rows * DOCUMENT + rows * accepted / tried.max(1);
    (accepted > 0 && sample <= MAX_TRIED && by_sample < by_filter).then_some(sample)
}

/// How a search was answered, for the profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// By the plugin's graph, and an exact scan of so many rows that it has not seen yet.
    Graph {
        /// Rows that were scanned beside it.
        pending: usize,
    },
    /// By an exact scan, and why.
    Exact(Cow<'static, str>),
    /// With a filter, tried on the nearest rows.
    Tried {
        /// How those were found.
        by: Box<Plan>,
        /// How many, for each query.
        rows: usize,
    },
    /// With a filter, which was asked about every row first.
    FilterFirst {
        /// How the nearest of those that it accepts were found.
        by: Box<Plan>,
        /// How many it accepts ...
        accepted: usize,
        /// ... of so many.
        rows: usize,
    },
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Graph { pending: 0 } => f.write_str("vector index"),
            Self::Graph { pending } => {
                write!(f, "vector index, and an exact scan of {pending} rows it has not seen yet")
            }
            Self::Exact(reason) => write!(f, "exact scan: {reason}"),
            Self::Tried { by, rows } => write!(f, "{by}; the filter was tried on the nearest {rows} rows"),
            Self::FilterFirst { by, accepted, rows } => {
                write!(f, "{by}; the filter was tried on all rows first, since it accepts few: {accepted} of {rows}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_accepts_few_is_asked_first() {
        let rows = 40_000;
        // One in a hundred: twice a thousand rows are tried for ten.
        assert_eq!(next_sample(10, 1, (1, 100), rows), Some(2000));
        // The same for a hundred queries costs more than to ask about all rows once.
        assert_eq!(next_sample(10, 100, (1, 100), rows), None);
        // One in ten thousand, or none that was seen.
        assert_eq!(next_sample(10, 1, (1, 10_000), rows), None);
        assert_eq!(next_sample(10, 1, (0, 112), rows), None);
        // Nor where all rows would be tried.
        assert_eq!(next_sample(10, 1, (1, 8), 100), None);
    }

    #[test]
    fn a_plan_says_what_was_done_and_why() {
        let by = Box::new(Plan::Graph { pending: 3 });
        let text = Plan::Tried { by: by.clone(), rows: 112 }.to_string();
        assert!(text.contains("3 rows it has not seen yet") && text.contains("the nearest 112 rows"), "{text}");
        let text = Plan::FilterFirst { by, accepted: 7, rows: 900 }.to_string();
        assert!(text.contains("all rows first") && text.contains("7 of 900"), "{text}");
    }
}
