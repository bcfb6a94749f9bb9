//! `millrace trace`: what programs print.

use super::capture::stop_flag;
use super::{CliError, Context, rows, text};
use clap::Args;
use serde_json::{Value, json};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

#[derive(Args)]
#[command(
    after_help = "Lines of bpf_printk, bpf_trace_printk and bpf_trace_vprintk, as they come, until Ctrl-C. The instance keeps the last\n4096, so a reader that comes late can still see what was printed.\n\nExamples:\n  millrace trace                what is printed from now on\n  millrace trace --all -t 0     what was printed so far\n  millrace --json trace -c 10"
)]
pub(super) struct TraceArgs {
    /// Also what was printed before
    #[arg(long)]
    all: bool,
    /// End after N lines
    #[arg(long, short = 'c', value_name = "N")]
    count: Option<u64>,
    /// End after SECONDS
    #[arg(long, short = 't', value_name = "SECONDS")]
    time: Option<f64>,
}

pub(super) fn run(cx: &mut Context<'_>, args: TraceArgs) -> Result<(), CliError> {
    let stop = stop_flag()?;
    let begun = Instant::now();
    let limit = args
        .time
        .map(|s| Duration::try_from_secs_f64(s).unwrap_or(Duration::MAX));
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut from = if args.all {
        json!(0)
    } else {
        cx.call("trace.read", json!({}))?["next"].clone()
    };
    loop {
        let over = limit.is_some_and(|limit| begun.elapsed() >= limit);
        let wait = if over { 0 } else { 200 };
        let part = cx.call("trace.read", json!({"from": from, "wait_ms": wait}))?;
        let lines = rows(&part["lines"]);
        for line in lines.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            one(cx, line)?;
            left = left.saturating_sub(1);
        }
        cx.out.flush()?;
        from = part["next"].clone();
        if left == 0 || (lines.is_empty() && over) || stop.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
}

fn one(cx: &mut Context<'_>, line: &Value) -> Result<(), CliError> {
    if cx.json {
        writeln!(cx.out, "{line}")?;
    } else {
        let time = line["time"].as_u64().unwrap_or(0);
        writeln!(
            cx.out,
            "[{:03}] {}.{:06}: bpf_trace_printk: {}",
            line["worker"].as_u64().unwrap_or(0),
            time / 1_000_000_000,
            time / 1000 % 1_000_000,
            text(&line["text"])
        )?;
    }
    Ok(())
}
