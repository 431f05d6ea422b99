//! Options of a table.

use std::sync::Arc;

use bytesize::ByteSize;
use photondb_packed::PackedOptions;
use photondb_plugin_sdk::kinds::storage::{whole_option, wrong_option};
use photondb_plugin_sdk::{Datum, PluginError};

/// The names of the options.
const NAMES: [&str; 7] = ["cache_mb", "chunk_rows", "downsample", "max_bytes", "retention", "series", "time"];

/// What a table was created with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Options {
    /// The field that holds the time.
    pub(crate) time: Arc<str>,
    /// The field that says which series a document is of.
    pub(crate) series: Option<Arc<str>>,
    /// Seconds after which documents go.
    pub(crate) retention: Option<f64>,
    /// Bytes of packed documents beyond which the oldest go.
    pub(crate) max_bytes: Option<u64>,
    /// From the one that comes first in the life of a document on.
    pub(crate) rules: Vec<Rule>,
    pub(crate) chunk_rows: usize,
    pub(crate) cache_bytes: u64,
}

/// Documents of an age become one for each span of time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rule {
    /// Seconds.
    pub(crate) after: f64,
    /// Seconds.
    pub(crate) every: f64,
}

impl Options {
    /// Reads options, where an engine has `cache_bytes` unless they say something else.
    ///
    /// # Errors
    /// Which key is wrong, and what it accepts.
    pub(crate) fn read(options: &Datum, cache_bytes: u64) -> Result<Self, PluginError> {
        let mut read = Self {
            time: "time".into(),
            series: None,
            retention: None,
            max_bytes: None,
            rules: Vec::new(),
            chunk_rows: PackedOptions::default().chunk_rows,
            cache_bytes,
        };
        for (key, value) in options.as_object().into_iter().flat_map(|options| options.iter()) {
            match &**key {
                "time" => read.time = field(key, value)?,
                "series" => read.series = Some(field(key, value)?),
                "retention" => read.retention = Some(seconds(key, value)?),
                "max_bytes" => read.max_bytes = Some(bytes(key, value)?),
                "downsample" => read.rules = rules(value)?,
                "chunk_rows" => read.chunk_rows = whole_option(key, value, 256..=65_536)? as usize,
                "cache_mb" => read.cache_bytes = whole_option(key, value, 1..=65_536)? << 20,
                _ => {
                    let known = NAMES.map(|name| format!("`{name}`")).join(", ");
                    let message = format!("unknown option `{key}`; the engine `timeseries` knows {known}");
                    return Err(PluginError::argument(message));
                }
            }
        }
        if let (Some(retention), Some(last)) = (read.retention, read.rules.last())
            && retention <= last.after
        {
            let message = "`retention` must be longer than `after` of every rule of `downsample`: otherwise nothing is \
                           left to be down-sampled";
            return Err(PluginError::argument(message));
        }
        Ok(read)
    }

    /// Whether documents ever go by themselves.
    pub(crate) fn want_upkeep(&self) -> bool {
        self.retention.is_some() || self.max_bytes.is_some() || !self.rules.is_empty()
    }
}

fn field(key: &str, value: &Datum) -> Result<Arc<str>, PluginError> {
    match value {
        Datum::String(name) if !name.is_empty() => Ok(Arc::from(&**name)),
        _ => Err(wrong_option(key, value, "the name of a field of the documents")),
    }
}

fn seconds(key: &str, value: &Datum) -> Result<f64, PluginError> {
    let read = |text: &str| {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let unit = match unit {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            "w" => 604_800.0,
            _ => return None,
        };
        let number = number.parse::<u32>().ok().filter(|number| *number > 0)?;
        // A hundred thousand years are beyond what a time can be.
        Some(f64::from(number) * unit).filter(|seconds| *seconds < 1e11)
    };
    let seconds = value.as_str().and_then(read);
    seconds.ok_or_else(|| wrong_option(key, value, "a time as \"90s\", \"15m\", \"12h\", \"30d\" or \"8w\""))
}

fn bytes(key: &str, value: &Datum) -> Result<u64, PluginError> {
    let bytes = match value {
        Datum::String(text) => text.parse::<ByteSize>().ok().map(|size| size.as_u64()),
        Datum::Number(number) => Some(*number as u64),
        _ => None,
    };
    let bytes = bytes.filter(|bytes| *bytes > 0);
    bytes.ok_or_else(|| wrong_option(key, value, "a size as \"512MiB\" or \"10GB\", or a number of bytes"))
}

