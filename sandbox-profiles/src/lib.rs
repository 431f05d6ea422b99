//! Sandbox profiles as data, compiled to a seccomp program, a Landlock ruleset and limits.
