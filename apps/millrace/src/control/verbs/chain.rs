//! `chain.*`: several programs in front of a queue, with libxdp's order and rules.

use super::prog::engine;
use super::{QueueArg, add};
use crate::app::programs::run_config;
use crate::app::{AppHandle, ChainLink};
use crate::config::QueueSel;
use crate::control::protocol::ControlError;
use millrace_ebpf::{Hook, LoadError, XdpAction};
use serde::Deserialize;
use serde_json::{Value, json};

/// A program and its place; what is left out is as the object says.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Link {
    name: String,
    priority: Option<u32>,
    /// Verdicts after which the next program runs.
    actions: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Set {
    programs: Vec<Link>,
    port: String,
    #[serde(default)]
    queue: QueueArg,
    engine: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    name: String,
    priority: Option<u32>,
    actions: Option<Vec<String>>,
    port: String,
    #[serde(default)]
    queue: QueueArg,
    engine: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delete {
    name: String,
    port: String,
    #[serde(default)]
    queue: QueueArg,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Show {
    port: Option<String>,
}

pub(super) fn register(app: &AppHandle) {
    let control = app.control();
    add(control, app, "chain.show", show);
    add(control, app, "chain.set", |app, args: Set| {
        let links: Result<Vec<_>, _> = args.programs.iter().map(|wanted| link(app, wanted)).collect();
        let links = links?;
        if links.is_empty() {
            return Err(ControlError::invalid(
                "a chain needs a program; `prog.detach` takes all away",
            ));
        }
        let engine = engine(args.engine.as_deref())?;
        app.set_chain(&args.port, QueueSel::from(args.queue), &links, engine)?;
        Ok(Value::Null)
    });
    add(control, app, "chain.add", |app, args: Add| {
        let wanted = Link {
            name: args.name,
            priority: args.priority,
            actions: args.actions,
        };
        let engine = engine(args.engine.as_deref())?;
        let link = link(app, &wanted)?;
        app.chain_add(&args.port, QueueSel::from(args.queue), &link, engine)?;
        Ok(Value::Null)
    });
    add(control, app, "chain.del", |app, args: Delete| {
        app.chain_remove(&args.port, QueueSel::from(args.queue), &args.name)?;
        Ok(Value::Null)
    });
}

fn link(app: &AppHandle, wanted: &Link) -> Result<ChainLink, ControlError> {
    let program = app.programs().get(&wanted.name)?.program;
    let mut config = run_config(&wanted.name, &program)?;
    if let Some(priority) = wanted.priority {
        config.priority = priority;
    }
    if let Some(actions) = &wanted.actions {
        config.actions = 0;
        for action in actions {
            let action: Result<XdpAction, LoadError> = action.parse();
            config.set_action(action.map_err(|e| ControlError::invalid(e.to_string()))?, true);
        }
    }
    Ok(ChainLink {
        name: wanted.name.clone(),
        program,
        config,
    })
}

/// Every program on a receive queue, in the order in which they run.
fn show(app: &AppHandle, args: Show) -> Result<Value, ControlError> {
    if let Some(port) = &args.port {
        app.port(port)?;
    }
    let attached = app.attached().into_iter();
    let shown = attached
        .filter(|at| at.hook == Hook::Xdp && args.port.as_ref().is_none_or(|port| *port == at.port))
        .map(|at| {
            json!({
                "port": at.port, "queue": at.queue, "program": at.name, "engine": at.engine.name(),
                "priority": at.config.map(|config| config.priority),
                "chain_actions": at.config.map(|config| config.action_names()),
            })
        });
    Ok(shown.collect())
}
