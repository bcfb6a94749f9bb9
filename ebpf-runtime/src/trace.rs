//! What programs print (`bpf_trace_printk`), for whoever wants to read it: the last lines, each with a number, so that
//! any number of readers can follow, each at its own pace. `tracing` gets every line besides.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Lines kept; the oldest go first.
const KEPT: usize = 4096;

/// A printed line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceLine {
    /// Counts up from 0, over all programs of the process.
    pub number: u64,
    /// Nanoseconds since 1970.
    pub time: u64,
    /// The worker that ran the program.
    pub worker: u32,
    /// What it printed, without line feeds at the end.
    pub text: String,
}

struct Log {
    next: u64,
    lines: VecDeque<TraceLine>,
}

static LOG: Mutex<Log> = Mutex::new(Log {
    next: 0,
    lines: VecDeque::new(),
});

pub(crate) fn line(worker: u32, text: &str) {
    let time = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
    let mut log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    let number = log.next;
    log.next += 1;
    if log.lines.len() == KEPT {
        log.lines.pop_front();
    }
    let text = text.to_owned();
    log.lines.push_back(TraceLine {
        number,
        time,
        worker,
        text,
    });
}

/// The number that the next line will have.
pub fn next() -> u64 {
    LOG.lock().unwrap_or_else(PoisonError::into_inner).next
}

/// Up to `max` lines from number `from` on that are still kept.
pub fn read(from: u64, max: usize) -> Vec<TraceLine> {
    let log = LOG.lock().unwrap_or_else(PoisonError::into_inner);
    let lines = log.lines.iter().skip_while(|line| line.number < from);
    lines.take(max).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_follow_by_number_and_the_oldest_lines_go_first() {
        // Other tests of this process may print, too.
        let start = next();
        for i in 0..KEPT + 10 {
            line(3, &format!("mine {i}"));
        }
        let mine = |line: &TraceLine| line.text.starts_with("mine ") && line.worker == 3;
        let lines = read(start, usize::MAX);
        assert!(lines.len() <= KEPT && lines.iter().filter(|l| mine(l)).count() > KEPT / 2);
        assert_eq!(
            lines.iter().rfind(|l| mine(l)).unwrap().text,
            format!("mine {}", KEPT + 9)
        );
        assert!(lines.is_sorted_by_key(|l| l.number));
        assert_eq!(read(start + 100, 5).len(), 5);
        assert!(read(next() + 1000, 5).is_empty());
    }
}
