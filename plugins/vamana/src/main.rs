//! The plugin's executable.

photondb_plugin_sdk::main!(photondb_plugin_vamana::Vamana::default());
