//! The plugin `stats` as a program.

photondb_plugin_sdk::main!(photondb_plugin_stats::Stats);
