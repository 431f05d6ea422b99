//! Reads NumPy's files.

use std::error::Error;
use std::path::{Path, PathBuf};

/// The file of embeddings in a folder, whatever the set is called.
pub fn embeddings(folder: &Path) -> Option<PathBuf> {
    let mut paths = std::fs::read_dir(folder).ok()?.filter_map(|file| file.ok().map(|file| file.path()));
    paths.find(|path| path.to_string_lossy().ends_with("embeddings.f16.npy"))
}

/// The numbers of a two-dimensional array in version 1 of NumPy's format, and the length of a row.
pub fn read<T, const N: usize>(path: &Path, number: impl Fn([u8; N]) -> T) -> Result<(Vec<T>, usize), Box<dyn Error>> {
    let bytes = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let length = bytes.get(8..10).map_or(0, |length| usize::from(u16::from_le_bytes([length[0], length[1]])));
    let header = bytes.get(10..10 + length).ok_or("not a .npy file")?;
    let header = std::str::from_utf8(header)?;
    let shape = header.split_once("'shape': (").and_then(|(_, shape)| shape.split_once(')')).ok_or("no shape")?.0;
    let width: usize = shape.split(',').nth(1).ok_or("not two-dimensional")?.trim().parse()?;
    Ok((bytes[10 + length..].as_chunks::<N>().0.iter().map(|&bytes| number(bytes)).collect(), width))
}
