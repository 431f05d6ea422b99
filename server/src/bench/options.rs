//! What every benchmark executable takes.

use std::path::PathBuf;

use clap::Parser;
use clap::builder::PossibleValuesParser;
use clap::{CommandFactory, FromArgMatches};

use super::rounds::ROUNDS;

/// The command line of a benchmark, as `cargo bench -p photondb-server --bench NAME -- ARGUMENTS` passes it.
#[derive(Clone, Debug, Parser)]
pub struct Options {
    /// What to measure; everything without it
    #[arg(value_name = "SECTION")]
    sections: Vec<String>,
    /// Writes the report there, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// How often each case is measured
    #[arg(long, value_name = "N", default_value_t = ROUNDS)]
    pub rounds: usize,
    /// From `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    /// Of this process, which ends here where its arguments are wrong or ask for help.
    #[must_use]
    pub fn parse_for(sections: &'static [&'static str]) -> Self {
        let command =
            Self::command().mut_arg("sections", |argument| argument.value_parser(PossibleValuesParser::new(sections)));
        Self::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
    }

    /// Whether a section is to be measured.
    #[must_use]
    pub fn wants(&self, section: &str) -> bool {
        self.sections.is_empty() || self.sections.iter().any(|wanted| wanted == section)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sections_are_measured_unless_some_are_named() {
        let all = Options::parse_from(["b", "--bench"]);
        assert!(all.wants("rows") && all.json.is_none() && all.rounds == ROUNDS);
        let some = Options::parse_from(["b", "calls", "--json", "f", "--rounds", "3"]);
        assert!(some.wants("calls") && !some.wants("rows") && some.rounds == 3);
    }
}
