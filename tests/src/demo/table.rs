//! The live table: redrawn in place on a terminal, a line every two seconds elsewhere.

use crate::site::balancer::{Balancer, VipBackend};
use crate::site::load::Tally;
use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// One look at the running demonstration.
#[derive(Debug)]
pub(super) struct Row {
    elapsed: Duration,
    ok: u64,
    lost: usize,
    by_backend: BTreeMap<String, u64>,
    backends: Vec<VipBackend>,
    queues: Vec<u64>,
}

impl Row {
    pub(super) fn collect(elapsed: Duration, tally: &Tally, balancer: &Balancer) -> io::Result<Self> {
        Ok(Self {
            elapsed,
            ok: tally.ok(),
            lost: tally.lost().len(),
            by_backend: tally.by_backend(),
            backends: balancer
                .vips()?
                .into_iter()
                .next()
                .map(|v| v.backends)
                .unwrap_or_default(),
            queues: queue_packets(balancer)?,
        })
    }
}

/// Packets received by each queue, as the balancer's instance counts them.
pub(super) fn queue_packets(balancer: &Balancer) -> io::Result<Vec<u64>> {
    let answer = balancer.ask("queue.show", serde_json::json!({}))?;
    let queues = answer
        .as_array()
        .ok_or_else(|| io::Error::other("queue.show gave no queues"))?;
    Ok(queues
        .iter()
        .map(|q| q["counters"]["rx_frames"].as_u64().unwrap_or(0))
        .collect())
}

/// Draws rows.
#[derive(Debug)]
pub(super) struct Table {
    terminal: bool,
    drawn: usize,
    last_line: Option<Duration>,
}

impl Table {
    pub(super) fn new() -> Self {
        Self {
            terminal: io::stdout().is_terminal(),
            drawn: 0,
            last_line: None,
        }
    }

    /// Shows the current row.
    pub(super) fn show(&mut self, row: &Row) {
        if self.terminal {
            self.redraw(row);
        } else if self
            .last_line
            .is_none_or(|t| row.elapsed >= t + Duration::from_secs(2))
        {
            self.last_line = Some(row.elapsed);
            println!("{}", one_line(row));
        }
    }

    /// Shows the last row and leaves it there.
    pub(super) fn end(&mut self, row: &Row) {
        if self.terminal {
            self.redraw(row);
        } else {
            println!("{}", one_line(row));
        }
        self.drawn = 0;
    }

    /// Says that something was done, above the table.
    pub(super) fn note(&mut self, text: &str) {
        self.erase();
        println!("-- {text}");
    }

    fn erase(&mut self) {
        if self.drawn > 0 {
            print!("\x1b[{}A\x1b[J", self.drawn);
            self.drawn = 0;
        }
    }

    fn redraw(&mut self, row: &Row) {
        self.erase();
        let mut text = format!(
            "  {:>5.1} s   requests answered {:>6}   lost {:>3}   queues {}\n  backend   address        state      requests    packets\n",
            row.elapsed.as_secs_f32(),
            row.ok,
            row.lost,
            share(&row.queues)
        );
        for (i, b) in row.backends.iter().enumerate() {
            let name = format!("b{}", i + 1);
            let requests = row.by_backend.get(&name).copied().unwrap_or(0);
            text.push_str(&format!(
                "  {name:<9} {:<14} {:<9} {requests:>9} {:>10}\n",
                b.address.to_string(),
                state(b),
                b.packets
            ));
        }
        self.drawn = text.lines().count();
        print!("{text}");
        let _ = io::stdout().flush();
    }
}

fn state(b: &VipBackend) -> String {
    if b.drained && b.state == "up" {
        "drained".into()
    } else {
        b.state.clone()
    }
}

fn share(queues: &[u64]) -> String {
    let all = queues.iter().sum::<u64>().max(1);
    queues
        .iter()
        .map(|q| format!("{:.0}%", *q as f64 * 100.0 / all as f64))
        .collect::<Vec<_>>()
        .join("/")
}

fn one_line(row: &Row) -> String {
    let backends: Vec<String> = row
        .backends
        .iter()
        .enumerate()
        .map(|(i, b)| {
            let name = format!("b{}", i + 1);
            format!(
                "{name} {} {}",
                state(b),
                row.by_backend.get(&name).copied().unwrap_or(0)
            )
        })
        .collect();
    format!(
        "  {:>5.1} s  ok {:>6}  lost {:>3}  queues {}  {}",
        row.elapsed.as_secs_f32(),
        row.ok,
        row.lost,
        share(&row.queues),
        backends.join("  ")
    )
}
