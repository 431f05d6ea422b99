//! `photondb import`: JSON lines, with or without a `.npy` file of vectors, into a table.

mod documents;
pub(crate) mod npy;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use self::documents::Documents;
use self::npy::Vectors;
use super::client::Client;
use super::progress::Progress;
use super::{Connection, TableName};

/// Documents in one INSERT: enough to make the cost of a round trip small, ...
const BATCH_DOCUMENTS: usize = 500;
/// ... unless they are long.
const BATCH_BYTES: usize = 4 << 20;
/// INSERTs on their way at once: one is read and written down while the server works on the others.
const IN_FLIGHT: usize = 4;

/// Imports documents from JSON lines, optionally with vectors from a .npy file
///
/// The database and the table are created where they are missing. Row N of the .npy file becomes the field --field of
/// document N.
#[derive(Debug, Args)]
pub struct Import {
    /// Where to: DATABASE.TABLE, or the name of a table of the database `test`
    #[arg(long, value_name = "DATABASE.TABLE")]
    table: TableName,
    /// JSON lines, one document a line; compressed with zstd if the name ends in .zst
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Vectors, one row a document: float16, float32 or float64
    #[arg(long, value_name = "FILE", requires = "field")]
    vectors: Option<PathBuf>,
    /// The field that the vector goes to
    #[arg(long, value_name = "NAME", requires = "vectors")]
    field: Option<String>,
    /// What to do with a document whose primary key is there already
    #[arg(long, value_enum, default_value_t)]
    conflict: Conflict,
    /// The primary key, where the table has to be created
    #[arg(long, value_name = "NAME", default_value = "id")]
    primary_key: String,
    #[command(flatten)]
    connection: Connection,
}

/// What to do with a document whose primary key is there already.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum Conflict {
    /// Keep the one that is there and count an error
    #[default]
    Error,
    /// Put the new one in its place
    Replace,
    /// Merge the new one into it
    Update,
}

impl Conflict {
    fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Replace => "replace",
            Self::Update => "update",
        }
    }
}

/// The INSERTs of one import.
struct Inserts<'a> {
    client: &'a mut Client,
    /// What comes before the documents and after them.
    before: Vec<u8>,
    after: Vec<u8>,
    term: Vec<u8>,
    documents: usize,
    in_flight: BTreeSet<u64>,
    done: Totals,
}

#[derive(Default)]
struct Totals {
    written: u64,
    errors: u64,
    first_error: Option<String>,
}

impl Import {
    /// Runs the command.
    ///
    /// # Errors
    /// A file cannot be read, the server cannot be reached, or it refused documents.
    pub fn run(&self) -> anyhow::Result<()> {
        let mut documents = Documents::open(&self.file)?;
        let mut vectors = self.vectors.as_deref().map(Vectors::open).transpose()?;
        if let (Some(vectors), Some(path)) = (&vectors, &self.vectors) {
            // Known before the first document is written, rather than when half of them are.
            let count = Documents::count(&self.file)?;
            let (file, path, rows) = (self.file.display(), path.display(), vectors.rows());
            ensure!(count == rows, "{file} has {count} documents and {path} has {rows} rows; they must be as many");
        }
        let mut client = self.connection.connect()?;
        self.create_table(&mut client)?;

        let started = Instant::now();
        // Without vectors the number of documents is unknown until the last one is read, so bytes are counted instead.
        let rows = vectors.as_ref().map(Vectors::rows);
        let mut progress = Progress::new("import", rows.unwrap_or_else(|| documents.progress().1));
        let mut inserts = Inserts::new(&mut client, &self.table, self.conflict)?;
        let mut row = Vec::new();
        while let Some(document) = documents.next()? {
            inserts.begin();
            match (&mut vectors, &self.field) {
                (Some(vectors), Some(field)) => {
                    vectors.next(&mut row)?;
                    let finite = row.iter().all(|number| number.is_finite());
                    ensure!(
                        finite,
                        "a vector has a number that is not finite, beside the document {}",
                        json!(document)
                    );
                    documents::write_object_with(&document, field, &row, &mut inserts.term)?;
                }
                _ => documents::write_object(&document, &mut inserts.term)?,
            }
            inserts.end()?;
            let written = inserts.done.written;
            progress.at(rows.map_or_else(|| documents.progress().0, |_| written), &format!("{written} documents"));
        }
        let done = inserts.finish()?;
        // Written softly for speed, so made durable once, here.
        client.run(&serde_json::to_vec(&json!([138, [self.table.term()]]))?)?;
        progress.finish(&format!("{} documents", done.written));

        let seconds = started.elapsed().as_secs_f64();
        let rate = done.written as f64 / seconds.max(0.001);
        writeln!(
            std::io::stdout(),
            "imported {} documents into {} in {seconds:.1} s ({rate:.0} a second)",
            done.written,
            self.table
        )?;
        let first = done.first_error.unwrap_or_default();
        ensure!(done.errors == 0, "{} documents were refused, the first one because: {first}", done.errors);
        Ok(())
    }

