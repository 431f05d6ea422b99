//! What of a table is to go, and what is to take its place.
//!
//! Chunks know the least and the greatest time of their documents, so a look for old ones reads only chunks that have
//! some. It goes on where the last one ended.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::time::{Duration, Instant};

use photondb_packed::{ChunkInfo, PackedEngine};
use photondb_plugin_sdk::kinds::selection::{FieldRange, Selection};
use photondb_plugin_sdk::kinds::storage::MOST_CHANGES;
use photondb_plugin_sdk::prelude::*;

use crate::options::{Options, Rule};
use crate::summary::{Bucket, Clock, Fields, SPAN, Summary, span_of, time_of};

/// How long a call may look.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of the documents of a group: it has to fit into a message of a lane.
const GROUP_BYTES: usize = 384 << 10;
/// Larger documents are left alone, for the same reason.
const LARGEST: usize = 256 << 10;
/// How times are written, in the order in which they are looked for.
const CLOCKS: [Clock; 2] = [Clock::Time, Clock::Number];

/// Where looks for old documents go on.
#[derive(Debug, Default)]
pub(crate) struct Looks {
    expired: Look,
    summed: Look,
}

/// Where a look goes on.
#[derive(Debug, Default)]
struct Look {
    clock: usize,
    from: Vec<u8>,
}

/// A document that is old enough.
struct Old {
    key: Vec<u8>,
    value: Vec<u8>,
    document: Datum,
    clock: Clock,
    seconds: f64,
}

impl Old {
    fn removal(self) -> DocumentChange {
        DocumentChange { key: self.key, before: Some(self.value), after: None }
    }
}

/// Documents that are to be summed up, by the encoded ids of their summaries.
type Buckets = BTreeMap<Vec<u8>, (Bucket, Vec<Old>)>;

/// A summary that is there.
struct Present {
    key: Vec<u8>,
    value: Vec<u8>,
    document: Datum,
}

/// One answer to the server.
pub(crate) struct Answer<'a> {
    pub(crate) packed: &'a PackedEngine,
    pub(crate) options: &'a Options,
    pub(crate) request: &'a UpkeepRequest<'a>,
    deadline: Instant,
}

impl<'a> Answer<'a> {
    pub(crate) fn new(packed: &'a PackedEngine, options: &'a Options, request: &'a UpkeepRequest<'a>) -> Self {
        Self { packed, options, request, deadline: Instant::now() + PATIENCE }
    }

    /// What has expired; or else what is to be down-sampled.
    pub(crate) fn upkeep(&self, looks: &mut Looks) -> Result<Upkeep, StorageError> {
        let by_age = self.options.retention.map(|retention| self.request.now - retention);
        let by_size = match self.options.max_bytes {
            Some(most) => size_limit(&self.packed.chunks(self.request.documents)?, &self.options.time, most),
            None => None,
        };
        let limit = by_age.into_iter().chain(by_size).reduce(f64::max);
        if let Some(limit) = limit {
            let (old, has_more) = self.look(&mut looks.expired, limit, |_| true)?;
            if !old.is_empty() || has_more {
                return Ok(Upkeep { groups: removals(old), has_more });
            }
        }
        if self.options.rules.is_empty() {
            return Ok(Upkeep::default());
        }
        self.sum_up(&mut looks.summed)
    }

