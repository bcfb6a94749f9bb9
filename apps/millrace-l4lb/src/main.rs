//! The load balancer; all of it is in the library.

use std::process::ExitCode;

use millrace_l4lb::cli::{self, CliError};

fn main() -> ExitCode {
    match cli::run(std::env::args_os()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(CliError::Usage(error)) => {
            // Help goes to stdout with status 0, a wrong command line to stderr with status 2.
            let _ = error.print();
            ExitCode::from(error.exit_code().clamp(0, 255) as u8)
        }
        Err(error) => {
            eprintln!("millrace-l4lb: {error}");
            ExitCode::FAILURE
        }
    }
}
