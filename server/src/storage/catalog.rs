//! What exists: databases, tables, indexes. One keyspace, a record each, changed in the same commits as the data.
//!
//! | key | value |
//! |---|---|
//! | `format` | version of this layout |
//! | `db/ID` | `{name}` |
//! | `table/ID` | `{db, name, primary_key, durability, next_index}`, and `engine: {kind, options, plugin, version}` where a plugin stores it |
//! | `index/TABLE/ID` | `{name, number, source, multi, ready, vector}` |
//! | `count/TABLE` | number of documents, i64 little-endian |
//! | `build/ID` | the primary key up to which an index is built |
//! | `dropped/table/ID`, `dropped/index/TABLE/NUMBER/ID` | something that was dropped and is not removed yet; of a table that a plugin stores, the engine's name |
//!
//! A table that a plugin stores has its `count/TABLE` and `build/ID` in a keyspace of the same name in its own engine.
//!
//! Ids are UUIDs and are never used again; neither are the numbers of a table's indexes.

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::kinds::storage::{Direction, Durability, KeyRange, StorageSnapshot};
use photondb_plugin_sdk::kinds::vector::Metric;
use uuid::Uuid;

use super::engines::EngineDefinition;
use super::error::StoreError;
use super::vectors::{DistanceDefinition, VectorDefinition};

/// The catalog's keyspace.
pub(super) const KEYSPACE: &str = "catalog";
/// The key of the layout's version.
pub(super) const FORMAT_KEY: &str = "format";
/// The version of the layout of keyspaces, keys and records.
pub(super) const FORMAT: f64 = 1.0;

/// A database.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct DatabaseRecord {
    pub(super) id: Uuid,
    pub(super) name: String,
}

/// A table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct TableRecord {
    pub(super) id: Uuid,
    pub(super) db: Uuid,
    pub(super) name: String,
    pub(super) primary_key: String,
    pub(super) durability: Durability,
    /// The number of the index that is created next.
    pub(super) next_index: u32,
    /// The engine of a plugin that stores it.
    pub(super) engine: Option<EngineDefinition>,
}

/// An index.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct IndexRecord {
    pub(super) id: Uuid,
    pub(super) table: Uuid,
    pub(super) name: String,
    pub(super) number: u32,
    pub(super) source: String,
    pub(super) multi: bool,
    pub(super) ready: bool,
    pub(super) vector: Option<VectorDefinition>,
}

/// Something that was dropped, and whose data is still there.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Dropped {
    /// A table, and the engine of a plugin that stored it.
    Table(Uuid, Option<String>),
    Index {
        table: Uuid,
        number: u32,
        id: Uuid,
    },
}

impl DatabaseRecord {
    pub(super) fn key(&self) -> String {
        format!("db/{}", self.id)
    }

    pub(super) fn value(&self) -> Vec<u8> {
        Datum::object([("name", self.name.as_str())]).encoded()
    }
}

impl TableRecord {
    /// The record of its having been dropped.
    pub(super) fn dropped(&self) -> Dropped {
        Dropped::Table(self.id, self.engine.as_ref().map(|engine| engine.kind.clone()))
    }

    pub(super) fn key(&self) -> String {
        format!("table/{}", self.id)
    }

    pub(super) fn value(&self) -> Vec<u8> {
        let durability = match self.durability {
            Durability::Hard => "hard",
            Durability::Soft => "soft",
        };
        let mut fields = vec![
            ("db", Datum::from(self.db.to_string())),
            ("name", self.name.as_str().into()),
            ("primary_key", self.primary_key.as_str().into()),
            ("durability", durability.into()),
            ("next_index", self.next_index.into()),
        ];
        if let Some(EngineDefinition { kind, options, plugin, version }) = &self.engine {
            let engine = Datum::object([
                ("kind", Datum::from(kind.as_str())),
                ("options", options.clone()),
                ("plugin", plugin.as_str().into()),
                ("version", version.as_str().into()),
            ]);
            fields.push(("engine", engine));
        }
        Datum::object(fields).encoded()
    }
}

impl IndexRecord {
    pub(super) fn key(&self) -> String {
        format!("index/{}/{}", self.table, self.id)
    }

