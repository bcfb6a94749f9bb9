//! `millrace-setup`: status, hugepages, bind, unbind, undo.

use std::process::ExitCode;

use clap::Parser;
use millrace_setup::cli::{Cli, run};

fn main() -> ExitCode {
    match run(Cli::parse(), &mut std::io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        // `millrace-setup status | head` is no error.
        Err(e) if e.is_broken_pipe() => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("millrace-setup: {e}");
            ExitCode::FAILURE
        }
    }
}
