//! `millrace-bench anatomy`: what each part of forwarding costs, told by leaving it out.
//!
//! Without a performance counter nothing says what a core waits for; but a loop can be run with and without a part, and what
//! the two differ by is what the part costs. Some of it can be left out of the driver itself (what the application does with the frames, the
//! prefetches, large pages); the rest is left out of a [`model`] of its loops. All [`players`] take turns, and the floor loop with
//! them.

mod model;
mod players;

use crate::report::{self, Line, Report, Summary, or_dash, round};
use crate::{BenchError, clock, path::case, step};
use players::{Code, LIKE_THE_COPY, Player};
use serde::Serialize;
use std::path::PathBuf;

/// Turns that are not timed before those that are, since the others have been in the caches: twice round all buffers, more or
/// less.
const WARM_UP: u32 = 8;
/// Turns of a round that are timed.
const TIMED: u32 = 4;
/// The same before the first round: every buffer and every slot has been touched.
const FIRST_WARM_UP: u32 = 16;
/// Fewest rounds that a median is made of.
const LEAST_ROUNDS: usize = 7;

/// What can be asked of `anatomy`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_long_help = "\
READING IT
  The rows `driver` are the driver's own queues: receive, swap the MAC addresses, send. The rows `copy` are a lean copy of its
  loops. `left out` says what each row goes without; `saves` is by how many cycles a packet it is quicker than
  the same code with everything. What two rows save does not add up to what both together would: the core does much at once.
  The copy with nothing left out should take about what the driver's scalar loops take without prefetching: the row `driver`,
  left out `four a step, prefetching`. The notes say how far that holds.

EXAMPLES
  millrace-bench anatomy                 what each part costs at burst 32
  millrace-bench anatomy --burst 4       the same for small bursts
  millrace-bench anatomy --json > a.json for compare and report")]
pub struct Args {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Frames that a poll brings, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub burst: u32,
    /// Descriptors of each ring, 256 to 4096
    #[arg(long, value_name = "N", default_value = "1024", value_parser = case::ring_size)]
    pub ring: u32,
    /// Milliseconds of everybody's turns together
    #[arg(long, default_value_t = 2000, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=600_000))]
    pub millis: u64,
    /// Do not count instructions
    #[arg(long)]
    pub no_instructions: bool,
    /// Also write the report as one HTML file with plots
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// One code without one part.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// `driver`, `copy` or `floor`.
    pub code: Code,
    /// What it goes without; `nothing` for all of it.
    pub left_out: &'static str,
    /// Frames that a poll brings.
    pub burst: u32,
    /// Core cycles a packet: the median round.
    pub cycles_per_packet: f64,
    /// Core cycles a packet: nine rounds of ten took longer.
    pub quick_cycles: f64,
    /// Cycles a packet less than the same code with everything, round by round, the median; null for that itself.
    pub saved_cycles: Option<f64>,
    /// Time as a multiple of the floor's in the same round: the median.
    pub vs_floor: f64,
    /// Instructions a packet; null where they were not counted.
    pub instructions_per_packet: Option<f64>,
    /// The middle 80 % of the rounds lie within this many percent of the median, to both sides.
    pub spread_percent: f64,
}

impl Line for Row {
    fn header() -> String {
        format!(
            "{:<7} {:<32} {:>9} {:>9} {:>7} {:>9} {:>9} {:>6}",
            "code", "left out", "cycles/p", "quick", "saves", "vs floor", "instr/p", "+-%"
        )
    }

    fn line(&self) -> String {
        format!(
            "{:<7} {:<32} {:>9.1} {:>9.1} {:>7} {:>9.2} {:>9} {:>6.1}",
            self.code.name(),
            self.left_out,
            self.cycles_per_packet,
            self.quick_cycles,
            or_dash(self.saved_cycles),
            self.vs_floor,
            or_dash(self.instructions_per_packet),
            self.spread_percent
        )
    }
}

/// Measures and prints.
pub fn run(args: &Args) -> Result<(), BenchError> {
    let machine = report::machine();
    clock::stay_on_this_cpu();
    let (mut players, page_bytes) = players::all(args.burst, args.ring)?;
    let before = clock::gigahertz();
    let times = measure(&mut players, args.millis * 1_000_000)?;
    let gigahertz = before.max(clock::gigahertz());
    let mut rows = Vec::new();
    for (i, player) in players.iter_mut().enumerate() {
        let instructions = match args.no_instructions {
            true => None,
            false => Some(count(player)?),
        };
        rows.push(row(args.burst, player, &times, i, gigahertz, instructions));
        let whole = rows.iter().position(|row: &Row| row.code == player.code);
        if let Some(whole) = whole.filter(|whole| *whole != i) {
            let pairs = times[whole].iter().zip(&times[i]);
            let saved: Vec<f64> = pairs.map(|(all, some)| all - some).collect();
            rows[i].saved_cycles = Some(round(Summary::of(&saved).median * gigahertz));
        }
    }
    let report = Report {
        bench: "anatomy",
        machine,
        notes: notes(args, &rows, page_bytes, times[0].len()),
        rows,
    };
    report.write_html(args.html.as_deref())?;
    report.print(args.json)
}