    pub(super) fn value(&self) -> Vec<u8> {
        let vector = self.vector.as_ref().map(|vector| {
            Datum::object([
                ("type", Datum::from(vector.kind.as_str())),
                ("dims", vector.dims.into()),
                ("metric", vector.metric.name().into()),
                ("settings", vector.settings.clone()),
                ("distance", vector.distance.as_ref().map(DistanceDefinition::to_datum).into()),
            ])
        });
        Datum::object([
            ("name", Datum::from(self.name.as_str())),
            ("number", self.number.into()),
            ("source", self.source.as_str().into()),
            ("multi", self.multi.into()),
            ("ready", self.ready.into()),
            ("vector", vector.into()),
        ])
        .encoded()
    }
}

impl Dropped {
    pub(super) fn key(&self) -> String {
        match self {
            Self::Table(id, _) => format!("dropped/table/{id}"),
            Self::Index { table, number, id } => format!("dropped/index/{table}/{number}/{id}"),
        }
    }

    pub(super) fn value(&self) -> Vec<u8> {
        match self {
            Self::Table(_, Some(engine)) => engine.clone().into_bytes(),
            Self::Table(_, None) | Self::Index { .. } => Vec::new(),
        }
    }
}

/// The key of a table's number of documents.
pub(super) fn count_key(table: Uuid) -> String {
    format!("count/{table}")
}

/// The key of the place up to which an index is built.
pub(super) fn build_key(index: Uuid) -> String {
    format!("build/{index}")
}

/// Everything in the catalog.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) format: Option<f64>,
    pub(super) databases: Vec<DatabaseRecord>,
    pub(super) tables: Vec<TableRecord>,
    pub(super) indexes: Vec<IndexRecord>,
    pub(super) counts: Vec<(Uuid, i64)>,
    pub(super) dropped: Vec<Dropped>,
}

impl Records {
    pub(super) fn load(snapshot: &dyn StorageSnapshot) -> Result<Self, StoreError> {
        let mut records = Self::default();
        for entry in snapshot.scan(KEYSPACE, &KeyRange::default(), Direction::Forward)? {
            let (key, value) = entry?;
            let text = String::from_utf8_lossy(&key);
            records.add(&text, &value).ok_or_else(|| {
                StoreError::damaged(KEYSPACE, format!("the record `{text}` can't be read: restore a backup"))
            })?;
        }
        Ok(records)
    }

    fn add(&mut self, key: &str, value: &[u8]) -> Option<()> {
        let (kind, rest) = key.split_once('/').unwrap_or((key, ""));
        let record = || Datum::decode(value).ok();
        match kind {
            FORMAT_KEY => self.format = Some(record()?.as_number()?),
            "db" => self.databases.push(DatabaseRecord { id: uuid(rest)?, name: text(&record()?, "name")? }),
            "table" => self.tables.push(table_record(uuid(rest)?, &record()?)?),
            "index" => {
                let (table, id) = rest.split_once('/')?;
                self.indexes.push(index_record(uuid(table)?, uuid(id)?, &record()?)?);
            }
            "count" => self.counts.push((uuid(rest)?, i64::from_le_bytes(value.try_into().ok()?))),
            // Read when the build goes on.
            "build" => {}
            "dropped" => self.dropped.push(dropped(rest, value)?),
            _ => return None,
        }
        Some(())
    }
}

fn table_record(id: Uuid, record: &Datum) -> Option<TableRecord> {
    Some(TableRecord {
        id,
        db: uuid(&text(record, "db")?)?,
        name: text(record, "name")?,
        primary_key: text(record, "primary_key")?,
        durability: match record.get("durability")?.as_str()? {
            "hard" => Durability::Hard,
            "soft" => Durability::Soft,
            _ => return None,
        },
        next_index: number(record, "next_index")?,
        engine: match record.get("engine") {
            None => None,
            Some(engine) => Some(EngineDefinition {
                kind: text(engine, "kind")?,
                options: engine.get("options")?.clone(),
                plugin: text(engine, "plugin")?,
                version: text(engine, "version")?,
            }),
        },
    })
}

