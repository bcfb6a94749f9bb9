//! `millrace stats`: totals once, or rates again and again.

use super::port::SHOWN;
use super::table::table;
use super::{CliError, Context};
use crate::app::{AppStats, QueueReport};
use clap::Args;
use serde_json::Value;
use std::fmt::Write;
use std::io::IsTerminal;
use std::thread;
use std::time::Duration;

#[derive(Args)]
#[command(
    after_help = "Examples:\n  millrace stats                     totals of every queue\n  millrace stats --watch             frames a second, every second\n  millrace stats --watch 0.2 --count 10\n  millrace stats --json --watch      one JSON object a line\n  millrace stats --legend            what each counter means"
)]
pub(super) struct StatsArgs {
    /// Again every SECONDS (default 1), as rates
    #[arg(long, short = 'w', value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
    watch: Option<f64>,
    /// End after this many reports
    #[arg(long, short = 'c', value_name = "N", requires = "watch")]
    count: Option<u64>,
    /// Explain the counters
    #[arg(long, conflicts_with = "watch")]
    legend: bool,
}

pub(super) fn run(cx: &mut Context<'_>, args: StatsArgs) -> Result<(), CliError> {
    if args.legend {
        let answer = cx.call("counters", Value::Null)?;
        return cx.show(&answer, |v| {
            let cell = super::text;
            let line = |c: &Value| {
                format!(
                    "{} ({})\n    {}\n",
                    cell(&c["name"]),
                    cell(&c["unit"]),
                    cell(&c["meaning"])
                )
            };
            Ok(super::rows(v).iter().map(line).collect())
        });
    }
    let Some(seconds) = args.watch else {
        let answer = cx.call("stats", Value::Null)?;
        return cx.show(&answer, |v| Ok(totals(&parsed(v)?)));
    };
    if !(0.05..=86_400.0).contains(&seconds) {
        return Err(CliError::Usage(format!(
            "cannot watch every {seconds} s; give 0.05 to 86400"
        )));
    }
    let clear = !cx.json && std::io::stdout().is_terminal();
    let mut before = parsed(&cx.call("stats", Value::Null)?)?;
    for _ in 0..args.count.unwrap_or(u64::MAX) {
        thread::sleep(Duration::from_secs_f64(seconds));
        let answer = cx.call("stats", Value::Null)?;
        let now = parsed(&answer)?;
        cx.show(&answer, |_| {
            Ok(if clear {
                "\x1b[H\x1b[2J".to_string()
            } else {
                String::new()
            } + &rates(&before, &now))
        })?;
        before = now;
    }
    Ok(())
}

fn parsed(answer: &Value) -> Result<AppStats, CliError> {
    serde_json::from_value(answer.clone()).map_err(|e| CliError::Answer(e.to_string()))
}

fn totals(stats: &AppStats) -> String {
    let number = |queue: &QueueReport, counter: &str, _: &str| queue.counter(counter).to_string();
    let mut out = format!("up {:.0} s\n", stats.uptime);
    out.push_str(&grid(stats, "", number));
    for port in &stats.ports {
        let of = |name: &str| port.buffers.get(name).copied().unwrap_or(0);
        let _ = writeln!(
            out,
            "{}: {} of {} buffers in flight",
            port.name,
            of("in_flight"),
            of("total")
        );
    }
    out
}

/// Frames a second between two reports.
fn rates(before: &AppStats, now: &AppStats) -> String {
    let elapsed = (now.uptime - before.uptime).max(1e-9);
    let rate = |queue: &QueueReport, counter: &str, port: &str| {
        let old = before
            .port(port)
            .and_then(|p| p.queues.iter().find(|q| q.queue == queue.queue));
        let delta = queue
            .counter(counter)
            .saturating_sub(old.map_or(0, |q| q.counter(counter)));
        format!("{:.0}", delta as f64 / elapsed)
    };
    grid(now, "/s", rate)
}

fn grid(stats: &AppStats, unit: &str, cell: impl Fn(&QueueReport, &str, &str) -> String) -> String {
    let titles: Vec<String> = SHOWN.iter().map(|(title, _)| format!("{title}{unit}")).collect();
    let mut header = vec!["PORT", "QUEUE", "WORKER", "PROGRAM"];
    header.extend(titles.iter().map(String::as_str));
    let mut lines = Vec::new();
    for port in &stats.ports {
        for queue in &port.queues {
            let program = queue.program.clone().unwrap_or_else(|| "-".into());
            let program = if queue.running {
                program
            } else {
                "(stopped)".into()
            };
            let mut line = vec![
                port.name.clone(),
                queue.queue.to_string(),
                queue.worker.to_string(),
                program,
            ];
            line.extend(SHOWN.iter().map(|(_, counter)| cell(queue, counter, &port.name)));
            lines.push(line);
        }
    }
    table(&header, &lines)
}
