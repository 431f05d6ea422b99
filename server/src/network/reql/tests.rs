//! Tests of the protocol against a real server.
