//! Aligned columns for people to read.

use std::fmt;

/// Rows of text under headings, each column as wide as its widest text.
pub(super) struct Table<const COLUMNS: usize> {
    rows: Vec<[String; COLUMNS]>,
    align: [Align; COLUMNS],
}

/// Where the text of a column stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    pub(super) fn new(headings: [(&str, Align); COLUMNS]) -> Self {
        Self { rows: vec![headings.map(|(heading, _)| heading.to_owned())], align: headings.map(|(_, align)| align) }
    }

    pub(super) fn row(&mut self, cells: [String; COLUMNS]) {
        self.rows.push(cells);
    }
}

impl<const COLUMNS: usize> fmt::Display for Table<COLUMNS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| self.rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let widths: [usize; COLUMNS] = std::array::from_fn(width);
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, width), align) in row.iter().zip(widths).zip(self.align) {
                let padding = " ".repeat(width - cell.chars().count());
                match align {
                    Align::Left => line += &format!("{cell}{padding}  "),
                    Align::Right => line += &format!("{padding}{cell}  "),
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_without_spaces() {
        let mut table = Table::new([("NAME", Align::Left), ("CALLS", Align::Right), ("STATE", Align::Left)]);
        table.row(["hnsw".into(), "12345678".into(), "ready".into()]);
        table.row(["é".into(), "7".into(), String::new()]);
        assert_eq!(table.to_string(), "NAME     CALLS  STATE\nhnsw  12345678  ready\né            7\n");
    }
}