    fn fields(&self) -> Fields<'a> {
        let Options { time, series, .. } = self.options;
        Fields { primary_key: self.request.primary_key, time, series: series.as_deref() }
    }

    /// Documents from before `limit` that are `wanted`, up to as many as the server takes; and whether there may be more.
    fn look(
        &self,
        look: &mut Look,
        limit: f64,
        wanted: impl Fn(&Old) -> bool,
    ) -> Result<(Vec<Old>, bool), StorageError> {
        let (snapshot, mut found) = (self.packed.snapshot()?, Vec::new());
        while let Some(clock) = CLOCKS.get(look.clock).copied() {
            let range = KeyRange { start: std::mem::take(&mut look.from), end: None };
            // Where there is no such time, nothing is older.
            if let Some(before) = clock.write(limit) {
                let selection = self.times(clock, None, Bound::Excluded(before));
                let entries = snapshot.scan_selected(self.request.documents, &range, Direction::Forward, &selection)?;
                for (number, entry) in entries.enumerate() {
                    let (key, value) = entry?;
                    if found.len() >= self.request.most || number % 256 == 255 && Instant::now() > self.deadline {
                        look.from = key;
                        return Ok((found, true));
                    }
                    found.extend(self.old(key, value, clock).filter(|old| old.seconds < limit && wanted(old)));
                }
            }
            look.clock += 1;
        }
        *look = Look::default();
        Ok((found, false))
    }

    /// The document, if its time is so written.
    fn old(&self, key: Vec<u8>, value: Vec<u8>, clock: Clock) -> Option<Old> {
        if value.len() > LARGEST {
            return None;
        }
        // What is no document is the server's to find.
        let document = Datum::decode(&value).ok()?;
        let (written, seconds) = time_of(&document, &self.options.time)?;
        (written == clock).then_some(Old { key, value, document, clock, seconds })
    }

    /// Times that are so written, from `lower` to `upper`.
    fn times(&self, clock: Clock, lower: Option<Datum>, upper: Bound<Datum>) -> Selection {
        let lower = match (lower, clock) {
            (Some(lower), _) => Bound::Included(lower),
            // Times are behind numbers.
            (None, Clock::Time) => Bound::Excluded(Datum::Number(f64::MAX)),
            (None, Clock::Number) => Bound::Included(Datum::Number(f64::MIN)),
        };
        let field = self.options.time.clone();
        Selection { fields: None, filter: vec![FieldRange { field, lower, upper }] }
    }

    /// Replaces documents of a bucket by their summary.
    fn sum_up(&self, look: &mut Look) -> Result<Upkeep, StorageError> {
        if self.request.primary_key == &*self.options.time {
            let message = "`downsample` needs a primary key that is not the field of the time: the summary of an hour, say, \
                           would have the key of a document at its beginning";
            return Err(StorageError::Failed(message.to_owned()));
        }
        let rules = Rules::at(self.request.now, &self.options.rules);
        let fields = self.fields();
        let bucket = |old: &Old| {
            let every = rules.every(old.seconds).filter(|every| *every > span_of(&old.document))?;
            Bucket::of(&old.document, fields, old.clock, old.seconds, every)
        };
        let (found, has_more) = self.look(look, rules.youngest(), |old| bucket(old).is_some())?;
        let mut buckets = Buckets::new();
        for old in found {
            if let Some(bucket) = bucket(&old) {
                let (_, documents) = buckets.entry(bucket.id().encoded()).or_insert_with(|| (bucket, Vec::new()));
                documents.push(old);
            }
        }
        let mut present = self.summaries(&buckets)?;
        let mut groups = Vec::new();
        for (id, (bucket, documents)) in buckets {
            let mut summary = Summary::default();
            let (key, mut before) = match present.remove(&id) {
                None => (Vec::new(), None),
                Some(Present { key, value, document }) => {
                    summary.add(&document, fields);
                    (key, Some(value))
                }
            };
            for documents in parts(documents, MOST_CHANGES - 1) {
                documents.iter().for_each(|old| summary.add(&old.document, fields));
                let after = Some(summary.document(&bucket, fields).encoded());
                let written = DocumentChange { key: key.clone(), before, after: after.clone() };
                groups.push(documents.into_iter().map(Old::removal).chain([written]).collect());
                before = after;
            }
        }
        Ok(Upkeep { groups, has_more })
    }

    /// The summaries that there are of these buckets, by their ids.
    fn summaries(&self, buckets: &Buckets) -> Result<HashMap<Vec<u8>, Present>, StorageError> {
        let (snapshot, mut found) = (self.packed.snapshot()?, HashMap::new());
        for clock in CLOCKS {
            let buckets_of = || buckets.values().map(|(bucket, _)| bucket).filter(|bucket| bucket.clock == clock);
            let least = buckets_of().map(|bucket| bucket.start).reduce(f64::min);
            let greatest = buckets_of().map(|bucket| bucket.start).reduce(f64::max);
            let bounds =
                least.zip(greatest).and_then(|(least, greatest)| clock.write(least).zip(clock.write(greatest)));
            let Some((least, greatest)) = bounds else { continue };
            let mut selection = self.times(clock, Some(least), Bound::Included(greatest));
            let lower = Bound::Excluded(Datum::Number(0.0));
            selection.filter.push(FieldRange { field: SPAN.into(), lower, upper: Bound::Unbounded });
            let range = KeyRange::default();
            let entries = snapshot.scan_selected(self.request.documents, &range, Direction::Forward, &selection)?;
            for entry in entries {
                let (key, value) = entry?;
                let Ok(document) = Datum::decode(&value) else { continue };
                let id = document.get(self.request.primary_key).map(Datum::encoded);
                if let Some(id) = id.filter(|id| buckets.contains_key(id)) {
                    found.insert(id, Present { key, value, document });
                }
            }
        }
        Ok(found)
    }
}

/// Rules at one moment.
struct Rules(Vec<(f64, f64)>);

impl Rules {
    fn at(now: f64, rules: &[Rule]) -> Self {
        // Whole spans, so that a summary is made once unless documents come late.
        let begun = |rule: &Rule| (((now - rule.after) / rule.every).floor() * rule.every, rule.every);
        Self(rules.iter().map(begun).collect())
    }

