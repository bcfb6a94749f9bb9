//! `millrace prog verify`: the verifier's answer about an object, without any instance.

use super::prog::{VerifyArgs, hook};
use super::{CliError, through};
use crate::explain::{accepted, accepted_json, refused_json, refused_text};
use millrace_ebpf::{LoadError, Loader, Object};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::Write;

pub(super) fn run(args: &VerifyArgs, as_json: bool, out: &mut dyn Write) -> Result<(), CliError> {
    let elf = std::fs::read(&args.file).map_err(|source| CliError::File {
        path: args.file.clone(),
        source,
    })?;
    let broken = |source| CliError::Object {
        path: args.file.clone(),
        source,
    };
    let object = Object::parse(&elf).map_err(broken)?;
    let mut loader = Loader::new();
    if let Some(kind) = &args.kind {
        loader = loader.hook(hook(kind)?);
    }
    if let Some(model) = &args.hints {
        loader = loader.hints(&through::layout(model)?);
    }
    let loaded = loader.load(&object).map_err(broken)?;
    let mut rows = Vec::new();
    let mut text = String::new();
    let mut refused = 0;
    let wanted = |name: &str| args.program.as_ref().is_none_or(|p| p == name);
    for (name, error) in loaded.refused().iter().filter(|(name, _)| wanted(name)) {
        refused += 1;
        rows.push(json!({"program": name, "accepted": false, "error": error.to_string()}));
        let _ = writeln!(text, "{name}: refused\n  problem      {error}");
    }
    for program in loaded.programs().iter().filter(|p| wanted(p.name())) {
        let (row, told) = match program.verify() {
            Ok(verified) => (
                accepted_json(program, verified),
                accepted(program, verified, args.explain),
            ),
            Err(LoadError::Refused(refusal)) => {
                refused += 1;
                (
                    refused_json(program, &refusal),
                    refused_text(program, &refusal, args.explain),
                )
            }
            Err(source) => return Err(broken(source)),
        };
        rows.push(row);
        text.push_str(&told);
    }
    if rows.is_empty() {
        let name = args.program.clone();
        loaded.program(name.as_deref()).map_err(broken)?;
    }
    let all = rows.len();
    if as_json {
        text = format!("{}\n", Value::from(rows));
    }
    out.write_all(text.as_bytes())?;
    out.flush()?;
    match refused {
        0 => Ok(()),
        _ => Err(CliError::Refused { refused, all }),
    }
}
