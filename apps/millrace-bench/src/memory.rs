//! `millrace-bench memory`: what a load takes on this machine, by where its line lies and on which pages.
//!
//! Every load needs the one before it, in random order, so nothing overlaps and nothing can be guessed. Lines lie side by side,
//! or as far apart as packet buffers, on the system's pages and on large ones. Where large pages bring nothing, the host of a
//! virtual machine keeps its memory in small ones, and no setting inside helps.

use crate::report::{self, Line, Report, or_dash, round};
use crate::{BenchError, clock};
use memmap2::{MmapMut, MmapOptions};
use serde::Serialize;
use std::hint::black_box;

/// Lines that are read round and round.
const COUNTS: [usize; 9] = [256, 512, 1024, 1600, 4096, 16_384, 32_768, 65_536, 131_072];
/// More packet buffers than that nobody has in use at a time.
const MOST_BUFFERS: usize = 4096;
/// Bytes of a cache line, from one buffer to the next, and of a large page.
const LINE: usize = 64;
const BUFFER: usize = 37 * LINE;
const LARGE: usize = 2 << 20;
/// Loads of one run, at least, and runs, of which the quickest counts.
const LOADS: usize = 40_000;
const RUNS: usize = 7;

/// What can be asked of `memory`.
#[derive(clap::Args, Clone, Debug)]
pub struct Args {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
}

/// So many lines, read one after the other.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Lines in all.
    pub lines: usize,
    /// Bytes of the lines themselves, in KiB.
    pub kib: usize,
    /// Cycles a load, lines side by side.
    pub side_by_side: f64,
    /// One line of each packet buffer, on the system's pages; null where so many buffers are not in use.
    pub buffers: Option<f64>,
    /// The same on pages of 2 MiB; null where the system has too few of them.
    pub buffers_on_large_pages: Option<f64>,
}

impl Line for Row {
    fn header() -> String {
        format!(
            "{:>8} {:>8} {:>13} {:>15} {:>15}",
            "lines", "KiB", "side by side", "one a buffer", "on 2 MiB pages"
        )
    }

    fn line(&self) -> String {
        format!(
            "{:>8} {:>8} {:>13.1} {:>15} {:>15}",
            self.lines,
            self.kib,
            self.side_by_side,
            or_dash(self.buffers),
            or_dash(self.buffers_on_large_pages)
        )
    }
}

/// Measures and prints.
pub fn run(args: &Args) -> Result<(), BenchError> {
    let machine = report::machine();
    clock::stay_on_this_cpu();
    let most = COUNTS.iter().max().copied().unwrap_or(0);
    let small = |bytes| MmapMut::map_anon(bytes).map_err(BenchError::Memory);
    let mut dense = small(most * LINE)?;
    let mut apart = small(MOST_BUFFERS * BUFFER)?;
    let mut large = MmapOptions::new()
        .len((MOST_BUFFERS * BUFFER).next_multiple_of(LARGE))
        .huge(Some(LARGE.ilog2() as u8))
        .map_anon()
        .ok();
    let gigahertz = clock::gigahertz();
    let rows = COUNTS
        .map(|lines| Row {
            lines,
            kib: (lines * LINE) >> 10,
            side_by_side: chase(&mut dense, lines, LINE, gigahertz),
            buffers: (lines <= MOST_BUFFERS).then(|| chase(&mut apart, lines, BUFFER, gigahertz)),
            buffers_on_large_pages: large
                .as_mut()
                .filter(|_| lines <= MOST_BUFFERS)
                .map(|large| chase(large, lines, BUFFER, gigahertz)),
        })
        .to_vec();
    let report = Report {
        bench: "memory",
        machine,
        notes: vec![
            "core cycles a load that needs the one before it, in random order; the quickest of 7 runs".to_owned(),
            "one a buffer: as far apart as the first lines of packet buffers; where the last two columns agree, large pages \
             bring nothing here"
                .to_owned(),
            clock::load(),
        ],
        rows,
    };
    report.print(args.json)
}

/// Cycles a load, reading one word of each of `lines` lines in a random circle.
fn chase(memory: &mut [u8], lines: usize, stride: usize, gigahertz: f64) -> f64 {
    for (from, to) in circle(lines) {
        if let Some(word) = memory[from * stride..].first_chunk_mut() {
            *word = (to * stride).to_le_bytes();
        }
    }
    let loads = LOADS.max(2 * lines);
    let quickest = (0..RUNS).map(|_| {
        let (mut at, start) = (0, clock::wall_nanos());
        for _ in 0..loads {
            at = memory
                .get(at..)
                .and_then(|rest| rest.first_chunk())
                .map_or(0, |word| usize::from_le_bytes(*word));
        }
        black_box(at);
        clock::wall_nanos() - start
    });
    let nanos = quickest.min().unwrap_or(0);
    round(nanos as f64 / loads as f64 * gigahertz)
}

/// Pairs that lead from each of `n` places to the next, through all of them, and back to the first, in an order that nothing
/// guesses.
fn circle(n: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut order: Vec<usize> = (0..n).collect();
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    for i in (1..n).rev() {
        state = state
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        order.swap(i, (state >> 33) as usize % (i + 1));
    }
    (0..n).map(move |i| (order[i], order[(i + 1) % n]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circle_goes_once_through_every_place() {
        for n in [1, 2, 7, 1024] {
            let next: std::collections::HashMap<_, _> = circle(n).collect();
            let mut at = 0;
            for step in 1..=n {
                at = next[&at];
                assert_eq!(at == 0, step == n, "{n}: step {step}");
            }
        }
    }

    #[test]
    fn what_is_read_of_each_line_is_where_the_next_one_lies() {
        let mut memory = vec![0; 64 * LINE];
        assert!(chase(&mut memory, 64, LINE, 1.0) > 0.0);
        let mut at = 0;
        for step in 1..=64 {
            at = usize::from_le_bytes(*memory[at..].first_chunk().unwrap());
            assert_eq!(at == 0, step == 64);
        }
    }
}
