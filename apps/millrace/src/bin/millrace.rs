//! The control command; all of it is in the library's `cli`.

use millrace::cli::{self, CliError};
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run(std::env::args_os(), &mut std::io::stdout()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(CliError::Clap(error)) => {
            // Help goes to stdout with status 0, a wrong command line to stderr with status 2.
            let _ = error.print();
            ExitCode::from(error.exit_code().clamp(0, 255) as u8)
        }
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("millrace: {error}");
            ExitCode::FAILURE
        }
    }
}
