//! The plugin `timeseries` as a program.

photondb_plugin_sdk::main!(photondb_plugin_timeseries::TimeSeries);
