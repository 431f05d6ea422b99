//! Lines of JSON over a pair of pipes, as with executable functions of other databases: a text, or a number a line.

use std::io::{BufRead, BufReader, BufWriter, Write, stdin, stdout};
use std::process::Stdio;

use anyhow::Context;

use super::Arguments;
use super::pair::Other;
use super::timing::Timing;

pub fn ask(arguments: &Arguments) -> anyhow::Result<()> {
    let mut other = Other::start_with(Stdio::piped(), Stdio::piped())?;
    let mut requests = BufWriter::with_capacity(1 << 16, other.0.stdin.take().context("no pipe")?);
    let mut replies = BufReader::with_capacity(1 << 16, other.0.stdout.take().context("no pipe")?);
    let text = "x".repeat(arguments.bytes);
    let rows: Vec<f64> = (0..arguments.rows).map(|row| row as f64 * 1.234_567).collect();
    let mut results = vec![0.0; rows.len()];
    let mut line = String::new();
    Timing::new(arguments).run(|| {
        if rows.is_empty() {
            send(&mut requests, &text)?;
            requests.flush()?;
            next(&mut replies, &mut line)?;
            serde_json::from_str::<String>(&line)?;
            return Ok(());
        }
        for row in &rows {
            send(&mut requests, row)?;
        }
        requests.flush()?;
        for result in &mut results {
            next(&mut replies, &mut line)?;
            *result = serde_json::from_str(&line)?;
        }
        Ok(())
    })
}

pub fn serve(arguments: &Arguments) -> anyhow::Result<()> {
    let mut requests = BufReader::with_capacity(1 << 16, stdin().lock());
    let mut replies = BufWriter::with_capacity(1 << 16, stdout().lock());
    let mut line = String::new();
    for row in 1.. {
        if !next(&mut requests, &mut line)? {
            break;
        }
        if arguments.rows == 0 {
            send(&mut replies, &serde_json::from_str::<String>(&line)?)?;
        } else {
            send(&mut replies, &(serde_json::from_str::<f64>(&line)? + 1.0))?;
        }
        if arguments.rows == 0 || row % arguments.rows == 0 {
            replies.flush()?;
        }
    }
    Ok(())
}

fn send(to: &mut impl Write, value: &impl serde::Serialize) -> anyhow::Result<()> {
    serde_json::to_writer(&mut *to, value)?;
    Ok(to.write_all(b"\n")?)
}

/// The next line; `false` at the end.
fn next(from: &mut impl BufRead, line: &mut String) -> anyhow::Result<bool> {
    line.clear();
    Ok(from.read_line(line)? > 0)
}
