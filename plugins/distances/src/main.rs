//! The plugin `distances` as a program.

photondb_plugin_sdk::main!(photondb_plugin_distances::Distances);
