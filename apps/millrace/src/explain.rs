//! The verifier's answer about a program, for people and for scripts: what `millrace prog verify` and a refused
//! `prog.load` show.

use millrace_ebpf::verifier::{Fact, Memory};
use millrace_ebpf::{Program, Refusal, SourceLine, Verified};
use serde_json::{Value, json};
use std::fmt::Write as _;

fn line(line: &Option<SourceLine>) -> Value {
    match line {
        Some(l) => json!({"file": l.file, "line": l.line, "text": l.text.trim()}),
        None => Value::Null,
    }
}

pub(crate) fn accepted_json(program: &Program, verified: &Verified) -> Value {
    json!({
        "program": program.name(), "section": program.section(), "type": program.hook().name(), "accepted": true,
        "instructions": program.instructions(), "walked": verified.stats.processed,
        "states": verified.stats.states, "covered": verified.stats.pruned,
        "time_us": verified.stats.time.as_micros() as u64,
    })
}

pub(crate) fn refused_json(program: &Program, refusal: &Refusal) -> Value {
    let registers: serde_json::Map<_, _> = refusal
        .registers
        .iter()
        .map(|(n, what)| (format!("r{n}"), Value::from(what.as_str())))
        .collect();
    let path: Vec<_> = refusal
        .path
        .iter()
        .map(|s| json!({"insn": s.insn, "code": s.code, "line": line(&s.line)}))
        .collect();
    let calls: Vec<_> = refusal
        .calls
        .iter()
        .map(|(insn, at)| json!({"insn": insn, "line": line(at)}))
        .collect();
    json!({
        "program": program.name(), "section": program.section(), "type": program.hook().name(), "accepted": false,
        "insn": refusal.insn, "code": refusal.code, "line": line(&refusal.line), "problem": refusal.what,
        "registers": registers, "remedy": refusal.remedy, "calls": calls, "path": path,
    })
}

pub(crate) fn accepted(program: &Program, verified: &Verified, explain: bool) -> String {
    let stats = &verified.stats;
    let mut out = format!(
        "{} (section {}): accepted\n  {} instructions, {} walked over, {} states kept, {} paths covered, {:.1} ms\n",
        program.name(),
        program.section(),
        program.instructions(),
        stats.processed,
        stats.states,
        stats.pruned,
        stats.time.as_secs_f64() * 1e3,
    );
    if let Some(meta) = program.rx_meta() {
        let _ = writeln!(out, "  reads        {}", meta.declaration());
    }
    if !explain {
        return out;
    }
    let count = |wanted: &dyn Fn(&Fact) -> bool| verified.facts.iter().filter(|f| wanted(f)).count();
    let memory = |kind| count(&|f| matches!(f, Fact::Access(a) if a.memory == kind));
    let _ = writeln!(
        out,
        "  accesses     stack {}, packet {}, metadata {}, map values {}, map keys {}, records {}, mixed {}, context {}",
        memory(Memory::Stack),
        memory(Memory::Packet),
        memory(Memory::Meta),
        memory(Memory::MapValue),
        memory(Memory::MapKey),
        memory(Memory::Record),
        memory(Memory::Mixed),
        count(&|f| matches!(f, Fact::Ctx(_))),
    );
    let one_sided = |f: &Fact| matches!(f, Fact::Branch { taken, falls } if taken != falls);
    let _ = writeln!(
        out,
        "  calls        {} of helpers, {} of functions; {} jumps go one way only",
        count(&|f| matches!(f, Fact::Call(_))),
        count(&|f| matches!(f, Fact::Local)),
        count(&one_sided),
    );
    for (i, function) in verified.functions.iter().enumerate() {
        let zero = if function.zero {
            ", zeroed on entry: it reads stack it has not written"
        } else {
            ""
        };
        let _ = writeln!(out, "  function {i}   {} bytes of stack{zero}", function.stack);
    }
    out
}

pub(crate) fn refused_text(program: &Program, refusal: &Refusal, explain: bool) -> String {
    let mut out = format!("{} (section {}): refused\n", program.name(), program.section());
    let _ = writeln!(out, "  instruction  {}: {}", refusal.insn, refusal.code);
    if let Some(line) = &refusal.line {
        let _ = writeln!(out, "  source       {line}");
    }
    let _ = writeln!(out, "  problem      {}", refusal.what);
    for (n, what) in &refusal.registers {
        let _ = writeln!(out, "  register     r{n} = {what}");
    }
    let _ = writeln!(out, "  remedy       {}", refusal.remedy);
    if !explain {
        return out;
    }
    for (insn, at) in &refusal.calls {
        let at = at.as_ref().map_or_else(String::new, |l| format!(" ({l})"));
        let _ = writeln!(out, "  called from  {insn}{at}");
    }
    let _ = writeln!(
        out,
        "  how it came there, the last {} instructions:",
        refusal.path.len()
    );
    let mut last = None;
    for step in &refusal.path {
        if step.line.is_some() && step.line != last {
            last.clone_from(&step.line);
            if let Some(line) = &step.line {
                let _ = writeln!(out, "    ; {line}");
            }
        }
        let _ = writeln!(out, "    {:>5}: {}", step.insn, step.code);
    }
    out
}
