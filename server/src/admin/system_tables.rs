//! system tables
