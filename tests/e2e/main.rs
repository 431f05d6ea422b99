//! What PhotonDB promises, tried on the real thing. One module a behaviour.

#![forbid(unsafe_code)]

mod bench;
mod chaos;
mod commands;
mod configuration;
mod conformance;
mod distances;
mod driver;
mod durability;
mod encrypted;
mod engines;
mod functions;
mod hostile;
mod http;
mod kernels;
mod lies;
mod protocol;
mod query_capability;
mod random;
mod sandbox;
mod services;
mod supervision;
mod tasks;
mod timeseries;
mod types;
mod vectors;
