//! What is left of documents that were down-sampled: one document for each span of time and series.
//!
//! A field of numbers keeps its name and has the mean of them; beside it are `FIELD.min`, `FIELD.max` and `FIELD.count`.
//! `downsampled` is the span in seconds, `downsampled.count` how many documents it was. Other fields are gone. So summaries can
//! be summed up again, and queries for the mean go on as they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::{Object, Time};

/// The field with the span.
pub(crate) const SPAN: &str = "downsampled";
/// The field with the number of documents.
const DOCUMENTS: &str = "downsampled.count";
const MIN: &str = ".min";
const MAX: &str = ".max";
const COUNT: &str = ".count";
/// The longest text of a series: a primary key must not become too long.
const LONGEST_SERIES: usize = 100;

/// How a table names the fields that every document has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a> {
    pub(crate) primary_key: &'a str,
    pub(crate) time: &'a str,
    pub(crate) series: Option<&'a str>,
}

/// The time of a document, in seconds, and how it is written: `None` where it has none.
pub(crate) fn time_of(document: &Datum, field: &str) -> Option<(Clock, f64)> {
    match document.get(field)? {
        Datum::Time(time) => Some((Clock::Time, time.epoch_seconds())),
        Datum::Number(seconds) => Some((Clock::Number, *seconds)),
        _ => None,
    }
}

/// The span of the summary that a document is, in seconds; 0 for one that is none.
pub(crate) fn span_of(document: &Datum) -> f64 {
    document.get(SPAN).and_then(Datum::as_number).unwrap_or(0.0)
}

/// How times are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Clock {
    /// As ReQL's times.
    Time,
    /// As seconds since 1970.
    Number,
}

impl Clock {
    /// A time so written; `None` where there is no such time.
    pub(crate) fn write(self, seconds: f64) -> Option<Datum> {
        match self {
            Self::Time => Time::new(seconds, 0).ok().map(Datum::Time),
            Self::Number => Some(Datum::Number(seconds)),
        }
    }
}

/// A span of time of a series.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Bucket {
    pub(crate) clock: Clock,
    pub(crate) start: f64,
    pub(crate) every: f64,
    series: Option<Datum>,
}

impl Bucket {
    /// The bucket of a document at `seconds`; `None` where its series can't be part of a primary key, or there is no such
    /// time.
    pub(crate) fn of(document: &Datum, fields: Fields<'_>, clock: Clock, seconds: f64, every: f64) -> Option<Self> {
        let series = fields.series.and_then(|field| document.get(field)).filter(|series| **series != Datum::Null);
        let is_short = match series {
            None | Some(Datum::Number(_) | Datum::Bool(_)) => true,
            Some(Datum::String(text)) => text.len() <= LONGEST_SERIES && !text.contains('\0'),
            Some(_) => false,
        };
        let bucket = Self { clock, start: (seconds / every).floor() * every, every, series: series.cloned() };
        (is_short && clock.write(bucket.start).is_some()).then_some(bucket)
    }

    /// The primary key of its summary: the series, if there is one, where it begins, and how long it is.
    pub(crate) fn id(&self) -> Datum {
        let rest = [self.clock.write(self.start).unwrap_or(Datum::Null), Datum::Number(self.every)];
        Datum::array(self.series.clone().into_iter().chain(rest))
    }
}

/// Numbers of one field.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Numbers {
    count: f64,
    sum: f64,
    min: f64,
    max: f64,
}

impl Numbers {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.sum += other.sum;
        (self.min, self.max) = (self.min.min(other.min), self.max.max(other.max));
    }

    fn mean(self) -> f64 {
        // A sum may be beyond all numbers; the mean never is.
        (self.sum / self.count).clamp(self.min, self.max)
    }
}

/// What the documents of a bucket come to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summary {
    documents: f64,
    fields: BTreeMap<Arc<str>, Numbers>,
}

