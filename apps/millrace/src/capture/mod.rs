//! Looking at frames as they come in and as programs leave them.
//!
//! ```text
//! filter   which frames are wanted
//! tap      the worker's side: copies wanted frames into records that wait in a bounded ring
//! session  control's side: starts and ends captures, hands records out
//! file     pcapng, for the command
//! ```
//!
//! A record is one of a fixed number, made when the capture starts; when none is free the frame is not captured, and
//! counted. A queue that nobody captures pays one test a batch. A capture that nobody reads for [`session::PATIENCE`] ends
//! by itself, so that a client that was killed costs nothing for long.

pub(crate) mod file;
pub(crate) mod filter;
pub(crate) mod session;
pub(crate) mod tap;

use serde::{Deserialize, Serialize};

/// Where frames are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Point {
    /// As they came in, before the program.
    #[default]
    Entry,
    /// As the program left them.
    Exit,
}

/// Most bytes of a frame that a capture keeps.
pub(crate) const SNAP_MAX: usize = 16 << 10;
/// Bytes of a frame that a capture keeps unless told otherwise.
pub(crate) const SNAP: usize = 2048;

/// A captured frame on its way to the client.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Captured {
    /// Nanoseconds since 1970, when the worker had polled it.
    pub(crate) time: u64,
    pub(crate) queue: u16,
    /// Length of the whole frame.
    pub(crate) len: u32,
    /// Its first bytes in base64.
    pub(crate) data: String,
    /// Raw return value of the program; absent when none runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) verdict: Option<u32>,
    /// Where a redirect goes: an interface, a CPU or a socket by its index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) redirect: Option<u32>,
    /// What the device said about it, by the hint's name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) hints: Vec<(String, u64)>,
}