fn rules(value: &Datum) -> Result<Vec<Rule>, PluginError> {
    const ACCEPTED: &str = "a list of objects as {\"after\": \"7d\", \"every\": \"1h\"}";
    let list = value.as_array().ok_or_else(|| wrong_option("downsample", value, ACCEPTED))?;
    let rule = |value: &Datum| {
        let fields = value.as_object().ok_or_else(|| wrong_option("downsample", value, ACCEPTED))?;
        let (after, every) = (fields.get("after"), fields.get("every"));
        let (Some(after), Some(every), 2) = (after, every, fields.len()) else {
            return Err(wrong_option("downsample", value, ACCEPTED));
        };
        Ok(Rule { after: seconds("downsample.after", after)?, every: seconds("downsample.every", every)? })
    };
    let rules: Vec<Rule> = list.iter().map(rule).collect::<Result<_, _>>()?;
    let is_sound = |pair: &[Rule]| {
        let (first, second) = (pair[0], pair[1]);
        second.after > first.after && second.every > first.every && second.every % first.every == 0.0
    };
    if !rules.windows(2).all(is_sound) {
        let accepted = "a list in which each rule has a longer `after` than the one before, and an `every` that is a multiple \
                        of its";
        return Err(wrong_option("downsample", value, accepted));
    }
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(after: &str, every: &str) -> Datum {
        Datum::object([("after", after), ("every", every)])
    }

    fn read(options: &[(&str, Datum)]) -> Result<Options, PluginError> {
        Options::read(&Datum::object(options.iter().cloned()), 7)
    }

    #[test]
    fn options_are_read() {
        let options = read(&[]).expect("nothing is needed");
        assert_eq!((&*options.time, options.series.as_deref(), options.want_upkeep()), ("time", None, false));
        let options = read(&[
            ("time", "at".into()),
            ("series", "sensor".into()),
            ("retention", "8w".into()),
            ("max_bytes", "10GiB".into()),
            ("downsample", Datum::array([rule("7d", "1m"), rule("30d", "1h")])),
            ("cache_mb", 64.into()),
            ("chunk_rows", 1024.into()),
        ]);
        let expected = Options {
            time: "at".into(),
            series: Some("sensor".into()),
            retention: Some(8.0 * 604_800.0),
            max_bytes: Some(10 << 30),
            rules: vec![Rule { after: 604_800.0, every: 60.0 }, Rule { after: 2_592_000.0, every: 3_600.0 }],
            chunk_rows: 1024,
            cache_bytes: 64 << 20,
        };
        assert_eq!(options, Ok(expected));
    }

    #[test]
    fn mistakes_name_the_key_and_what_it_accepts() {
        let rules = |rules: &[Datum]| ("downsample", Datum::array(rules.iter().cloned()));
        for (options, hint) in [
            (
                vec![("rettention", "1d".into())],
                "unknown option `rettention`; the engine `timeseries` knows `cache_mb`",
            ),
            (vec![("time", 1.into())], "`time` is 1; it must be the name of a field"),
            (vec![("retention", "1 day".into())], "`retention` is \"1 day\"; it must be a time as \"90s\""),
            (vec![("retention", "0d".into())], "it must be a time"),
            (vec![("retention", "é".into())], "it must be a time"),
            (vec![("retention", "".into())], "it must be a time"),
            (vec![("max_bytes", "lots".into())], "it must be a size as \"512MiB\""),
            (vec![("max_bytes", 0.into())], "it must be a size"),
            (vec![("downsample", rule("1d", "1h"))], "it must be a list of objects"),
            (vec![rules(&[Datum::object([("after", "1d")])])], "it must be a list of objects"),
            (vec![rules(&[rule("1d", "1y")])], "`downsample.every` is \"1y\""),
            (vec![rules(&[rule("1d", "1h"), rule("1d", "2h")])], "a longer `after`"),
            (vec![rules(&[rule("1d", "2h"), rule("2d", "3h")])], "a multiple"),
            (vec![rules(&[rule("1d", "2h")]), ("retention", "1d".into())], "`retention` must be longer"),
            (vec![("chunk_rows", 255.into())], "`chunk_rows` is 255; it must be a whole number from 256 to 65536"),
            (vec![("cache_mb", 0.into())], "from 1 to 65536"),
        ] {
            let error = read(&options).expect_err(hint);
            assert!(error.message().contains(hint), "{error}");
        }
    }
}