impl Summary {
    /// Adds a document, or a summary of documents.
    pub(crate) fn add(&mut self, document: &Datum, names: Fields<'_>) {
        let Some(object) = document.as_object() else { return };
        let is_summary = span_of(document) > 0.0;
        let number = |name: &str| object.get(name).and_then(Datum::as_number);
        let positive = |name: &str| number(name).filter(|number| *number >= 1.0);
        self.documents += if is_summary { positive(DOCUMENTS).unwrap_or(1.0) } else { 1.0 };
        for (name, value) in object.iter() {
            let is_own = [names.primary_key, names.time, SPAN, DOCUMENTS].contains(&&**name)
                || names.series == Some(name)
                || [MIN, MAX, COUNT].iter().any(|suffix| name.ends_with(suffix));
            let Some(mean) = value.as_number().filter(|_| !is_own) else { continue };
            let count = if is_summary { positive(&format!("{name}{COUNT}")).unwrap_or(1.0) } else { 1.0 };
            let bound = |suffix| if is_summary { number(&format!("{name}{suffix}")).unwrap_or(mean) } else { mean };
            let (min, max) = (bound(MIN).min(mean), bound(MAX).max(mean));
            let numbers = Numbers { count, sum: mean * count, min, max };
            self.fields.entry(Arc::clone(name)).and_modify(|known| known.add(numbers)).or_insert(numbers);
        }
    }

    /// The document of a bucket.
    pub(crate) fn document(&self, bucket: &Bucket, names: Fields<'_>) -> Datum {
        let mut document = Object::new();
        for (name, numbers) in &self.fields {
            document.insert(Arc::clone(name), numbers.mean());
            document.insert(format!("{name}{MIN}"), numbers.min);
            document.insert(format!("{name}{MAX}"), numbers.max);
            document.insert(format!("{name}{COUNT}"), numbers.count);
        }
        document.insert(SPAN, bucket.every);
        document.insert(DOCUMENTS, self.documents);
        if let (Some(field), Some(series)) = (names.series, &bucket.series) {
            document.insert(field, series.clone());
        }
        document.insert(names.time, bucket.clock.write(bucket.start).unwrap_or(Datum::Null));
        document.insert(names.primary_key, bucket.id());
        Datum::Object(Arc::new(document))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: Fields<'_> = Fields { primary_key: "id", time: "time", series: Some("sensor") };

    fn document(at: f64, celsius: f64) -> Datum {
        Datum::object([
            ("id", Datum::from(format!("x{at}"))),
            ("time", at.into()),
            ("sensor", "a".into()),
            ("celsius", celsius.into()),
            ("note", "lost".into()),
        ])
    }

    fn bucket(document: &Datum, every: f64) -> Bucket {
        let (clock, seconds) = time_of(document, "time").expect("a time");
        Bucket::of(document, NAMES, clock, seconds, every).expect("a bucket")
    }

    #[test]
    fn a_summary_has_mean_least_greatest_and_number() {
        let mut summary = Summary::default();
        let documents = [document(65.0, 1.0), document(70.0, 3.0), document(119.5, 8.0)];
        documents.iter().for_each(|document| summary.add(document, NAMES));
        let summed = summary.document(&bucket(&documents[0], 60.0), NAMES);
        let expected = r#"{"celsius":4,"celsius.count":3,"celsius.max":8,"celsius.min":1,"downsampled":60,"downsampled.count":3,"id":["a",60,60],"sensor":"a","time":60}"#;
        assert_eq!(summed.to_json_string(), expected);
    }

    #[test]
    fn summaries_are_summed_up_again() {
        let part = |documents: &[Datum], every| {
            let mut summary = Summary::default();
            documents.iter().for_each(|document| summary.add(document, NAMES));
            summary.document(&bucket(&documents[0], every), NAMES)
        };
        let documents: Vec<Datum> = (0..8).map(|at| document(f64::from(at * 10), f64::from(at * at))).collect();
        let parts = [part(&documents[..6], 60.0), part(&documents[6..], 60.0)];
        assert_eq!(part(&parts, 3600.0), part(&documents, 3600.0));
    }

    #[test]
    fn the_largest_numbers_stay_numbers() {
        let mut summary = Summary::default();
        (0..3).for_each(|at| summary.add(&document(f64::from(at), f64::MAX), NAMES));
        let document = summary.document(&bucket(&document(0.0, 0.0), 60.0), NAMES);
        assert_eq!(document.get("celsius"), Some(&Datum::Number(f64::MAX)));
    }

    #[test]
    fn what_can_be_no_key_has_no_bucket() {
        let with = |series: Datum| Datum::object([("time", Datum::from(1)), ("sensor", series)]);
        let of = |series: Datum| Bucket::of(&with(series), NAMES, Clock::Number, 1.0, 60.0);
        assert!(of("a".repeat(101).into()).is_none() && of("a\0".into()).is_none());
        assert!(of(Datum::array([])).is_none());
        assert_eq!(of(Datum::Null).map(|bucket| bucket.id().to_json_string()).as_deref(), Some("[0,60]"));
        assert_eq!(of(7.into()).map(|bucket| bucket.id().to_json_string()).as_deref(), Some("[7,0,60]"));
    }
}
