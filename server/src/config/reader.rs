//! Typed access to a TOML document, whose errors say which key, in which file and line, and what to write instead.
//!
//! Deriving `Deserialize` would accept the same files, but its errors name neither the full key nor the remedy.

use std::collections::BTreeMap;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::ConfigError;

/// A file that is being read.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) path: &'a Path,
    pub(super) text: &'a str,
}

/// A table of the file with a fixed set of keys.
pub(super) struct Section<'a> {
    source: Source<'a>,
    /// The names of the table and those around it, with a full stop behind each.
    prefix: String,
    entries: &'a DeTable<'a>,
}

/// The value of a key.
pub(super) struct Value<'a> {
    source: Source<'a>,
    /// The key with the names of its tables.
    key: String,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Source<'a> {
    /// The line of a byte of the file, from 1 on.
    fn line(&self, byte: usize) -> usize {
        1 + self.text.bytes().take(byte).filter(|byte| *byte == b'\n').count()
    }

    pub(super) fn parse(&self) -> Result<Spanned<DeTable<'a>>, ConfigError> {
        DeTable::parse(self.text).map_err(|error| ConfigError::Syntax {
            file: self.path.into(),
            line: self.line(error.span().map_or(0, |span| span.start)),
            problem: error.message().replace('\n', ", "),
        })
    }
}

impl<'a> Section<'a> {
    /// The whole document; every key of it must be one of `known`.
    pub(super) fn root(source: Source<'a>, entries: &'a DeTable<'a>, known: &[&str]) -> Result<Self, ConfigError> {
        Self { source, prefix: String::new(), entries }.limited_to(known)
    }

    /// The value of `key`, if it is there.
    pub(super) fn get(&self, key: &str) -> Option<Value<'a>> {
        let (_, value) = self.entries.iter().find(|(name, _)| name.get_ref() == key)?;
        Some(Value { source: self.source, key: format!("{}{key}", self.prefix), value })
    }

    fn limited_to(self, known: &[&str]) -> Result<Self, ConfigError> {
        let unknown = self.entries.keys().find(|name| !known.contains(&name.get_ref().as_ref()));
        let Some(name) = unknown else { return Ok(self) };
        let likeness = |key: &&str| strsim::jaro_winkler(name.get_ref(), key);
        let nearest = known.iter().copied().max_by(|a, b| likeness(a).total_cmp(&likeness(b))).unwrap_or_default();
        Err(ConfigError::UnknownKey {
            file: self.source.path.into(),
            line: self.source.line(name.span().start),
            key: format!("{}{}", self.prefix, name.get_ref()),
            nearest: nearest.into(),
            known: known.join(", "),
        })
    }
}

