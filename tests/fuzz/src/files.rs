//! Files that somebody else may have written.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use photondb_plugin_hnsw::Hnsw;
use photondb_plugin_ivf::{IndexType, Kind};
use photondb_plugin_sdk::column::{ColumnShape, Element, VectorColumn};
use photondb_plugin_sdk::kinds::vector::{IndexOptions, Metric, SearchRequest, SearchResults, VectorIndexPlugin};
use photondb_plugin_sdk::{Cancel, Datum};
use photondb_plugin_vamana::Vamana;
use photondb_server::fuzzing::{self, Vectors};

/// `vectors/INDEX/graph`. The checksum is put right, or nothing would come behind it.
pub fn saved_graph(bytes: &[u8]) {
    let mut bytes = bytes.to_vec();
    if bytes.len() >= 12 {
        let checksum = crc32fast::hash(&bytes[12..]);
        bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
    }
    if let Some((rows, graph)) = fuzzing::saved_graph(&bytes) {
        assert!(rows.div_ceil(64) * 8 + graph <= bytes.len());
    }
}

/// The plugin's part of it, which the plugin reads back within its sandbox; its checksum is at the end.
pub fn hnsw_graph(bytes: &[u8]) {
    saved_index(&Hnsw::default(), bytes);
}

/// As [`hnsw_graph`], of one layer.
pub fn vamana_graph(bytes: &[u8]) {
    saved_index(&Vamana::default(), bytes);
}

/// As [`hnsw_graph`], of lists; the first byte behind mark and version is their type.
pub fn ivf_lists(bytes: &[u8]) {
    let kind = match bytes.get(12) {
        Some(1) => Kind::Pq,
        Some(2) => Kind::IvfPq,
        _ => Kind::Ivf,
    };
    saved_index(&IndexType::new(kind), bytes);
}

fn saved_index(plugin: &dyn VectorIndexPlugin, bytes: &[u8]) {
    static COLUMN: OnceLock<Arc<VectorColumn>> = OnceLock::new();
    let column = COLUMN.get_or_init(|| {
        let rows: Vec<f32> = (0..64 * 3).map(|number| ((number * 37 % 101) as f32).sin()).collect();
        Arc::new(VectorColumn::in_memory(3, Element::F32, &rows).expect("memory"))
    });
    let options = IndexOptions { dims: 3, metric: Metric::L2, settings: Datum::Null };
    let index = plugin.create(&options, Arc::clone(column)).expect("an index");
    let mut bytes = bytes.to_vec();
    if let Some(body) = bytes.len().checked_sub(4) {
        let checksum = crc32fast::hash(&bytes[..body]);
        bytes[body..].copy_from_slice(&checksum.to_le_bytes());
    }
    if index.load(&mut bytes.as_slice()).is_err() {
        return;
    }
    // What was taken over can be searched and changed.
    let (mut rows, mut distances, mut counts) = ([0; 4], [0.0; 4], [0; 1]);
    let request =
        SearchRequest { queries: &[0.1, 0.2, 0.3], k: 4, allow: None, settings: &Datum::Null, cancel: Cancel::never() };
    let mut results = SearchResults { rows: &mut rows, distances: &mut distances, counts: &mut counts };
    let _ = index.search(&request, &mut results);
    let _ = index.insert(&[1, 2, 3]);
    let _ = index.remove(&[1]);
    let _ = index.save(&mut Vec::new());
}

/// A segment of a column: its shape and size, and the rows that are asked for.
pub fn column(bytes: &[u8]) {
    let Some((head, rows)) = bytes.split_first_chunk::<13>() else { return };
    let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let element = if head[12] & 1 == 0 { Element::F32 } else { Element::F16 };
    let shape = if head[12] & 2 == 0 {
        ColumnShape::with_segments(number(0), element, number(4))
    } else {
        ColumnShape::with_segments(number(0) % 8, element, 64)
    };
    let Some(shape) = shape else { return };
    let stride = shape.stride() as u64 * u64::from(shape.rows_per_segment());
    let column = VectorColumn::new(shape);
    let file = tempfile::tempfile().expect("a file");
    let size = if head[12] & 4 == 0 { stride } else { u64::from(number(8)) };
    // Sparse; a size that the file system refuses is not ours to check.
    if file.set_len(size).is_err() {
        return;
    }
    let attached = column.attach(u32::from(head[12] >> 3), &OwnedFd::from(file));
    assert!(attached.is_err() || size == stride);
    let mut values = vec![0.0; column.dims()];
    for row in rows.as_chunks().0.iter().take(16) {
        if let Some(row) = column.row(u32::from_le_bytes(*row)) {
            row.copy_to(&mut values);
        }
    }
}

/// A `.npy` file to import.
pub fn npy(bytes: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(bytes).expect("written");
    let Ok(mut vectors) = Vectors::open(file.path()) else { return };
    let mut row = Vec::new();
    for _ in 0..vectors.rows().min(64) {
        vectors.next(&mut row).expect("as many rows as the header and the size agree on");
    }
}
