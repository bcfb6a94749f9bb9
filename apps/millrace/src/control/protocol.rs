//! What client and server agree on: one JSON object a line each way, and its limits.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

/// Raised when a client of the old version would misunderstand the new one.
pub const PROTOCOL_VERSION: u32 = 1;
/// Longest request line in bytes, newline included. A program's ELF travels in one.
pub const MAX_REQUEST: usize = 4 << 20;
/// Longest answer line in bytes, newline included. Map dumps are cut into pages below this.
pub const MAX_RESPONSE: usize = 16 << 20;
/// Longest time from the first byte of a request to its newline, and for a client to take an answer.
pub const MESSAGE_TIME: Duration = Duration::from_secs(5);
/// A client that asks nothing for this long is hung up on.
pub const IDLE_TIME: Duration = Duration::from_secs(60);
/// Clients served at once; a further one is told so and hung up on.
pub const MAX_CLIENTS: usize = 32;

/// A request line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Chosen by the client, repeated in the answer.
    #[serde(default)]
    pub id: u64,
    /// Such as `port.list`; `version` lists all.
    pub verb: String,
    /// The verb's arguments, an object; may be left out.
    #[serde(default)]
    pub args: Value,
}

/// An answer line: `ok` says which of `result` and `error` is there.
#[derive(Debug, Serialize, Deserialize)]
pub struct Response {
    pub id: u64,
    pub ok: bool,
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub result: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ControlError>,
}

impl Response {
    pub(crate) fn new(id: u64, outcome: Result<Value, ControlError>) -> Response {
        match outcome {
            Ok(result) => Response {
                id,
                ok: true,
                result,
                error: None,
            },
            Err(error) => Response {
                id,
                ok: false,
                result: Value::Null,
                error: Some(error),
            },
        }
    }
}

/// What kind of thing went wrong; stable, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The line is no request.
    BadRequest,
    /// No such verb.
    UnknownVerb,
    /// An argument is missing or wrong.
    InvalidArgument,
    /// The named port, queue, program, map or key does not exist.
    NotFound,
    /// The name is taken, or the thing is in the state asked for already.
    Exists,
    /// The object is in a state, or the instance under a load, that forbids it now.
    Busy,
    /// Not possible with this device, program or build.
    Unsupported,
    /// The request is longer than the protocol allows.
    TooLarge,
    /// The request took too long to arrive.
    TooSlow,
    /// The client is neither the owner nor root.
    Denied,
    /// It was tried and failed; the message says why.
    Failed,
    /// A code this client does not know.
    #[serde(other)]
    Unknown,
}

/// A refusal: a code for programs and one line for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ControlError {
    pub code: ErrorCode,
    pub message: String,
    /// Lines that tell more, where a request asked for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

impl ControlError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> ControlError {
        ControlError {
            code,
            message: message.into(),
            detail: None,
        }
    }

    pub fn invalid(message: impl Into<String>) -> ControlError {
        ControlError::new(ErrorCode::InvalidArgument, message)
    }

    pub fn not_found(message: impl Into<String>) -> ControlError {
        ControlError::new(ErrorCode::NotFound, message)
    }

    pub fn failed(message: impl Into<String>) -> ControlError {
        ControlError::new(ErrorCode::Failed, message)
    }
}
