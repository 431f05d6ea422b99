//! PhotonDB: a document and vector database server whose plugins are confined processes.
