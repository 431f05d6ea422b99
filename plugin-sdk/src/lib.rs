//! Write PhotonDB plugins: data types, plugin traits, the process runtime and a test harness.
