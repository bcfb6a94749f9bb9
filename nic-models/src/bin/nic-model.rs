//! Serves a device model over vfio-user; see `nic-model --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    millrace_nic_models::device::cli::main()
}
