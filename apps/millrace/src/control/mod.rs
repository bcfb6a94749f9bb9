//! The control socket: JSON lines over `RUN_DIR/NAME.sock`, for the owner of the process and root only, every message
//! bounded in size and time. `docs/control-protocol.md` is its reference.
//!
//! `server` accepts clients and reads lines; `registry` maps verbs to handlers (applications add their own); `verbs` are
//! the framework's; `client` is what the command line uses; `protocol` is what both ends agree on.

pub mod client;
pub mod protocol;
pub mod registry;
pub(crate) mod server;
#[cfg(test)]
mod tests;
pub(crate) mod verbs;

pub use client::{Client, ClientError};
pub use protocol::{ControlError, ErrorCode};
pub use registry::ControlRegistry;

use std::path::PathBuf;

/// Folder of control sockets: `MILLRACE_RUN_DIR`, else `/run/millrace`.
pub fn default_run_dir() -> PathBuf {
    std::env::var_os("MILLRACE_RUN_DIR").map_or_else(|| PathBuf::from("/run/millrace"), PathBuf::from)
}
