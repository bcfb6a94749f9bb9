//! Other drivers' burst functions on the same kind of rings, as programs that `make bench-peers` builds.
//!
//! A peer plays the NIC for itself, as [`super::rig`] does, and takes its turns when it is asked to, between ours. It runs
//! on the same processor, in a process of its own: whatever it does, it does not to us.

use super::case::{Case, Metadata, Scenario, State};
use crate::clock;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// What there is: the name of a row's path, the program, and its word for the variant.
pub const PEERS: [(&str, &str, &str); 2] = [
    ("dpdk sse", "dpdk-ixgbe", "sse"),
    ("dpdk bulk", "dpdk-ixgbe", "bulk"),
];

/// Turns to warm up with.
const WARM_UP: u32 = 16;
/// Turns before each that is timed. A peer comes back from a switch of processes with nothing in the TLB and little in the
/// caches, which our own turns do not.
const BACK_AGAIN: u32 = 2;

/// A peer that waits to be asked.
pub struct Peer {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// Its version, in its own words.
    pub version: String,
    case: Case,
    /// Frames of a turn.
    frames: u32,
}

/// Why there is no peer for a case, for its row.
pub type Absent = String;

impl Peer {
    /// Starts a peer of `dir` and warms it up.
    pub fn start(dir: &Path, program: &str, variant: &str, case: &Case) -> Result<Peer, Absent> {
        if matches!(case.scenario, Scenario::Chain | Scenario::Worker) {
            return Err("has no programs; its forward row is what these add to".to_owned());
        }
        if case.metadata == Metadata::Full {
            return Err("metadata is read with each mbuf: see the plain row".to_owned());
        }
        let path = dir.join(program);
        if !path.is_file() {
            return Err("absent: `make bench-peers` builds it".to_owned());
        }
        let told = |error: std::io::Error| format!("absent: {}: {error}", path.display());
        let mut child = Command::new(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(told)?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("absent: it has no pipes".to_owned());
        };
        let mut peer = Peer {
            child,
            requests,
            answers: BufReader::new(answers),
            version: String::new(),
            case: *case,
            frames: case.ring / 2,
        };
        peer.version = peer.answer()?;
        let scenario = case.scenario;
        let answer = peer.ask(&format!("case {variant} {scenario} {} {}", case.burst, case.ring))?;
        if answer != "ok" {
            return Err(answer);
        }
        peer.turn(WARM_UP)?;
        Ok(peer)
    }

    fn answer(&mut self) -> Result<String, Absent> {
        let mut line = String::new();
        match self.answers.read_line(&mut line) {
            Ok(n) if n > 0 => match line.trim_end().strip_prefix("no ") {
                Some(reason) => Err(reason.to_owned()),
                None => Ok(line.trim_end().to_owned()),
            },
            _ => Err("absent: it ended without an answer".to_owned()),
        }
    }

    fn ask(&mut self, request: &str) -> Result<String, Absent> {
        writeln!(self.requests, "{request}").map_err(|error| format!("absent: {error}"))?;
        self.answer()
    }

    fn number(&mut self, request: &str) -> Result<f64, Absent> {
        let answer = self.ask(request)?;
        let number = answer.parse::<f64>();
        number.map_err(|_| format!("absent: it answered {answer:?}"))
    }

    /// Nanoseconds of one turn, after `warm` that are not timed.
    fn turn(&mut self, warm: u32) -> Result<f64, Absent> {
        let bytes = match self.case.state {
            State::Warm => 0,
            State::L3 => 2 * clock::cache_bytes(2),
            State::Cold => 2 * clock::cache_bytes(3),
        };
        self.number(&format!("turn {warm} {bytes}"))
    }

    /// Nanoseconds a packet of one turn.
    pub fn nanos_per_packet(&mut self, cost: f64) -> Result<f64, Absent> {
        let nanos = self.turn(BACK_AGAIN)?;
        Ok((nanos - cost).max(0.0) / f64::from(self.frames))
    }

    /// Instructions a packet.
    pub fn instructions(&mut self) -> Result<f64, Absent> {
        Ok(self.number("count")? / f64::from(self.frames))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It ends by itself when nobody asks any more, but need not be waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_driver::simd::CpuPath;

    #[test]
    fn a_peer_that_was_not_built_says_how_to_build_it() {
        let case = Case {
            scenario: Scenario::Forward,
            burst: 32,
            ring: 1024,
            state: State::Warm,
            metadata: Metadata::Plain,
            path: CpuPath::best(),
        };
        let absent = Peer::start(Path::new("/nonexistent"), "dpdk-ixgbe", "sse", &case).err();
        assert!(absent.is_some_and(|why| why.contains("make bench-peers")));
    }
}
