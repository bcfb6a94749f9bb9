//! `prog.*`: a client ships an ELF object; this side checks it, links it and attaches it.

use super::{Nothing, QueueArg, add};
use crate::app::registry::Wish;
use crate::app::{AppHandle, Loaded};
use crate::config::QueueSel;
use crate::control::protocol::ControlError;
use crate::error::AppError;
use crate::explain::refused_text;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use millrace_ebpf::{EngineKind, Hook, LoadError};
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
    /// `xdp` or `xps`, where the section's name does not say it.
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Port whose metadata the program is to read, where ports differ in that.
    hints: Option<String>,
    /// Have a refusal told at length.
    #[serde(default)]
    explain: bool,
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
    /// Refused unless the program is of this kind.
    hook: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Detach {
    port: String,
    #[serde(default)]
    queue: QueueArg,
    hook: Option<String>,
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
        let hook = hook(args.hook.as_deref())?.unwrap_or_default();
        app.detach_hook(&args.port, QueueSel::from(args.queue), hook)?;
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
    let wish = Wish {
        elf: &elf,
        name: &args.name,
        function: args.function.as_deref(),
        hook: hook(args.kind.as_deref())?,
        reuse: &args.reuse,
    };
    let layout = || app.layout_for(args.hints.as_deref());
    let loaded = match app
        .programs()
        .load(&wish, app.workers() as u32, app.maps(), layout)
    {
        Ok(loaded) => loaded,
        Err(error) => return Err(refused(error, args.explain)),
    };
    Ok(shown(app, &args.name, &loaded))
}

/// A refusal, told at length where that was asked for.
fn refused(error: AppError, explain: bool) -> ControlError {
    let detail = match &error {
        AppError::Refused { program, source, .. } if explain => match &**source {
            LoadError::Refused(refusal) => Some(refused_text(program, refusal, true)),
            _ => None,
        },
        _ => None,
    };
    ControlError {
        detail,
        ..ControlError::from(error)
    }
}

/// A hook by its name.
pub(super) fn hook(name: Option<&str>) -> Result<Option<Hook>, ControlError> {
    name.map(|name| {
        name.parse()
            .map_err(|e: LoadError| ControlError::invalid(e.to_string()))
    })
    .transpose()
}

fn unload(app: &AppHandle, args: Named) -> Result<Value, ControlError> {
    app.programs().get(&args.name)?;
    if app.attached().iter().any(|at| at.name == args.name) {
        return Err(AppError::ProgramInUse(args.name).into());
    }
    if let Some(loaded) = app.programs().remove(&args.name) {
        app.maps().forget(&loaded.maps);
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
    let is = loaded.program.hook();
    if let Some(wanted) = hook(args.hook.as_deref())?.filter(|wanted| *wanted != is) {
        let program = args.name.clone();
        return Err(AppError::WrongHook { program, is, wanted }.into());
    }
    Ok((loaded, engine(args.engine.as_deref())?))
}

/// An engine by its name; the fastest there is when none is named.
pub(super) fn engine(name: Option<&str>) -> Result<EngineKind, ControlError> {
    match name {
        None => Ok(EngineKind::default()),
        Some(name) => name
            .parse()
            .map_err(|e: LoadError| ControlError::invalid(e.to_string())),
    }
}

fn shown(app: &AppHandle, name: &str, loaded: &Loaded) -> Value {
    let attached: Vec<Value> = (app.attached().into_iter())
        .filter(|at| at.name == name)
        .map(|at| json!({"port": at.port, "queue": at.queue, "engine": at.engine.name()}))
        .collect();
    let program = &loaded.program;
    // Absent until it was attached on the JIT.
    let compiled = program
        .compiled()
        .map(|c| json!({"microseconds": c.time.as_micros() as u64, "bytes": c.bytes}));
    let mut shown = json!({
        "name": name, "function": program.name(), "section": program.section(), "frags": program.frags(),
        "type": program.hook().name(),
        "maps": program.maps().iter().map(|map| map.name().to_string()).collect::<Vec<_>>(),
        "attached": attached, "instructions": program.instructions(), "compiled": compiled,
    });
    if let Some(meta) = program.rx_meta() {
        shown["reads"] = meta.declaration().into();
    }
    if let (Hook::Xdp, Ok(config)) = (program.hook(), program.run_config()) {
        shown["priority"] = config.priority.into();
        shown["chain_actions"] = config.action_names().into();
    }
    shown
}