    /// From where on no document is touched.
    fn youngest(&self) -> f64 {
        self.0.iter().map(|(limit, _)| *limit).fold(f64::MIN, f64::max)
    }

    /// The longest span that documents of that time are summed up in.
    fn every(&self, seconds: f64) -> Option<f64> {
        self.0.iter().filter(|(limit, _)| seconds < *limit).map(|(_, every)| *every).reduce(f64::max)
    }
}

/// Before which time documents go, so that about `most` bytes of chunks are left; `None` where they are fewer.
fn size_limit(chunks: &[ChunkInfo], time: &str, most: u64) -> Option<f64> {
    let total: u64 = chunks.iter().map(|chunk| chunk.stored_bytes).sum();
    let excess = total.checked_sub(most).filter(|excess| *excess > 0)? as f64;
    let seconds = |value: &Datum| match value {
        Datum::Time(time) => Some(time.epoch_seconds()),
        Datum::Number(seconds) => Some(*seconds),
        _ => None,
    };
    let span = |chunk: &ChunkInfo| {
        let (_, statistics) = chunk.columns.iter().find(|(name, _)| &**name == time)?;
        let least = statistics.least.as_ref().and_then(seconds)?;
        Some((least, statistics.greatest.as_ref().and_then(seconds)?, chunk.stored_bytes as f64))
    };
    let spans: Vec<(f64, f64, f64)> = chunks.iter().filter_map(span).collect();
    // As if times lay evenly in a chunk.
    let older = |limit: f64| -> f64 {
        let part = |(least, greatest, bytes): &(f64, f64, f64)| {
            let part =
                if limit > *greatest { 1.0 } else { (limit - least) / (greatest - least).max(f64::MIN_POSITIVE) };
            bytes * part.clamp(0.0, 1.0)
        };
        spans.iter().map(part).sum()
    };
    let mut low = spans.iter().map(|(least, ..)| *least).reduce(f64::min)?;
    let mut high = spans.iter().map(|(_, greatest, _)| *greatest).reduce(f64::max)? + 1.0;
    // To less than a microsecond within a thousand years.
    for _ in 0..64 {
        let middle = low + (high - low) / 2.0;
        if older(middle) < excess { low = middle } else { high = middle }
    }
    Some(high)
}

fn removals(old: Vec<Old>) -> Vec<Vec<DocumentChange>> {
    parts(old, MOST_CHANGES).into_iter().map(|part| part.into_iter().map(Old::removal).collect()).collect()
}

/// Parts of at most so many documents, and not too many bytes.
fn parts(old: Vec<Old>, most: usize) -> Vec<Vec<Old>> {
    let (mut parts, mut bytes): (Vec<Vec<Old>>, usize) = (Vec::new(), 0);
    for old in old {
        let size = old.key.len() + old.value.len();
        match parts.last_mut().filter(|part| part.len() < most && bytes + size <= GROUP_BYTES) {
            Some(part) => {
                bytes += size;
                part.push(old);
            }
            None => {
                bytes = size;
                parts.push(vec![old]);
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use photondb_packed::ColumnStatistics;

    use super::*;

    #[test]
    fn the_oldest_go_where_there_are_too_many_bytes() {
        let chunk = |least: f64, greatest: f64, stored_bytes| ChunkInfo {
            first_key: Vec::new(),
            last_key: Vec::new(),
            rows: 1,
            whole_rows: 0,
            raw_bytes: 0,
            stored_bytes,
            columns: vec![(
                "time".into(),
                ColumnStatistics { least: Some(least.into()), greatest: Some(greatest.into()), ..Default::default() },
            )],
        };
        let chunks = [chunk(100.0, 200.0, 1000), chunk(0.0, 100.0, 1000), chunk(200.0, 200.0, 500)];
        assert_eq!(size_limit(&chunks, "time", 2500), None);
        let near = |most, expected: f64| {
            let limit = size_limit(&chunks, "time", most).expect("too many bytes");
            assert!((limit - expected).abs() < 1e-6, "{most}: {limit}");
        };
        near(2000, 50.0);
        near(1500, 100.0);
        near(750, 175.0);
        near(1, 200.0);
        assert_eq!(size_limit(&chunks, "at", 1), None, "documents without a time stay");
    }

    #[test]
    fn the_longest_span_that_has_begun_counts() {
        let rules = [Rule { after: 100.0, every: 10.0 }, Rule { after: 1000.0, every: 100.0 }];
        let rules = Rules::at(2055.0, &rules);
        assert_eq!(rules.youngest(), 1950.0);
        for (seconds, every) in [(1950.0, None), (1949.0, Some(10.0)), (1000.0, Some(10.0)), (999.0, Some(100.0))] {
            assert_eq!(rules.every(seconds), every, "{seconds}");
        }
    }
}
