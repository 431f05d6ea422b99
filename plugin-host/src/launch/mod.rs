//! How the host becomes the plugin.

#[expect(unsafe_code, reason = "execveat with the token in its sixth register is a raw system call")]
pub mod exec;
