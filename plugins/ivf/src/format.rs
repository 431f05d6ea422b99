//! The saved form of an index, version 1, between the frame of [`saved`]: everything is little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 1, 4, 1, 1 | type (0 ivf, 1 pq, 2 ivf_pq), dims, metric (0 cosine, 1 l2, 2 dot), numbers of a product code |
//! | 4 | with how many rows the quantiser was trained; 0 if there is none |
//! | 4 · dims, 64 · dims | if there is one: the mean, and for each dimension the numbers of 16 entries, f32 |
//! | 4 | how many lists |
//! | 4 · dims | for each list: its centre, if lists have such |
//! | 4, 4 · n | and its rows: how many, and their numbers in the column |
//!
//! Codes are not saved: they are made again from the column, so that no file can hold wrong ones.

use std::io::{Read, Write};

use photondb_plugin_sdk::PluginError;
use photondb_plugin_sdk::indexing::saved::{Reader, Writer, damaged};
use photondb_plugin_sdk::kinds::vector::Metric;

use crate::lists::Lists;
use crate::options::{Kind, Options};
use crate::quantiser::{ENTRIES, Quantiser};
use crate::vectors::Vectors;

const MARK: &[u8; 8] = b"PHDBIVFL";
const VERSION: u32 = 1;

/// What an index is, which has to be the same when it is loaded.
fn shape(kind: Kind, options: Options, metric: Metric, dims: usize) -> (u8, u32, u8, u8) {
    let kind_number = match kind {
        Kind::Ivf => 0,
        Kind::Pq => 1,
        Kind::IvfPq => 2,
    };
    let metric = match metric {
        Metric::Cosine => 0,
        Metric::L2 => 1,
        Metric::Dot => 2,
    };
    (kind_number, dims as u32, metric, if kind.is_quantised() { options.sub_dims(dims) as u8 } else { 0 })
}

/// Writes lists that have codes of the newest quantiser.
pub(crate) fn save(lists: &Lists, metric: Metric, trained_rows: usize, out: &mut dyn Write) -> Result<(), PluginError> {
    let mut writer = Writer::new(out, MARK, VERSION)?;
    let (kind, dims, metric, sub_dims) = shape(lists.kind, lists.options, metric, lists.dims());
    writer.bytes(&[kind])?;
    writer.number(dims)?;
    writer.bytes(&[metric, sub_dims])?;
    match lists.quantiser(lists.newest()) {
        Some(quantiser) => {
            writer.number(trained_rows as u32)?;
            writer.floats(quantiser.mean())?;
            writer.floats(quantiser.entries().as_flattened())?;
        }
        None => writer.number(0)?,
    }
    writer.number(lists.lists().len() as u32)?;
    for (at, list) in lists.lists().iter().enumerate() {
        if lists.kind.has_centres() {
            writer.floats(lists.centre(at))?;
        }
        writer.number(list.rows.len() as u32)?;
        list.rows.iter().try_for_each(|&row| writer.number(row))?;
    }
    writer.finish()
}

/// Reads what [`save`] wrote of an index of the same shape over the same column, and with how many rows its quantiser was
/// trained.
pub(crate) fn load(
    kind: Kind,
    options: Options,
    vectors: &Vectors,
    input: &mut dyn Read,
) -> Result<(Lists, usize), PluginError> {
    let mut reader = Reader::new(input, MARK, VERSION, kind.name())?;
    let found = (reader.byte()?, reader.number()?, reader.byte()?, reader.byte()?);
    let wanted = shape(kind, options, vectors.metric(), vectors.dims());
    if found != wanted {
        return Err(damaged(format_args!(
            "type, dims, metric and sub_dims are {found:?}, and those of the index {wanted:?}"
        )));
    }
    let dims = vectors.dims();
    let mut lists = Lists::new(kind, options, vectors.metric(), dims);
    lists.clear();
    let trained_rows = reader.number()? as usize;
    if trained_rows > 0 {
        if !kind.is_quantised() {
            return Err(damaged("it has a quantiser, which an index of this type has not"));
        }
        let mean = reader.floats(dims)?;
        let entries = reader.floats(dims * ENTRIES)?.as_chunks::<ENTRIES>().0.to_vec();
        lists.set_quantiser(Quantiser::new(mean, options.sub_dims(dims), entries));
    }
    let count = reader.number()?;
    if count == 0 {
        return Err(damaged("it has no list"));
    }
    for _ in 0..count {
        let centre = if kind.has_centres() { reader.floats(dims)? } else { Vec::new() };
        let list = lists.push_list(&centre);
        for _ in 0..reader.number()? {
            let row = reader.number()?;
            if lists.live().contains(row) {
                return Err(damaged(format_args!("it names row {row} twice")));
            }
            // Memory is taken for the rows before it as well, so that it has to be one.
            vectors.get(row).map_err(|error| damaged(error.message()))?;
            let code = lists.encode(list, vectors, row).map_err(|error| damaged(error.message()))?;
            lists.insert(list, row, &code);
        }
    }
    reader.finish()?;
    Ok((lists, trained_rows))
}
