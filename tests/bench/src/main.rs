//! The plugin `bench` as a program.

photondb_plugin_sdk::main!(photondb_bench_plugin::Bench);
