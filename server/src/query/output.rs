//! Values on their way out: checked for what no client can read, then written as JSON.

use photondb_plugin_sdk::Datum;

use super::error::{ReqlError, Result};
use super::pseudo::{self, Limits, MAX_DEPTH, Obstacle};
use super::row::Row;
use super::workers::{on_parts, permitted_cores};
use crate::storage::Document;

/// Most bytes of JSON that one value may take. A response has to stay below 4 GiB.
const MAX_BYTES: usize = 1 << 30;
/// Most bytes of a string that a query makes of others. A few terms that double it could fill any memory otherwise.
const MAX_STRING: usize = 128 << 20;
/// Stored bytes that are worth a thread of their own: writing them takes far longer than starting it.
const BYTES_PER_THREAD: usize = 512 << 10;

/// Checks that a string that is being made may have this length.
///
/// # Errors
/// When it may not.
pub fn check_length(bytes: usize) -> Result<()> {
    if bytes <= MAX_STRING {
        return Ok(());
    }
    Err(ReqlError::limit(format!("A string would take more than {MAX_STRING} bytes, which is the most it may take.")))
}

/// Appends the value as JSON, what is stored of it straight from there, if a client can read it.
///
/// # Errors
/// As [`check_within`], and when what is stored is damaged; `out` may then end with a part of the text.
pub fn write(row: &Row, out: &mut Vec<u8>) -> Result<()> {
    refuse(pseudo::obstacle_in_row(row, &limits(MAX_BYTES)), MAX_BYTES)?;
    let threads = (row.stored_bytes() / BYTES_PER_THREAD).clamp(1, permitted_cores());
    write_row(row, threads, out)
}

fn write_row(row: &Row, threads: usize, out: &mut Vec<u8>) -> Result<()> {
    match row {
        Row::Value(datum) => datum.write_json(out),
        Row::Stored(document) => write_stored(document, out)?,
        Row::Neighbour(neighbour) => {
            out.extend_from_slice(br#"{"dist":"#);
            Datum::from(neighbour.distance()).write_json(out);
            out.extend_from_slice(br#","doc":"#);
            write_stored(neighbour.document(), out)?;
            out.push(b'}');
        }
        Row::List(list) => {
            out.push(b'[');
            write_rows(list.rows(), threads, out)?;
            out.push(b']');
        }
    }
    Ok(())
}

/// Writes rows on so many threads, of which the caller's is one.
fn write_rows(rows: &[Row], threads: usize, out: &mut Vec<u8>) -> Result<()> {
    if threads == 1 {
        return write_each(rows, out);
    }
    let texts = on_parts(rows, rows.len().div_ceil(threads), |part| {
        let mut text = Vec::new();
        write_each(part, &mut text).map(|()| text)
    });
    for (at, text) in texts.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(&text?);
    }
    Ok(())
}

fn write_each(rows: &[Row], out: &mut Vec<u8>) -> Result<()> {
    for (at, row) in rows.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write_row(row, 1, out)?;
    }
    Ok(())
}

fn write_stored(document: &Document, out: &mut Vec<u8>) -> Result<()> {
    if document.view().is_some_and(|view| view.write_json(out).is_ok()) {
        return Ok(());
    }
    // It is damaged, which decoding tells in full.
    Err(document.datum().err().map_or_else(|| ReqlError::internal("A document can't be written."), Into::into))
}

fn limits(bytes: usize) -> Limits {
    Limits { depth: MAX_DEPTH + 1, array: usize::MAX, bytes }
}

/// Checks that a client can read the value, and that its JSON takes no more than so many bytes.
///
/// # Errors
/// When there is `r.minval`, `r.maxval` or a stray literal in it, or it is too deep or too large.
pub fn check_within(datum: &Datum, bytes: usize) -> Result<()> {
    refuse(pseudo::obstacle(datum, &limits(bytes)), bytes)
}

