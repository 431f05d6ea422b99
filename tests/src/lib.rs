//! End-to-end tests of PhotonDB: real server, real plugin processes, official driver.
