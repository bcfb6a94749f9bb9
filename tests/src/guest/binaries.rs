//! Programs of this workspace in a guest.

use super::LabError;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The features that `make test` and `make guest-test` build with; others would have cargo build everything anew.
const FEATURES: &str = "millrace-nic-models/device,millrace-driver/models";

/// The executable of an integration test, as cargo builds it for `make test`. Cargo is asked rather than a folder
/// searched: old builds lie beside the current one.
pub fn integration_test(name: &str) -> Result<PathBuf, LabError> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .args([
            "test",
            "--workspace",
            "--features",
            FEATURES,
            "--no-run",
            "--test",
            name,
        ])
        .args(["--message-format", "json", "--quiet"]);
    let out = command.output().map_err(|e| {
        LabError::Unavailable(format!("cargo does not start, so {name} cannot be found: {e}"))
    })?;
    if !out.status.success() {
        let reason = String::from_utf8_lossy(&out.stderr);
        let last = reason.lines().last().unwrap_or("no message").to_owned();
        return Err(LabError::Malformed(format!("cargo test --no-run: {last}")));
    }
    String::from_utf8_lossy(&out.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == name)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .ok_or_else(|| LabError::Malformed(format!("the workspace has no test {name}")))
}
