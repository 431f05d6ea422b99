//! An HNSW vector index for PhotonDB over the rows that the server owns.
