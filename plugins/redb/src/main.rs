//! The plugin `redb` as a program.

photondb_plugin_sdk::main!(photondb_plugin_redb::Redb);