    fn create_table(&self, client: &mut Client) -> anyhow::Result<()> {
        let TableName { database, table } = &self.table;
        let has = |list: Value, name: &str| list.as_array().is_some_and(|names| names.contains(&json!(name)));
        let mut run = |term: Value| -> anyhow::Result<Value> { Ok(client.run(&serde_json::to_vec(&term)?)?) };
        if !has(run(json!([59]))?, database) {
            run(json!([57, [database]])).with_context(|| format!("cannot create the database `{database}`"))?;
        }
        let db = json!([14, [database]]);
        if !has(run(json!([62, [db]]))?, table) {
            run(json!([60, [db, table], {"primary_key": self.primary_key}]))
                .with_context(|| format!("cannot create the table `{}`", self.table))?;
        }
        Ok(())
    }
}

impl<'a> Inserts<'a> {
    fn new(client: &'a mut Client, table: &TableName, conflict: Conflict) -> anyhow::Result<Self> {
        let mut before = b"[56,[".to_vec();
        serde_json::to_writer(&mut before, &table.term())?;
        before.extend_from_slice(b",[2,[");
        let after = format!(r#"]]],{{"conflict":"{}","durability":"soft"}}]"#, conflict.name()).into_bytes();
        let done = Totals::default();
        Ok(Self { client, before, after, term: Vec::new(), documents: 0, in_flight: BTreeSet::new(), done })
    }

    /// Makes room in `term` for one more document.
    fn begin(&mut self) {
        if self.documents == 0 {
            self.term.clone_from(&self.before);
        } else {
            self.term.push(b',');
        }
    }

    /// The document is written.
    fn end(&mut self) -> anyhow::Result<()> {
        self.documents += 1;
        if self.documents == BATCH_DOCUMENTS || self.term.len() >= BATCH_BYTES {
            self.send()?;
        }
        Ok(())
    }

    fn send(&mut self) -> anyhow::Result<()> {
        self.term.extend_from_slice(&self.after);
        self.in_flight.insert(self.client.send(&self.term)?);
        self.documents = 0;
        if self.in_flight.len() == IN_FLIGHT { self.receive() } else { Ok(()) }
    }

    fn receive(&mut self) -> anyhow::Result<()> {
        let (token, response) = self.client.receive()?;
        self.in_flight.remove(&token);
        let summary = response.into_value()?;
        let count = |field: &str| summary[field].as_f64().unwrap_or_default() as u64;
        self.done.written += count("inserted") + count("replaced") + count("unchanged");
        self.done.errors += count("errors");
        if let (None, Some(error)) = (&self.done.first_error, summary["first_error"].as_str()) {
            // Its further lines show both documents whole, vectors and all.
            self.done.first_error = error.lines().next().map(str::to_owned);
        }
        Ok(())
    }

    fn finish(mut self) -> anyhow::Result<Totals> {
        if self.documents > 0 {
            self.send()?;
        }
        while !self.in_flight.is_empty() {
            self.receive()?;
        }
        Ok(self.done)
    }
}
