//! The saved form of an index, version 1. Everything is little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | the mark of its type: `PHDBHNSW`, `PHDBVAMA` |
//! | 4 | version, 1 |
//! | 4, 1, 1 | dims, metric (0 cosine, 1 l2, 2 dot), `m` or the degree |
//! | 4 | n, how many rows |
//! | 4 | the entry's number among them; `0xffff_ffff` if n is 0 |
//! | 1 | 1 if a centre follows, otherwise 0 |
//! | 4 · dims | the centre of the codes, f32 |
//! | 5 · n | for each row: its number in the column, its highest layer (1 byte) |
//! | | for each row and each of its layers from 0 up: how many neighbours (2 bytes), their numbers among the rows |
//! | 4 | CRC-32 of all bytes before |
//!
//! Codes are not saved: they are made again from the column in less time than it takes to build a graph by far, and
//! would be three quarters of the file. Tombstones are not saved either; `save` comes after a repair.
//!
//! A reader believes nothing: numbers are checked against each other and against the column, and memory is taken only
//! for bytes that are there.

use std::io::{Read, Write};
use std::sync::atomic::Ordering;

use photondb_plugin_sdk::PluginError;
use photondb_plugin_sdk::column::VectorColumn;
use photondb_plugin_sdk::indexing::saved::{Reader, Writer, damaged};
use photondb_plugin_sdk::kinds::vector::Metric;

use crate::Family;
use crate::encoder::{EncodeScratch, Encoder};
use crate::graph::{Graph, Shape};
use crate::links::NONE;
use crate::search::vector;

const VERSION: u32 = 1;

fn metric_number(metric: Metric) -> u8 {
    match metric {
        Metric::Cosine => 0,
        Metric::L2 => 1,
        Metric::Dot => 2,
    }
}

/// Writes a graph without tombstones.
pub(crate) fn save(family: &Family, graph: &Graph, out: &mut dyn Write) -> Result<(), PluginError> {
    let shape = graph.shape();
    let mut writer = Writer::new(out, &family.mark, VERSION)?;
    // Free nodes are left out, so that nodes have other numbers in the file.
    let mut numbers = vec![NONE; graph.len()];
    let mut count = 0;
    for node in graph.live_nodes() {
        numbers[node as usize] = count;
        count += 1;
    }
    writer.number(shape.dims as u32)?;
    writer.bytes(&[metric_number(shape.metric), shape.layers.number() as u8])?;
    writer.number(count)?;
    writer.number(graph.entry().map_or(NONE, |entry| numbers[entry as usize]))?;
    let centre = graph.encoder().centre();
    writer.bytes(&[u8::from(!centre.is_empty())])?;
    writer.floats(centre)?;
    for node in graph.live_nodes() {
        writer.number(graph.row(node))?;
        writer.bytes(&[graph.links().top_layer(node) as u8])?;
    }
    let mut neighbours = Vec::new();
    for node in graph.live_nodes() {
        for layer in 0..=graph.links().top_layer(node) {
            neighbours.clear();
            neighbours.extend(graph.links().of(node, layer).map(|neighbour| numbers[neighbour as usize]));
            writer.bytes(&(neighbours.len() as u16).to_le_bytes())?;
            neighbours.iter().try_for_each(|&neighbour| writer.number(neighbour))?;
        }
    }
    writer.finish()
}

/// Reads what [`save`] wrote of an index of the same shape over the same column.
pub(crate) fn load(
    family: &Family,
    shape: Shape,
    column: &VectorColumn,
    input: &mut dyn Read,
) -> Result<Graph, PluginError> {
    let mut reader = Reader::new(input, &family.mark, VERSION, family.name)?;
    let (count, entry, encoder) = load_header(&mut reader, shape)?;
    let mut graph = Graph::new(shape, encoder);
    load_rows(&mut reader, column, count, &mut graph)?;
    load_links(&mut reader, &graph)?;
    reader.finish()?;
    let highest = (0..count).map(|node| graph.links().top_layer(node)).max();
    match highest {
        None if entry == NONE => {}
        Some(highest) if entry < count && graph.links().top_layer(entry) == highest => {
            graph.set_entry(Some(entry));
            graph.rows_at_entry.store(count as usize, Ordering::Relaxed);
        }
        _ => return Err(damaged(format_args!("its entry {entry} is not a row of the highest layer"))),
    }
    Ok(graph)
}

fn load_header(reader: &mut Reader<'_>, shape: Shape) -> Result<(u32, u32, Encoder), PluginError> {
    let found = (reader.number()?, reader.byte()?, reader.byte()?);
    let wanted = (shape.dims as u32, metric_number(shape.metric), shape.layers.number() as u8);
    if found != wanted {
        let what = format_args!("dims, metric and neighbours are {found:?}, and those of the index {wanted:?}");
        return Err(damaged(what));
    }
    let (count, entry) = (reader.number()?, reader.number()?);
    let centre = match reader.byte()? {
        0 => Vec::new(),
        1 => reader.floats(shape.dims)?,
        other => return Err(damaged(format_args!("its mark for a centre is {other}"))),
    };
    Ok((count, entry, Encoder::with_centre(shape.metric, shape.dims, centre)))
}

fn load_rows(reader: &mut Reader<'_>, column: &VectorColumn, count: u32, graph: &mut Graph) -> Result<(), PluginError> {
    let encoder = graph.encoder().clone();
    let mut scratch = EncodeScratch::default();
    for _ in 0..count {
        let (row, top) = (reader.number()?, usize::from(reader.byte()?));
        if graph.node(row).is_some() {
            return Err(damaged(format_args!("it names row {row} twice")));
        }
        let highest = graph.shape().layers.highest();
        if top > highest {
            return Err(damaged(format_args!("row {row} is in layer {top}, and {highest} is the highest")));
        }
        let values = vector(column, row).map_err(|error| damaged(error.message()))?;
        let encoded = encoder.encode(values, graph.shape().dims, &mut scratch);
        graph.add_to_layers(row, &encoded, top).ok_or_else(|| damaged("it has too many rows"))?;
    }
    Ok(())
}

fn load_links(reader: &mut Reader<'_>, graph: &Graph) -> Result<(), PluginError> {
    let mut neighbours = Vec::new();
    for node in 0..graph.len() as u32 {
        for layer in 0..=graph.links().top_layer(node) {
            let length = usize::from(u16::from_le_bytes(reader.bytes()?));
            if length > graph.links().limit(layer) {
                return Err(damaged(format_args!("row {} has {length} neighbours", graph.row(node))));
            }
            neighbours.clear();
            for _ in 0..length {
                let neighbour = reader.number()?;
                let exists = (neighbour as usize) < graph.len() && graph.links().top_layer(neighbour) >= layer;
                if !exists || neighbour == node {
                    return Err(damaged(format_args!("a neighbour of row {} can't be one", graph.row(node))));
                }
                neighbours.push(neighbour);
            }
            graph.links().set(node, layer, &neighbours);
        }
    }
    Ok(())
}
