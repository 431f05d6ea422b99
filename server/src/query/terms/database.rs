//! Databases and tables as such: creating, dropping, listing, configuration.

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::Object;

use super::selection::database_argument;
use super::write::bad_durability;
use super::{MANY, Op};
use crate::query::error::{ReqlError, Result};
use crate::query::eval::{Call, integer};
use crate::query::order::equal;
use crate::query::tables::{self, Identifiers, SYSTEM_DB, TableRef};
use crate::query::value::{Database, Single, Value};
use crate::storage::{DatabaseInfo, Durability, StoreError, TableInfo, TableOptions};

const META: u16 = Op::WRITES | Op::UNGROUPED | Op::VOLATILE;
const READS: u16 = Op::UNGROUPED | Op::VOLATILE;

/// The terms of this family.
pub const OPS: &[Op] = &[
    Op::new(57, "db_create", 1, 1, db_create).with(META),
    Op::new(58, "db_drop", 1, 1, db_drop).with(META),
    Op::new(59, "db_list", 0, 0, db_list).with(READS),
    Op::new(60, "table_create", 1, 2, table_create).with(META).options(&[
        "primary_key",
        "durability",
        "engine",
        "options",
        "shards",
        "replicas",
        "primary_replica_tag",
        "nonvoting_replica_tags",
    ]),
    Op::new(61, "table_drop", 1, 2, table_drop).with(META),
    Op::new(62, "table_list", 0, 1, table_list).with(READS),
    Op::new(174, "config", 1, 1, config).with(READS),
    Op::new(175, "status", 1, 1, status).with(READS),
    Op::new(176, "reconfigure", 1, 1, reconfigure).with(META).options(&[
        "shards",
        "replicas",
        "dry_run",
        "primary_replica_tag",
        "nonvoting_replica_tags",
        "emergency_repair",
    ]),
    Op::new(177, "wait", 1, 1, wait).with(READS).options(&["wait_for", "timeout"]),
    Op::new(179, "rebalance", 1, 1, rebalance).with(META),
    Op::new(152, "changes", 1, 1, changes).with(READS).options(&[
        "squash",
        "changefeed_queue_size",
        "include_initial",
        "include_states",
        "include_types",
        "include_offsets",
    ]),
    Op::new(153, "http", 1, 1, unavailable).with(READS | Op::ANY_OPTIONS),
    Op::new(188, "grant", 2, 3, unavailable).with(META),
    Op::new(189, "set_write_hook", 2, 2, unavailable).with(META),
    Op::new(190, "get_write_hook", 1, 1, unavailable).with(READS),
    Op::new(157, "geojson", 1, 1, unavailable),
    Op::new(158, "to_geojson", 1, 1, unavailable),
    Op::new(159, "point", 2, 2, unavailable),
    Op::new(160, "line", 2, MANY, unavailable),
    Op::new(161, "polygon", 3, MANY, unavailable),
    Op::new(162, "distance", 2, 2, unavailable).with(Op::ANY_OPTIONS),
    Op::new(163, "intersects", 2, 2, unavailable),
    Op::new(164, "includes", 2, 2, unavailable),
    Op::new(165, "circle", 2, 2, unavailable).with(Op::ANY_OPTIONS),
    Op::new(166, "get_intersecting", 2, 2, unavailable).with(Op::ANY_OPTIONS),
    Op::new(167, "fill", 1, 1, unavailable),
    Op::new(171, "polygon_sub", 2, 2, unavailable),
];

/// The answer to a term that this server knows and does not have.
fn unavailable(call: &Call<'_>) -> Result<Value> {
    Err(ReqlError::logic(format!("The term `{}` is not available on this server.", call.node.op.name)))
}

fn changes(call: &Call<'_>) -> Result<Value> {
    call.ctx().resources.administer("open changefeeds")?;
    match call.arg(0)? {
        Value::Datum(Datum::Array(_)) => Err(ReqlError::logic("Cannot call `changes` on an eager stream.")),
        Value::Datum(datum) => Err(Value::Datum(datum)
            .into_stream(call.ctx())
            .err()
            .unwrap_or_else(|| ReqlError::logic("Cannot call `changes` on an eager stream."))),
        Value::Stream(stream) if stream.is_array() || stream.is_infinite() => {
            Err(ReqlError::logic("Cannot call `changes` on an eager stream."))
        }
        _ => unavailable(call),
    }
}