fn index_record(table: Uuid, id: Uuid, record: &Datum) -> Option<IndexRecord> {
    let vector = match record.get("vector")? {
        Datum::Null => None,
        vector => Some(VectorDefinition {
            kind: text(vector, "type")?,
            dims: number(vector, "dims")?,
            metric: Metric::from_name(vector.get("metric")?.as_str()?)?,
            distance: match vector.get("distance") {
                None | Some(Datum::Null) => None,
                Some(distance) => Some(DistanceDefinition::from_datum(distance)?),
            },
            settings: vector.get("settings")?.clone(),
        }),
    };
    Some(IndexRecord {
        id,
        table,
        name: text(record, "name")?,
        number: number(record, "number")?,
        source: text(record, "source")?,
        multi: flag(record, "multi")?,
        ready: flag(record, "ready")?,
        vector,
    })
}

fn dropped(key: &str, value: &[u8]) -> Option<Dropped> {
    let parts: Vec<&str> = key.split('/').collect();
    match parts[..] {
        ["table", id] => {
            let engine = (!value.is_empty()).then(|| String::from_utf8(value.to_vec()));
            Some(Dropped::Table(uuid(id)?, engine.transpose().ok()?))
        }
        ["index", table, number, id] => {
            Some(Dropped::Index { table: uuid(table)?, number: number.parse().ok()?, id: uuid(id)? })
        }
        _ => None,
    }
}

fn uuid(text: &str) -> Option<Uuid> {
    Uuid::parse_str(text).ok()
}

fn text(record: &Datum, field: &str) -> Option<String> {
    record.get(field)?.as_str().map(str::to_owned)
}

fn number(record: &Datum, field: &str) -> Option<u32> {
    let number = record.get(field)?.as_number()?;
    (number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number)).then_some(number as u32)
}

fn flag(record: &Datum, field: &str) -> Option<bool> {
    match record.get(field)? {
        Datum::Bool(flag) => Some(*flag),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use photondb_plugin_sdk::kinds::distance::Traits;

    use super::*;

    #[test]
    fn records_come_back() {
        let (db, table, index) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        let database = DatabaseRecord { id: db, name: "test".into() };
        let table_record = TableRecord {
            id: table,
            db,
            name: "t".into(),
            primary_key: "id".into(),
            durability: Durability::Soft,
            next_index: 3,
            engine: None,
        };
        let of_plugin = TableRecord {
            id: Uuid::new_v4(),
            engine: Some(EngineDefinition {
                kind: "redb".into(),
                options: Datum::object([("cache_mb", 16)]),
                plugin: "redb".into(),
                version: "0.1.0".into(),
            }),
            ..table_record.clone()
        };
        let index_record = IndexRecord {
            id: index,
            table,
            name: "é".into(),
            number: 2,
            source: "[1]".into(),
            multi: true,
            ready: false,
            vector: Some(VectorDefinition {
                kind: "hnsw".into(),
                dims: 384,
                metric: Metric::Dot,
                distance: Some(DistanceDefinition {
                    name: "kl_divergence".into(),
                    options: Datum::object([("epsilon", 0.5)]),
                    traits: Traits { is_symmetric: false, ..Traits::of(Metric::Dot, 385) },
                    plugin: "distances".into(),
                    version: "0.1.0".into(),
                }),
                settings: Datum::object([("m", 16)]),
            }),
        };
        let drops = [
            Dropped::Table(table, None),
            Dropped::Table(db, Some("redb".into())),
            Dropped::Index { table, number: 7, id: index },
        ];
        let mut records = Records::default();
        records.add(&database.key(), &database.value()).unwrap();
        records.add(&table_record.key(), &table_record.value()).unwrap();
        records.add(&of_plugin.key(), &of_plugin.value()).unwrap();
        records.add(&index_record.key(), &index_record.value()).unwrap();
        records.add(&count_key(table), &5_i64.to_le_bytes()).unwrap();
        drops.iter().for_each(|dropped| records.add(&dropped.key(), &dropped.value()).unwrap());
        assert_eq!(records.databases, [database]);
        assert_eq!(records.tables, [table_record, of_plugin]);
        assert_eq!(records.indexes, [index_record]);
        assert_eq!(records.counts, [(table, 5)]);
        assert_eq!(records.dropped, drops);
        assert_eq!(records.add("db/nonsense", b""), None);
        assert_eq!(records.add("unheard", b""), None);
    }
}
