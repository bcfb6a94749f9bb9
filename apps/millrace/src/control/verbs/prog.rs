//! `prog.*`: a client ships an ELF object; this side checks it, links it and attaches it.

use super::{Nothing, QueueArg, add};
use crate::app::{AppHandle, Loaded};
use crate::config::QueueSel;
use crate::control::protocol::ControlError;
use crate::error::AppError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_ebpf::EngineKind;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Load {
    name: String,
    /// The object's bytes in base64.
    elf: String,
    /// Function name, where the object has several programs.
    function: Option<String>,
    /// Maps of the instance to share instead of making new ones.
    #[serde(default)]
    reuse: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attach {
    name: String,
    port: String,
    #[serde(default)]
    queue: QueueArg,
    engine: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Detach {
    port: String,
    #[serde(default)]
    queue: QueueArg,
}

pub(super) fn register(app: &AppHandle) {
    let control = app.control();
    add(control, app, "prog.load", load);
    add(control, app, "prog.unload", unload);
    add(control, app, "prog.list", list);
    add(control, app, "prog.attach", |app, args: Attach| {
        let (loaded, engine) = chosen(app, &args)?;
        app.attach_as(&args.name, &args.port, args.queue.into(), &loaded.program, engine)?;
        Ok(Value::Null)
    });
    add(control, app, "prog.replace", |app, args: Attach| {
        let (loaded, engine) = chosen(app, &args)?;
        app.replace_as(&args.name, &args.port, args.queue.into(), &loaded.program, engine)?;
        Ok(Value::Null)
    });
    add(control, app, "prog.detach", |app, args: Detach| {
        app.detach(&args.port, QueueSel::from(args.queue))?;
        Ok(Value::Null)
    });
}

fn load(app: &AppHandle, args: Load) -> Result<Value, ControlError> {
    if args.name.is_empty() || args.name.len() > 64 || args.name.contains(char::is_whitespace) {
        return Err(ControlError::invalid(format!(
            "{:?} is not usable as a name; use one short word",
            args.name
        )));
    }
    let elf = STANDARD
        .decode(&args.elf)
        .map_err(|e| ControlError::invalid(format!("elf is not base64: {e}")))?;
    let workers = app.workers() as u32;
    let loaded = app.programs().load(
        &elf,
        &args.name,
        args.function.as_deref(),
        &args.reuse,
        workers,
        app.maps(),
    )?;
    Ok(shown(app, &args.name, &loaded))
}

fn unload(app: &AppHandle, args: Named) -> Result<Value, ControlError> {
    app.programs().get(&args.name)?;
    if app.attached().iter().any(|(_, _, name, _)| *name == args.name) {
        return Err(AppError::ProgramInUse(args.name).into());
    }
    if let Some(loaded) = app.programs().remove(&args.name) {
        for map in &loaded.maps {
            app.maps().remove(map);
        }
    }
    Ok(Value::Null)
}

fn list(app: &AppHandle, _: Nothing) -> Result<Value, ControlError> {
    Ok(app
        .programs()
        .list()
        .iter()
        .map(|(name, loaded)| shown(app, name, loaded))
        .collect())
}

fn chosen(app: &AppHandle, args: &Attach) -> Result<(Loaded, EngineKind), ControlError> {
    let loaded = app.programs().get(&args.name)?;
    let engine = match &args.engine {
        None => EngineKind::default(),
        Some(engine) => engine
            .parse()
            .map_err(|e| ControlError::invalid(format!("{e}")))?,
    };
    Ok((loaded, engine))
}

fn shown(app: &AppHandle, name: &str, loaded: &Loaded) -> Value {
    let attached: Vec<Value> = (app.attached().into_iter())
        .filter(|(_, _, attached, _)| attached == name)
        .map(|(port, queue, _, engine)| json!({"port": port, "queue": queue, "engine": engine.name()}))
        .collect();
    let program = &loaded.program;
    // Absent until it was attached on the JIT.
    let compiled = program
        .compiled()
        .map(|c| json!({"microseconds": c.time.as_micros() as u64, "bytes": c.bytes}));
    json!({
        "name": name, "function": program.name(), "section": program.section(), "frags": program.frags(),
        "maps": program.maps().iter().map(|map| map.name().to_string()).collect::<Vec<_>>(),
        "attached": attached, "instructions": program.instructions(), "compiled": compiled,
    })
}
