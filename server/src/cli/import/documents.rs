//! JSON lines -> documents -> the JSON text of an INSERT term.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, anyhow};
use serde_json::{Map, Value};

/// A file of documents, one JSON object a line; compressed with zstd where its name ends in `.zst`.
pub(super) struct Documents {
    lines: Box<dyn BufRead>,
    path: String,
    line: u64,
    size: u64,
    read: Arc<AtomicU64>,
}

/// Counts the bytes that were read from the file, which is what progress can be measured by before the end is known.
struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        // Relaxed: a figure to show, which publishes nothing.
        self.read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl Documents {
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let what = || format!("cannot read documents from {}", path.display());
        let file = File::open(path).with_context(what)?;
        let size = file.metadata().with_context(what)?.len();
        let read = Arc::new(AtomicU64::new(0));
        let counted = Counted { file, read: Arc::clone(&read) };
        let lines: Box<dyn BufRead> = if path.extension().is_some_and(|extension| extension == "zst") {
            Box::new(BufReader::new(zstd::Decoder::new(counted).with_context(what)?))
        } else {
            Box::new(BufReader::new(counted))
        };
        Ok(Self { lines, path: path.display().to_string(), line: 0, size, read })
    }

    /// How much of the file was read, and how much there is, in bytes.
    pub(super) fn progress(&self) -> (u64, u64) {
        (self.read.load(Ordering::Relaxed).min(self.size), self.size)
    }

    /// The next document; empty lines are passed over.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Map<String, Value>>> {
        let mut text = String::new();
        loop {
            text.clear();
            self.line += 1;
            let place = || format!("{}:{}", self.path, self.line);
            if self.lines.read_line(&mut text).with_context(place)? == 0 {
                return Ok(None);
            }
            if text.trim().is_empty() {
                continue;
            }
            return serde_json::from_str(&text)
                .map(Some)
                .map_err(|problem| anyhow!("{}: not a JSON object on a line of its own: {problem}", place()));
        }
    }

    /// How many documents the file at `path` has. Reads all of it.
    pub(super) fn count(path: &Path) -> anyhow::Result<u64> {
        let mut documents = Self::open(path)?;
        let (mut count, mut text) = (0, String::new());
        while documents.lines.read_line(&mut text).with_context(|| documents.path.clone())? > 0 {
            count += u64::from(!text.trim().is_empty());
            text.clear();
        }
        Ok(count)
    }
}

/// Writes the term of a document: as its JSON text, but arrays are MAKE_ARRAY terms.
pub(super) fn write_object(object: &Map<String, Value>, term: &mut Vec<u8>) -> serde_json::Result<()> {
    write_fields(object, term)?;
    term.push(b'}');
    Ok(())
}

/// Like [`write_object`], with a further field of numbers.
pub(super) fn write_object_with(
    object: &Map<String, Value>,
    field: &str,
    numbers: &[f32],
    term: &mut Vec<u8>,
) -> serde_json::Result<()> {
    write_fields(object, term)?;
    if !object.is_empty() {
        term.push(b',');
    }
    serde_json::to_writer(&mut *term, field)?;
    term.extend_from_slice(b":[2,");
    // Not the shortest decimals of each f32: the nearest f64 to those is another number, and takes twice the space.
    let numbers: Vec<f64> = numbers.iter().copied().map(f64::from).collect();
    serde_json::to_writer(&mut *term, &numbers)?;
    term.extend_from_slice(b"]}");
    Ok(())
}

fn write_fields(object: &Map<String, Value>, term: &mut Vec<u8>) -> serde_json::Result<()> {
    term.push(b'{');
    for (position, (name, value)) in object.iter().enumerate() {
        if position > 0 {
            term.push(b',');
        }
        serde_json::to_writer(&mut *term, name)?;
        term.push(b':');
        write_value(value, term)?;
    }
    Ok(())
}

/// The depth is bounded: serde_json refuses to parse beyond 128 levels.
fn write_value(value: &Value, term: &mut Vec<u8>) -> serde_json::Result<()> {
    match value {
        Value::Object(object) => write_object(object, term),
        Value::Array(elements) => {
            term.extend_from_slice(b"[2,[");
            for (position, element) in elements.iter().enumerate() {
                if position > 0 {
                    term.push(b',');
                }
                write_value(element, term)?;
            }
            term.extend_from_slice(b"]]");
            Ok(())
        }
        scalar => serde_json::to_writer(term, scalar),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(name: &str, content: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        File::create(&path).unwrap().write_all(content).unwrap();
        (folder, path)
    }

    #[test]
    fn arrays_become_terms_at_every_depth() {
        let document: Map<String, Value> = serde_json::from_str(r#"{"a":[1,{"b":[]}],"c":null}"#).unwrap();
        let mut term = Vec::new();
        write_object(&document, &mut term).unwrap();
        assert_eq!(String::from_utf8(term).unwrap(), r#"{"a":[2,[1,{"b":[2,[]]}]],"c":null}"#);

        let mut term = Vec::new();
        write_object_with(&Map::new(), "v", &[0.5, -1.0], &mut term).unwrap();
        // What an f32 is, to the last bit.
        write_object_with(&Map::new(), "w", &[0.1], &mut term).unwrap();
        assert_eq!(String::from_utf8(term).unwrap(), r#"{"v":[2,[0.5,-1.0]]}{"w":[2,[0.10000000149011612]]}"#);
    }

    #[test]
    fn plain_and_compressed_lines_read_the_same() {
        let text = b"{\"id\":1}\n\n{\"id\":2}";
        let compressed = zstd::encode_all(&text[..], 0).unwrap();
        for (name, content) in [("a.jsonl", text.to_vec()), ("a.jsonl.zst", compressed)] {
            let (_folder, path) = file(name, &content);
            let mut documents = Documents::open(&path).unwrap();
            assert_eq!(documents.next().unwrap().unwrap()["id"], 1);
            assert_eq!(documents.next().unwrap().unwrap()["id"], 2);
            assert!(documents.next().unwrap().is_none());
            assert_eq!(documents.progress().0, documents.progress().1);
            assert_eq!(Documents::count(&path).unwrap(), 2);
        }
    }

    #[test]
    fn a_bad_line_is_named() {
        let (_folder, path) = file("a.jsonl", b"{}\n[1]\n");
        let mut documents = Documents::open(&path).unwrap();
        documents.next().unwrap();
        let error = documents.next().unwrap_err().to_string();
        assert!(error.contains("a.jsonl:2: not a JSON object"), "{error}");
    }
}