fn refuse_system(db: &str, what: &str) -> Result<()> {
    if db != SYSTEM_DB {
        return Ok(());
    }
    Err(ReqlError::failed(format!("Database `{SYSTEM_DB}` is special; {what}.")))
}

fn database_row(info: &DatabaseInfo) -> Datum {
    Datum::object([("id", info.id.to_string()), ("name", info.name.clone())])
}

fn config_change(old: Datum, new: Datum) -> Datum {
    Datum::object([("old_val", old), ("new_val", new)])
}

fn db_create(call: &Call<'_>) -> Result<Value> {
    let name = call.string(0)?;
    tables::check_name("Database", &name)?;
    if *name == *SYSTEM_DB {
        return Err(StoreError::DatabaseExists(name.to_string()).into());
    }
    let info = call.ctx().resources.administer("create databases")?.store()?.create_database(&name)?;
    let change = config_change(Datum::Null, database_row(&info));
    Ok(Datum::object([("dbs_created", Datum::from(1)), ("config_changes", Datum::array([change]))]).into())
}

fn db_drop(call: &Call<'_>) -> Result<Value> {
    let name = call.string(0)?;
    tables::check_name("Database", &name)?;
    refuse_system(&name, "you can't delete it")?;
    let (info, dropped) = call.ctx().resources.administer("drop databases")?.store()?.drop_database(&name)?;
    let change = config_change(database_row(&info), Datum::Null);
    Ok(Datum::object([
        ("dbs_dropped", Datum::from(1)),
        ("tables_dropped", dropped.len().into()),
        ("config_changes", Datum::array([change])),
    ])
    .into())
}

fn db_list(call: &Call<'_>) -> Result<Value> {
    let store = call.ctx().resources.administer("list databases")?.store()?;
    let mut names: Vec<String> = store.databases().into_iter().map(|info| info.name).collect();
    names.push(SYSTEM_DB.to_owned());
    names.sort();
    Ok(Datum::array(names.into_iter().map(Datum::from)).into())
}

fn table_create(call: &Call<'_>) -> Result<Value> {
    let (db, next) = database_argument(call, 2)?;
    let name = call.string(next)?;
    tables::check_name("Table", &name)?;
    refuse_system(&db, "you can't create new tables in it")?;
    let durability = match call.option_string("durability")?.as_deref() {
        None | Some("hard") => Durability::Hard,
        Some("soft") => Durability::Soft,
        Some(other) => return Err(bad_durability(other)),
    };
    check_shards(call)?;
    let options = TableOptions {
        primary_key: call.option_string("primary_key")?.map_or_else(|| "id".to_owned(), |name| name.to_string()),
        durability,
        engine: call.option_string("engine")?.map(|name| name.to_string()),
        engine_options: match call.option_datum("options")? {
            None => Datum::object::<&str, Datum>([]),
            Some(options @ Datum::Object(_)) => options,
            Some(other) => {
                let found = other.type_name();
                let message =
                    format!("`options` of `table_create` must be an OBJECT of options of the engine, not {found}.");
                return Err(ReqlError::logic(message));
            }
        },
    };
    let info = call.ctx().resources.administer("create tables")?.store()?.create_table(&db, &name, &options)?;
    let change = config_change(Datum::Null, table_row(call, "table_config", &info)?);
    Ok(Datum::object([("tables_created", Datum::from(1)), ("config_changes", Datum::array([change]))]).into())
}

fn table_drop(call: &Call<'_>) -> Result<Value> {
    let (db, next) = database_argument(call, 2)?;
    let name = call.string(next)?;
    tables::check_name("Table", &name)?;
    refuse_system(&db, "you can't drop its tables")?;
    let store = call.ctx().resources.administer("drop tables")?.store()?;
    let before = table_row(call, "table_config", store.table(&db, &name)?.info())?;
    store.drop_table(&db, &name)?;
    let change = config_change(before, Datum::Null);
    Ok(Datum::object([("tables_dropped", Datum::from(1)), ("config_changes", Datum::array([change]))]).into())
}

fn table_list(call: &Call<'_>) -> Result<Value> {
    let (db, _) = database_argument(call, 1)?;
    let shared = call.ctx().resources.administer("list tables")?;
    let mut names: Vec<String> = if *db == *SYSTEM_DB {
        shared.system().iter().map(|table| table.name().to_owned()).collect()
    } else {
        shared.store()?.tables(&db)?.into_iter().map(|info| info.name).collect()
    };
    names.sort();
    Ok(Datum::array(names.into_iter().map(Datum::from)).into())
}