fn refuse(obstacle: Option<Obstacle>, bytes: usize) -> Result<()> {
    match obstacle {
        None | Some(Obstacle::LongArray) => Ok(()),
        Some(Obstacle::Min) => Err(ReqlError::logic("Cannot convert `r.minval` to JSON.")),
        Some(Obstacle::Max) => Err(ReqlError::logic("Cannot convert `r.maxval` to JSON.")),
        Some(Obstacle::Literal) => Err(ReqlError::logic(
            "Stray literal keyword found: literal is only legal inside of the object passed to merge or update and cannot \
             nest inside another literal.",
        )),
        Some(Obstacle::Unread) => Err(pseudo::unread()),
        Some(Obstacle::Depth) => Err(pseudo::too_deep()),
        Some(Obstacle::Size) => Err(ReqlError::limit(format!(
            "A value takes more than {bytes} bytes as JSON; leave parts of it out, or return it as a stream."
        ))),
    }
}

/// The value as JSON text.
///
/// # Errors
/// As [`check_within`].
pub fn text(datum: &Datum) -> Result<String> {
    check_within(datum, MAX_STRING)?;
    Ok(datum.to_json_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use photondb_plugin_sdk::datum::Time;
    use proptest::prelude::*;

    use super::*;
    use crate::query::pseudo::{maxval, minval, obstacle, obstacle_in_row};

    fn values() -> impl Strategy<Value = Datum> {
        let numbers = prop::collection::vec(-1e9..1e9_f64, 0..9);
        let leaf = prop_oneof![
            Just(Datum::Null),
            any::<bool>().prop_map(Datum::from),
            (-1e9..1e9_f64).prop_map(Datum::from),
            ".{0,9}".prop_map(Datum::from),
            prop::collection::vec(any::<u8>(), 0..9).prop_map(|bytes| Datum::Binary(bytes.into())),
            (-1e9..1e9_f64).prop_map(|seconds| Datum::Time(Time::new(seconds, 60).unwrap())),
            numbers.prop_map(|numbers| Datum::array(numbers.into_iter().map(Datum::from))),
            prop::sample::select(vec![minval(), maxval(), pseudo::literal(None)]),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                4 => prop::collection::vec(inner.clone(), 0..4).prop_map(Datum::from),
                4 => prop::collection::vec((".{0,3}", inner), 0..4).prop_map(Datum::object),
            ]
        })
    }

    /// The row as it is stored, and as what a search finds.
    fn rows(document: &Arc<Document>) -> [Row; 3] {
        let found = Row::neighbour(0.25, document.clone());
        [Row::Stored(document.clone()), found.clone(), [found.clone(), found].into_iter().collect()]
    }

    proptest! {
        #[test]
        fn rows_are_written_as_their_values(value in values()) {
            for row in rows(&Arc::new(Document::of(&value))) {
                let (mut text, datum) = (Vec::new(), row.datum().unwrap().clone());
                match write(&row, &mut text) {
                    Ok(()) => prop_assert_eq!(String::from_utf8(text).unwrap(), datum.to_json_string()),
                    Err(error) => {
                        let expected = check_within(&datum, MAX_BYTES).unwrap_err();
                        prop_assert_eq!(error.message(), expected.message());
                    }
                }
            }
        }

        #[test]
        fn rows_are_measured_as_their_values(value in values(), depth in 1..7_usize, bytes in 0..400_usize) {
            let limits = Limits { depth, array: 6, bytes };
            for row in rows(&Arc::new(Document::of(&value))) {
                prop_assert_eq!(obstacle_in_row(&row, &limits), obstacle(row.datum().unwrap(), &limits));
            }
        }

        #[test]
        fn damage_is_an_error(value in values(), at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
            let mut bytes = value.encoded();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            for row in rows(&Arc::new(Document::of_bytes(&bytes))) {
                let mut text = Vec::new();
                match (write(&row, &mut text), row.datum()) {
                    (Ok(()), Ok(datum)) => prop_assert_eq!(String::from_utf8(text).unwrap(), datum.to_json_string()),
                    (Ok(()), Err(error)) => prop_assert!(false, "{} was written", error),
                    (Err(_), _) => {}
                }
            }
        }
    }
}