impl<'a> Value<'a> {
    /// A table with the keys `known`.
    pub(super) fn section(&self, known: &[&str]) -> Result<Section<'a>, ConfigError> {
        Section { source: self.source, prefix: format!("{}.", self.key), entries: self.table()? }.limited_to(known)
    }

    /// A table whose keys are names of plugins.
    pub(super) fn by_plugin<T>(
        &self,
        read: impl Fn(Self) -> Result<T, ConfigError>,
    ) -> Result<BTreeMap<String, T>, ConfigError> {
        let mut plugins = BTreeMap::new();
        for (name, value) in self.table()? {
            let key = format!("{}.{}", self.key, name.get_ref());
            if !is_plugin_name(name.get_ref()) {
                let line = self.source.line(name.span().start);
                return Err(ConfigError::BadName { file: self.source.path.into(), line, key });
            }
            plugins.insert(name.get_ref().to_string(), read(Self { source: self.source, key, value })?);
        }
        Ok(plugins)
    }

    /// A table whose keys are any names.
    pub(super) fn by_name<T>(
        &self,
        read: impl Fn(Self) -> Result<T, ConfigError>,
    ) -> Result<BTreeMap<String, T>, ConfigError> {
        let entry = |(name, value): (&Spanned<_>, _)| {
            let name: &str = Spanned::<std::borrow::Cow<'_, str>>::get_ref(name);
            let key = format!("{}.{name}", self.key);
            Ok((name.to_owned(), read(Self { source: self.source, key, value })?))
        };
        self.table()?.iter().map(entry).collect()
    }

    pub(super) fn boolean(&self) -> Result<bool, ConfigError> {
        self.value.get_ref().as_bool().ok_or_else(|| self.instead("true or false"))
    }

    pub(super) fn text(&self) -> Result<&'a str, ConfigError> {
        self.value.get_ref().as_str().ok_or_else(|| self.instead("a string, in quotation marks"))
    }

    /// Text that means something; `expected` says what it must be.
    pub(super) fn parsed<T: FromStr>(&self, expected: &str) -> Result<T, ConfigError> {
        self.text()?.parse().map_err(|_| self.instead(expected))
    }

    /// A list, each element of which is read by `read`.
    pub(super) fn list<T>(&self, read: impl Fn(Self) -> Result<T, ConfigError>) -> Result<Vec<T>, ConfigError> {
        let elements = self.value.get_ref().as_array().ok_or_else(|| self.instead("a list, in square brackets"))?;
        elements.iter().map(|value| read(Self { source: self.source, key: self.key.clone(), value })).collect()
    }

    /// A whole number from 1 on.
    pub(super) fn count(&self) -> Result<u32, ConfigError> {
        let count = self.integer().and_then(|number| u32::try_from(number).ok()).filter(|count| *count > 0);
        count.ok_or_else(|| self.instead("a whole number from 1 on"))
    }

    /// A number of bytes: a whole number, or text as `"512MiB"`.
    pub(super) fn bytes(&self) -> Result<u64, ConfigError> {
        let bytes = match self.value.get_ref() {
            DeValue::String(text) => text.parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64()),
            _ => self.integer(),
        };
        bytes.filter(|bytes| *bytes > 0).ok_or_else(|| self.instead("a size as \"512MiB\" or \"2GiB\""))
    }

    /// A time as `"50ms"`, from a millisecond to a day.
    pub(super) fn duration(&self) -> Result<Duration, ConfigError> {
        const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("min", 60_000), ("h", 3_600_000)];
        let text = self.value.get_ref().as_str().unwrap_or_default();
        let (number, unit) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
        let milliseconds = UNITS
            .into_iter()
            .find(|(name, _)| *name == unit.trim_start())
            .and_then(|(_, milliseconds)| number.parse::<u64>().ok()?.checked_mul(milliseconds))
            .filter(|milliseconds| (1..=86_400_000).contains(milliseconds));
        milliseconds
            .map(Duration::from_millis)
            .ok_or_else(|| self.instead("a time as \"50ms\", \"5s\" or \"2min\", at most \"24h\""))
    }

    /// One of several names.
    pub(super) fn one_of<T: Copy>(&self, names: &[(&str, T)]) -> Result<T, ConfigError> {
        let text = self.value.get_ref().as_str();
        let found = names.iter().find(|(name, _)| Some(*name) == text);
        found.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let names: Vec<_> = names.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            self.instead(&format!("one of {}", names.join(", ")))
        })
    }

    pub(super) fn is_table(&self) -> bool {
        self.value.get_ref().is_table()
    }

    /// The table as it is.
    pub(super) fn verbatim(&self) -> Result<toml::Table, ConfigError> {
        self.table()?;
        toml::Table::deserialize(ValueDeserializer::from(self.value.clone())).map_err(|error| ConfigError::Syntax {
            file: self.source.path.into(),
            line: self.source.line(error.span().unwrap_or(self.value.span()).start),
            problem: error.message().into(),
        })
    }

    /// The error of a key whose value cannot be used.
    pub(super) fn instead(&self, expected: &str) -> ConfigError {
        const SHOWN: usize = 40;
        let span = self.value.span();
        let literal = self.source.text.get(span.clone()).unwrap_or_default().lines().next().unwrap_or_default();
        let mut found: String = literal.chars().take(SHOWN).collect();
        if found.len() < literal.len() {
            found.push_str("...");
        }
        ConfigError::BadValue {
            file: self.source.path.into(),
            line: self.source.line(span.start),
            key: self.key.clone(),
            found,
            expected: expected.into(),
        }
    }

    fn table(&self) -> Result<&'a DeTable<'a>, ConfigError> {
        self.value.get_ref().as_table().ok_or_else(|| self.instead(&format!("a table: [{}]", self.key)))
    }

    fn integer(&self) -> Option<u64> {
        let integer = self.value.get_ref().as_integer()?;
        u64::from_str_radix(integer.as_str(), integer.radix()).ok()
    }
}

/// `[a-z][a-z0-9_]{0,31}`, as in manifests.
fn is_plugin_name(name: &str) -> bool {
    let mut letters = name.bytes();
    letters.next().is_some_and(|first| first.is_ascii_lowercase())
        && letters.all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'_')
        && name.len() <= 32
}