/// The row about a table in one of the system tables.
fn table_row(call: &Call<'_>, system: &str, info: &TableInfo) -> Result<Datum> {
    let id = Datum::from(info.id.to_string());
    let row = TableRef::open(call.ctx(), SYSTEM_DB, system, Identifiers::Names)?.get(&id)?;
    Ok(row.unwrap_or_else(|| {
        Datum::object([("id", id), ("name", info.name.as_str().into()), ("db", info.db.as_str().into())])
    }))
}

/// A table or a database, which some terms are about.
enum Target {
    Table(TableRef),
    Database(Database),
}

fn target(call: &Call<'_>) -> Result<Target> {
    call.with(0, |value| match value {
        Value::Table(table) => Ok(Target::Table(table)),
        Value::Database(database) => Ok(Target::Database(database)),
        other => Err(other.wrong_kind("TABLE")),
    })
}

/// The row about something that is not of the system database itself.
fn system_row(call: &Call<'_>, system: &str, db: &str, key: String) -> Result<Value> {
    refuse_system(db, "it has no configuration")?;
    let table = TableRef::open(call.ctx(), SYSTEM_DB, system, Identifiers::Names)?;
    Ok(Value::Single(Single { table, key: key.into(), document: None }))
}

fn config(call: &Call<'_>) -> Result<Value> {
    match target(call)? {
        Target::Table(table) => system_row(call, "table_config", &table.database().name, table.id()),
        Target::Database(database) => system_row(call, "db_config", &database.name, database.id),
    }
}

fn status(call: &Call<'_>) -> Result<Value> {
    let table = call.table(0)?;
    system_row(call, "table_status", &table.database().name, table.id())
}

/// The tables that the term is about.
fn target_tables(call: &Call<'_>) -> Result<Vec<TableInfo>> {
    let shared = call.ctx().resources.administer("configure tables, or wait for them")?;
    match target(call)? {
        Target::Table(table) => {
            let stored = table.to_administer(call.ctx(), "configure tables, or wait for them")?;
            Ok(vec![stored.info().clone()])
        }
        Target::Database(database) => {
            refuse_system(&database.name, "its tables can't be configured")?;
            Ok(shared.store()?.tables(&database.name)?)
        }
    }
}

fn wait(call: &Call<'_>) -> Result<Value> {
    const STATES: [&str; 4] = ["ready_for_outdated_reads", "ready_for_reads", "ready_for_writes", "all_replicas_ready"];
    if let Some(state) = call.option_string("wait_for")?
        && !STATES.contains(&&*state)
    {
        return Err(ReqlError::logic(format!(
            "Unknown table readiness state: '{state}', must be one of 'ready_for_outdated_reads', 'ready_for_reads', \
             'ready_for_writes', or 'all_replicas_ready'."
        )));
    }
    // The tables of a single server are ready as soon as they exist.
    Ok(Datum::object([("ready", target_tables(call)?.len())]).into())
}

