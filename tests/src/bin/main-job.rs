//! The demonstration behind `make run`: a balancer on a modelled 82599 serves real HTTP while a backend is drained and
//! another one killed.

use clap::Parser;
use millrace_tests::demo::{self, Options};
use std::process::ExitCode;

/// Serves real HTTP requests through an L4 load balancer on a modelled Intel 82599.
///
/// Makes network namespaces for clients, the balancer and three backends (nginx) on one bridge; runs `nic-model ixgbe`
/// in a process of its own and `millrace-l4lb` attached to it over vfio-user, with two queues on two workers. Half way
/// one backend is drained and another one killed. Everything it made is undone at the end, also after Ctrl-C.
#[derive(Debug, Parser)]
#[command(name = "main-job", version)]
struct Args {
    /// HTTP requests in all.
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u64).range(100..=1_000_000))]
    requests: u64,
    /// Leave everything up at the end, say how to look inside, and wait for Ctrl-C.
    #[arg(long)]
    stay: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match demo::run(&Options {
        requests: args.requests,
        stay: args.stay,
    }) {
        Ok(summary) if summary.good() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("main-job: {e}");
            ExitCode::FAILURE
        }
    }
}
