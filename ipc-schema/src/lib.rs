//! The contract between the PhotonDB server and a plugin process: Cap'n Proto schemas, shared-memory layout, lanes and batches.