fn rebalance(call: &Call<'_>) -> Result<Value> {
    let tables = target_tables(call)?;
    let changes = tables
        .iter()
        .map(|info| {
            let status = table_row(call, "table_status", info)?;
            Ok(config_change(status.clone(), status))
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(Datum::object([("rebalanced", Datum::from(tables.len())), ("status_changes", changes.into())]).into())
}

/// How many replicas are asked for, by server tag.
enum Replicas {
    Unsaid,
    Count(i64),
    ByTag(Object),
}

/// Checks the options of RECONFIGURE and TABLE_CREATE against the one server that there is, whose tag is `default`.
fn check_shards(call: &Call<'_>) -> Result<()> {
    if let Some(shards) = call.option_datum("shards")?
        && integer(&shards)? < 1
    {
        return Err(ReqlError::logic("Every table must have at least one shard."));
    }
    let replicas = match call.option_datum("replicas")? {
        None => Replicas::Unsaid,
        Some(Datum::Object(tags)) => Replicas::ByTag((*tags).clone()),
        Some(count) => Replicas::Count(integer(&count)?),
    };
    let primary = call.option_string("primary_replica_tag")?;
    let nonvoting = match call.option_datum("nonvoting_replica_tags")? {
        None => Vec::new(),
        Some(tags) => crate::query::eval::array(&tags)?.to_vec(),
    };
    let Replicas::ByTag(tags) = replicas else {
        if let Replicas::Count(count) = replicas {
            if primary.is_some() {
                return Err(ReqlError::logic("`replicas` must be an OBJECT if `primary_replica_tag` is specified."));
            }
            if !nonvoting.is_empty() {
                let message = "`replicas` must be an OBJECT if `nonvoting_replica_tags` is specified.";
                return Err(ReqlError::logic(message));
            }
            check_count(count, "default")?;
        }
        return Ok(());
    };
    let Some(primary) = primary else {
        return Err(ReqlError::logic("`primary_replica_tag` must be specified when `replicas` is an OBJECT."));
    };
    let mut total = 0;
    for (_, count) in tags.iter() {
        let count = integer(count)?;
        if count < 0 {
            return Err(ReqlError::logic("Can't have a negative number of replicas"));
        }
        total += count;
    }
    if total == 0 {
        return Err(no_replicas());
    }
    if tags.get(&primary).is_none() {
        return Err(ReqlError::failed(format!(
            "Can't use server tag `{primary}` for primary replicas because you specified no replicas in server tag \
             `{primary}`."
        )));
    }
    for tag in &nonvoting {
        let tag = crate::query::eval::string(tag)?;
        if tags.get(&tag).is_none() {
            return Err(ReqlError::failed(format!(
                "You specified that the replicas in server tag `{tag}` should be non-voting, but you didn't specify a \
                 number of replicas in server tag `{tag}`."
            )));
        }
    }
    tags.iter().try_for_each(|(tag, count)| check_count(integer(count)?, tag))
}

fn no_replicas() -> ReqlError {
    ReqlError::failed(
        "You must set `replicas` to at least one. `replicas` includes the primary replica; if there are zero replicas, \
         there is nowhere to put the data.",
    )
}

fn check_count(count: i64, tag: &str) -> Result<()> {
    if count < 0 {
        return Err(ReqlError::logic("Can't have a negative number of replicas"));
    }
    if count == 0 && tag == "default" {
        return Err(no_replicas());
    }
    let servers = i64::from(tag == "default");
    if count > servers {
        return Err(ReqlError::failed(format!(
            "Can't put {count} replicas on servers with the tag `{tag}` because there are only {servers} servers with the \
             tag `{tag}`. It's impossible to have more replicas of the data than there are servers."
        )));
    }
    Ok(())
}

fn reconfigure(call: &Call<'_>) -> Result<Value> {
    if let Some(repair) = call.option_datum("emergency_repair")?.filter(|repair| !equal(repair, &Datum::Null)) {
        return Err(refuse_repair(call, &repair)?);
    }
    let dry_run = call.option_flag("dry_run")?;
    check_shards(call)?;
    let tables = target_tables(call)?;
    let changes = |system: &str| {
        let change = |info| {
            let row = table_row(call, system, info)?;
            Ok(config_change(row.clone(), row))
        };
        tables.iter().map(change).collect::<Result<Vec<_>>>()
    };
    let mut result: Object = [
        ("reconfigured", Datum::from(if dry_run { 0 } else { tables.len() })),
        ("config_changes", changes("table_config")?.into()),
    ]
    .into_iter()
    .collect();
    if !dry_run {
        result.insert("status_changes", changes("table_status")?);
    }
    Ok(Datum::from(result).into())
}

/// A table of one server never needs a repair.
fn refuse_repair(call: &Call<'_>, repair: &Datum) -> Result<ReqlError> {
    let mode = crate::query::eval::string(repair)?;
    if let Target::Database(_) = target(call)? {
        return Ok(ReqlError::logic(
            "Can't emergency repair an entire database at once; instead you should run `reconfigure()` on each table \
             individually.",
        ));
    }
    if !["unsafe_rollback", "unsafe_rollback_or_erase"].contains(&&*mode) {
        let message = "`emergency_repair` should be \"unsafe_rollback\" or \"unsafe_rollback_or_erase\"";
        return Ok(ReqlError::logic(message));
    }
    for option in ["shards", "replicas", "primary_replica_tag", "nonvoting_replica_tags"] {
        if call.option_datum(option)?.is_some() {
            return Ok(ReqlError::logic("In emergency repair mode, you can't specify shards, replicas, etc."));
        }
    }
    Ok(ReqlError::failed("This table doesn't need to be repaired."))
}
