//! Vector indexes that lie: about rows, distances and counts, and about what they saved.

use std::io::{Read, Write};
use std::sync::Arc;
use std::{process, thread};

use photondb_plugin_sdk::column::VectorColumn;
use photondb_plugin_sdk::kinds::vector::{
    IndexOptions, IndexStatistics, RowId, SearchRequest, SearchResults, VectorIndex, VectorIndexPlugin,
};
use photondb_plugin_sdk::prelude::*;

/// What an index answers to a search.
type Answer = fn(&SearchRequest<'_>, &mut SearchResults<'_>);

/// How an index lies.
#[derive(Clone, Copy)]
enum Lie {
    Search(Answer),
    Save(fn(&mut dyn Write)),
    Load(fn()),
    Insert(fn()),
    Remove(fn()),
    Validate(fn()),
    Statistics(fn() -> IndexStatistics),
}

const LIES: &[(&str, Lie)] = &[
    (
        "h16_ids_out_of_range",
        Lie::Search(|_, results| {
            results.rows.iter_mut().zip(1_000_000_000..).for_each(|(row, number)| *row = number);
            full(results);
        }),
    ),
    (
        "h16_largest_ids",
        Lie::Search(|_, results| {
            results.rows.fill(RowId::MAX);
            full(results);
        }),
    ),
    (
        "h16_duplicate_ids",
        Lie::Search(|_, results| {
            results.rows.fill(0);
            full(results);
        }),
    ),
    ("h16_counts_beyond_k", Lie::Search(|_, results| results.counts.fill(u32::MAX))),
    ("h16_one_more_than_k", Lie::Search(|request, results| results.counts.fill(request.k as u32 + 1))),
    ("h16_no_rows", Lie::Search(|_, results| results.counts.fill(0))),
    (
        "h18_deleted_and_excluded_rows",
        Lie::Search(|_, results| {
            // All rows from the first one on, whether they are allowed or not.
            let wanted = results.rows.len() / results.counts.len().max(1);
            results.rows.chunks_mut(wanted.max(1)).for_each(|rows| {
                rows.iter_mut().zip(0..).for_each(|(row, number)| *row = number);
            });
            full(results);
        }),
    ),
    (
        "j6_not_a_number",
        Lie::Search(|_, results| {
            results.rows.iter_mut().zip(0..).for_each(|(row, number)| *row = number);
            results.distances.fill(f32::NAN);
            full(results);
        }),
    ),
    (
        "j6_farthest_first",
        Lie::Search(|_, results| {
            let count = results.rows.len() as u32;
            results.rows.iter_mut().zip((0..count).rev()).for_each(|(row, number)| *row = number);
            results.distances.fill(-1.0);
            full(results);
        }),
    ),
    ("j2_search_hangs", Lie::Search(|_, _| hang())),
    ("j2_search_dies", Lie::Search(|_, _| process::abort())),
    ("j9_saves_rubbish", Lie::Save(|out| drop(out.write_all(b"rubbish")))),
    ("j9_saves_nothing", Lie::Save(|_| {})),
    ("j9_saves_without_end", Lie::Save(|out| while out.write_all(&[0; 64 << 10]).is_ok() {})),
    (
        "j9_saves_64_megabytes",
        Lie::Save(|out| {
            (0..1024).for_each(|_| drop(out.write_all(&[0; 64 << 10])));
        }),
    ),
    ("j9_dies_while_saving", Lie::Save(|_| process::abort())),
    ("j9_load_hangs", Lie::Load(hang)),
    ("j9_load_dies", Lie::Load(|| process::abort())),
    ("j9_insert_dies", Lie::Insert(|| process::abort())),
    ("j9_insert_panics", Lie::Insert(|| panic!("no room"))),
    ("j9_remove_dies", Lie::Remove(|| process::abort())),
    ("j9_validate_hangs", Lie::Validate(hang)),
    ("j9_validate_dies", Lie::Validate(|| process::abort())),
    ("j9_boasts", Lie::Statistics(|| IndexStatistics { rows: u64::MAX, removed: u64::MAX, memory_bytes: u64::MAX })),
];

fn full(results: &mut SearchResults<'_>) {
    let wanted = results.rows.len() / results.counts.len().max(1);
    results.counts.fill(wanted as u32);
}

fn hang() {
    loop {
        thread::park();
    }
}

/// A kind of vector index that lies.
pub(crate) struct LyingIndex {
    name: &'static str,
    lie: Lie,
}

impl LyingIndex {
    pub(crate) fn named(name: &str) -> Option<Self> {
        LIES.iter().find(|(known, _)| *known == name).map(|&(name, lie)| Self { name, lie })
    }

    pub(crate) fn names() -> impl Iterator<Item = &'static str> {
        LIES.iter().map(|(name, _)| *name)
    }
}

impl VectorIndexPlugin for LyingIndex {
    fn index_type(&self) -> &str {
        self.name
    }

    fn validate(&self, _: &IndexOptions) -> Result<(), PluginError> {
        if let Lie::Validate(lie) = self.lie {
            lie();
        }
        Ok(())
    }

    fn create(&self, _: &IndexOptions, _: Arc<VectorColumn>) -> Result<Box<dyn VectorIndex>, PluginError> {
        Ok(Box::new(Index(self.lie)))
    }
}

struct Index(Lie);

impl VectorIndex for Index {
    fn insert(&self, _: &[RowId]) -> Result<(), PluginError> {
        if let Lie::Insert(lie) = self.0 {
            lie();
        }
        Ok(())
    }

    fn remove(&self, _: &[RowId]) -> Result<(), PluginError> {
        if let Lie::Remove(lie) = self.0 {
            lie();
        }
        Ok(())
    }

    fn search(&self, request: &SearchRequest<'_>, results: &mut SearchResults<'_>) -> Result<(), PluginError> {
        match self.0 {
            Lie::Search(lie) => lie(request, results),
            _ => results.counts.fill(0),
        }
        Ok(())
    }

    fn save(&self, out: &mut dyn Write) -> Result<(), PluginError> {
        if let Lie::Save(lie) = self.0 {
            lie(out);
        }
        Ok(())
    }

    fn load(&self, input: &mut dyn Read) -> Result<(), PluginError> {
        if let Lie::Load(lie) = self.0 {
            lie();
        }
        std::io::copy(input, &mut std::io::sink()).map(drop).map_err(|error| PluginError::argument(error.to_string()))
    }

    fn statistics(&self) -> IndexStatistics {
        match self.0 {
            Lie::Statistics(lie) => lie(),
            _ => IndexStatistics::default(),
        }
    }
}
