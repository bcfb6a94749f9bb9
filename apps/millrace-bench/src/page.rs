//! `millrace-bench report`: reports of several benches as one page.

use crate::{BenchError, compare, html};
use std::path::PathBuf;

/// What can be asked of `report`.
#[derive(clap::Args, Clone, Debug)]
#[command(after_long_help = "\
EXAMPLE
  millrace-bench path --json > path.json
  millrace-bench wire --json > wire.json
  millrace-bench report path.json wire.json --html report.html")]
pub struct Args {
    /// Reports made with --json, of any bench
    #[arg(required = true)]
    pub reports: Vec<PathBuf>,
    /// The page to write; it needs nothing but itself
    #[arg(long, value_name = "FILE")]
    pub html: PathBuf,
}

/// Writes the page.
pub fn run(args: &Args) -> Result<(), BenchError> {
    let reports = args
        .reports
        .iter()
        .map(|path| compare::read(path))
        .collect::<Result<Vec<_>, _>>()?;
    html::write_all(&args.html, &reports)?;
    println!("{} written", args.html.display());
    Ok(())
}
