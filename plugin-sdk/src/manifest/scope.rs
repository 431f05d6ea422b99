//! `read:DATABASE.TABLE`: what a plugin may query.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// What may be done to which tables, as in `query = ["read:geo.places", "write:geo.*"]`. Writing does not include reading.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    /// What may be done.
    pub access: Access,
    /// The database; `None`, written `*`: any.
    pub database: Option<String>,
    /// The table; `None`, written `*`: any.
    pub table: Option<String>,
}

/// What may be done to a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Reading its documents.
    Read,
    /// Changing its documents.
    Write,
}

/// What a scope must be.
pub const SCOPE: &str = "what may be done to which tables as \"read:geo.*\" or \"write:geo.places\"";

impl Scope {
    /// What is within both scopes, if anything.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let both = |one: &Option<String>, other: &Option<String>| match (one, other) {
            (None, name) | (name, None) => Some(name.clone()),
            (Some(one), Some(other)) => (one == other).then(|| Some(one.clone())),
        };
        Some(Self {
            access: (self.access == other.access).then_some(self.access)?,
            database: both(&self.database, &other.database)?,
            table: both(&self.table, &other.table)?,
        })
    }

    /// Whether `access` to a table is within this scope.
    #[must_use]
    pub fn allows(&self, access: Access, database: &str, table: &str) -> bool {
        let is_named = |pattern: &Option<String>, name: &str| pattern.as_ref().is_none_or(|pattern| pattern == name);
        self.access == access && is_named(&self.database, database) && is_named(&self.table, table)
    }
}

impl FromStr for Scope {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (access, tables) = text.split_once(':').ok_or(SCOPE)?;
        let access = match access {
            "read" => Access::Read,
            "write" => Access::Write,
            _ => return Err(SCOPE),
        };
        let (database, table) = tables.split_once('.').ok_or(SCOPE)?;
        let name = |text: &str| {
            let is_name = !text.is_empty()
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
            match text {
                "*" => Ok(None),
                name if is_name => Ok(Some(name.to_owned())),
                _ => Err(SCOPE),
            }
        };
        Ok(Self { access, database: name(database)?, table: name(table)? })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = match self.access {
            Access::Read => "read",
            Access::Write => "write",
        };
        let any = |name: &Option<String>| name.clone().unwrap_or_else(|| "*".into());
        write!(f, "{access}:{}.{}", any(&self.database), any(&self.table))
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        super::from_text(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(text: &str) -> Scope {
        text.parse().expect(text)
    }

    #[test]
    fn what_is_in_both_is_never_more_than_either() {
        for (one, other, both) in [
            ("read:geo.places", "read:geo.*", Some("read:geo.places")),
            ("read:geo.*", "read:*.places", Some("read:geo.places")),
            ("read:*.*", "read:*.*", Some("read:*.*")),
            ("read:geo.places", "read:geo.roads", None),
            ("read:geo.*", "write:geo.*", None),
            ("read:geo.*", "read:sea.*", None),
        ] {
            let found = scope(one).intersection(&scope(other)).map(|both| both.to_string());
            assert_eq!(found.as_deref(), both, "{one} and {other}");
            assert_eq!(scope(other).intersection(&scope(one)).map(|both| both.to_string()).as_deref(), both);
        }
        assert!(scope("read:geo.*").allows(Access::Read, "geo", "places"));
        assert!(!scope("read:geo.*").allows(Access::Write, "geo", "places"));
        assert!(!scope("write:geo.*").allows(Access::Read, "geo", "places"));
        assert!(!scope("read:geo.*").allows(Access::Read, "geodesy", "places"));
    }

    #[test]
    fn what_is_no_scope_is_refused() {
        for text in
            ["geo.*", "read:geo", "read:.t", "read:geo.", "admin:geo.*", "read:geo.p*", "read:a.b.c", "read: geo.*", ""]
        {
            assert!(text.parse::<Scope>().is_err(), "{text}");
        }
    }
}
