//! End-to-end tests of PhotonDB: real server, real plugin processes, official driver.
//!
//! The tests are in `e2e/`, a module a behaviour. This crate is what they share:
//!
//! - [`place`]: where a server of a test keeps its things, and which plugins it finds there;
//! - [`server`]: starts the real server, and asks it about itself;
//! - [`driver`]: the official Python driver;
//! - [`reql`]: terms and queries without a driver, for clients in many threads;
//! - [`processes`]: what runs, and signals;
//! - [`faults`]: system calls of another process that fail, or never return;
//! - [`battery`]: hostile plugins, and what has to come of their attacks;
//! - [`data`]: the packages of `tests/data`, and which of them are nearest;
//! - [`wait`]: conditions under a watchdog.
//!
//! Servers run on free ports in temporary directories, so tests run side by side. Nothing waits for a time to pass:
//! tests wait for conditions, and give up after [`wait::WATCHDOG`].

#![forbid(unsafe_code)]

pub mod battery;
pub mod data;
pub mod driver;
pub mod faults;
pub mod place;
pub mod processes;
pub mod reql;
pub mod server;
pub mod wait;