fn row(burst: u32, player: &Player, times: &[Vec<f64>], i: usize, ghz: f64, count: Option<f64>) -> Row {
    let time = Summary::of(&times[i]);
    let mut sorted = times[i].clone();
    sorted.sort_by(f64::total_cmp);
    let quick = sorted.get(sorted.len() / 10).copied().unwrap_or(f64::NAN);
    let ratios: Vec<f64> = times[i]
        .iter()
        .zip(&times[0])
        .map(|(own, floor)| own / floor)
        .collect();
    Row {
        code: player.code,
        left_out: if player.left_out.is_empty() {
            "nothing"
        } else {
            player.left_out
        },
        burst,
        cycles_per_packet: round(time.median * ghz),
        quick_cycles: round(quick * ghz),
        saved_cycles: None,
        vs_floor: (Summary::of(&ratios).median * 100.0).round() / 100.0,
        instructions_per_packet: count.map(round),
        spread_percent: time.spread_percent,
    }
}

/// Nanoseconds a packet of each player's timed turns, one number a round.
fn measure(players: &mut [Player], nanos: u64) -> Result<Vec<Vec<f64>>, BenchError> {
    for player in players.iter_mut() {
        for _ in 0..FIRST_WARM_UP {
            player.supply()?;
            player.drain();
        }
    }
    let bar = report::progress("forward, parts left out".to_owned(), nanos);
    let cost = clock::wall_reading_cost();
    let mut times = vec![Vec::new(); players.len()];
    let start = clock::wall_nanos();
    loop {
        for (player, times) in players.iter_mut().zip(&mut times) {
            for _ in 0..WARM_UP {
                player.supply()?;
                player.drain();
            }
            let mut spent = 0;
            for _ in 0..TIMED {
                player.supply()?;
                let start = clock::wall_nanos();
                player.drain();
                spent += clock::wall_nanos() - start;
            }
            let spent = spent as f64 - cost * f64::from(TIMED);
            times.push(spent.max(0.0) / f64::from(TIMED * player.frames));
        }
        let used = clock::wall_nanos() - start;
        bar.set_position(used.min(nanos));
        if used >= nanos && times.first().is_some_and(|rounds| rounds.len() >= LEAST_ROUNDS) {
            bar.finish_and_clear();
            return Ok(times);
        }
    }
}

/// Instructions a packet, by single steps over one turn.
fn count(player: &mut Player) -> Result<f64, BenchError> {
    player.supply()?;
    let ((), count) = step::count(|| player.drain()).map_err(BenchError::Counting)?;
    player.supply()?;
    player.drain();
    Ok(count as f64 / f64::from(player.frames))
}

fn notes(args: &Args, rows: &[Row], page_bytes: usize, rounds: usize) -> Vec<String> {
    let find = |code, left_out| {
        rows.iter()
            .find(|row| row.code == code && row.left_out == left_out)
    };
    let valid = match (find(Code::Driver, LIKE_THE_COPY), find(Code::Copy, "nothing")) {
        (Some(driver), Some(copy)) => format!(
            "how good the copy is: it takes {:.2} of the cycles of the driver's scalar loops without prefetching{}",
            copy.vs_floor / driver.vs_floor,
            match (copy.instructions_per_packet, driver.instructions_per_packet) {
                (Some(copy), Some(driver)) => format!(" and {:.2} of its instructions", copy / driver),
                _ => String::new(),
            }
        ),
        _ => String::new(),
    };
    vec![
        format!(
            "forward, plain metadata, rings of {}, warm; {rounds} rounds: in each, everybody in turn takes {WARM_UP} turns \
             of half a ring that are not timed and {TIMED} that are, so all lies in the caches as far as it fits",
            args.ring
        ),
        "cycles/p: the median round x core frequency; quick: nine rounds of ten took longer; saves: cycles less than the same code \
         with everything, round by round, the median; vs floor: round by round, the median"
            .to_owned(),
        "with no record the NIC tells the buffer in the write-back; where nothing is taken back, fresh buffers come from a list \
         that is read round and round"
            .to_owned(),
        valid,
        format!("packet buffers on pages of {} KiB", page_bytes >> 10),
        clock::load(),
    ]
}

#[cfg(test)]
mod tests;
