use photondb_plugin_sdk::PluginError;

use super::*;
use crate::admin::status::{Change, Changing, LogLine, PluginEvent, PluginStatus};
use crate::plugins::audit::Confined;
use crate::plugins::permissions::PermissionsStatus;
use crate::storage::{IndexFunction, IndexFunctions, NoStorageEngines, NoVectorIndexes, StoreOptions, TableOptions};

struct OnePlugin;

impl PluginControl for OnePlugin {
    fn list(&self) -> Vec<PluginStatus> {
        let error = Some("its executable is missing".to_owned());
        vec![PluginStatus { name: "geo".into(), state: "refused".into(), error, ..PluginStatus::default() }]
    }

    fn events(&self) -> Vec<PluginEvent> {
        vec![PluginEvent { id: 3, time: 1.5, plugin: "geo".into(), ..PluginEvent::default() }]
    }

    fn logs(&self, _: Option<&str>) -> Vec<LogLine> {
        Vec::new()
    }

    fn permissions(&self, _: &str) -> Option<PermissionsStatus> {
        None
    }

    fn confined(&self, _: &str) -> Option<Arc<Confined>> {
        None
    }

    fn change<'a>(&'a self, _: Change, name: &'a str) -> Changing<'a> {
        Box::pin(async move { Err(PluginError::init("not here").of(name)) })
    }
}

struct NoFunctions;

impl IndexFunctions for NoFunctions {
    fn compile(&self, _: &str) -> Result<Arc<dyn IndexFunction>, String> {
        Err("there are none".into())
    }
}

#[test]
fn every_row_has_its_key_and_says_what_there_is() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        cache_bytes: 8 << 20,
        functions: Arc::new(NoFunctions),
        vectors: Arc::new(NoVectorIndexes),
        engines: Arc::new(NoStorageEngines),
        upkeep: std::time::Duration::from_secs(3600),
    };
    let store = Store::open(folder.path(), &options).unwrap();
    let table = TableOptions { primary_key: "code".into(), durability: Durability::Soft, ..TableOptions::default() };
    store.create_table("test", "places", &table).unwrap();

    let server = ServerInfo {
        id: Uuid::from_u128(7),
        name: "earth".into(),
        started: Time::new(0.0, 0).unwrap(),
        reql_port: 28015,
        http_port: 8080,
        cache_bytes: 64 << 20,
    };
    let users = || vec![User { name: "admin".into(), has_password: false }];
    let tables = system_tables(Sources { store, plugins: Arc::new(OnePlugin), server, users: Box::new(users) });
    for table in &tables {
        for row in table.rows() {
            assert!(row.get(table.primary_key()).is_some(), "{}: {}", table.name(), row.to_json_string());
        }
    }

    let first = |name: &str| tables.iter().find(|table| table.name() == name).unwrap().rows().remove(0);
    assert_eq!(first("plugins").get("state"), Some(&"refused".into()));
    assert_eq!(first("plugins").get("pid"), Some(&Datum::Null));
    assert_eq!(first("plugin_events").get("time"), Some(&Datum::Time(Time::new(1.5, 0).unwrap())));
    assert_eq!(first("current_issues").get("description"), Some(&"its executable is missing".into()));
    assert_eq!(first("db_config").get("name"), Some(&"test".into()));
    assert_eq!(first("table_config").get("primary_key"), Some(&"code".into()));
    assert_eq!(first("table_config").get("durability"), Some(&"soft".into()));
    assert_eq!(first("table_status").get("status").unwrap().get("ready_for_writes"), Some(&true.into()));
    assert_eq!(first("server_status").get("network").unwrap().get("reql_port"), Some(&28015.into()));
    assert_eq!(first("users").get("password"), Some(&false.into()));
}
