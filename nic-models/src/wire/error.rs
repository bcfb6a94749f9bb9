//! Why a wire cannot be opened.

use std::io;
use std::path::PathBuf;
use thiserror::Error;

/// Why [`open`](super::open) failed; each message says what to do next.
#[derive(Debug, Error)]
pub enum WireError {
    /// The word before the colon is none of ours.
    #[error(
        "unknown wire {spec:?}; wires are tap:NAME, packet:IFACE, pcap:IN[,OUT], link:NAME, gen:SPEC and null"
    )]
    UnknownKind {
        /// What was asked for.
        spec: String,
    },
    /// What follows the colon is missing or malformed.
    #[error("wire {spec:?}: {problem}; it is written as {usage}")]
    Malformed {
        /// What was asked for.
        spec: String,
        /// What is wrong with it.
        problem: String,
        /// How it should look.
        usage: &'static str,
    },
    /// No such network interface in this network namespace.
    #[error(
        "no network interface {name:?} in this network namespace; `ip link` lists them, `ip netns exec NS` starts a program in another namespace"
    )]
    NoInterface {
        /// The interface asked for.
        name: String,
    },
    /// The kernel refuses for want of a capability.
    #[error(
        "not allowed to {action}; it needs {capability}: run as root or `setcap {capability}+ep` the program"
    )]
    Permission {
        /// What was tried.
        action: String,
        /// The capability that allows it.
        capability: &'static str,
    },
    /// Somebody else has it.
    #[error("{what} is in use by another program; stop that one or choose another name")]
    Busy {
        /// What is in use.
        what: String,
    },
    /// A capture file cannot be read or written.
    #[error("capture file {path}: {problem}")]
    Capture {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A system call failed for another reason.
    #[error("wire {spec:?}: {call}: {source}")]
    System {
        /// What was asked for.
        spec: String,
        /// What was tried.
        call: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}
