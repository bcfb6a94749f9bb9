//! `port.*` and `queue.*`.

use super::{Nothing, add, to_json};
use crate::app::{AppHandle, PortInfo, PortReport};
use crate::control::protocol::ControlError;
use crate::error::AppError;
use serde::Deserialize;
use serde_json::{Map, Value, json};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    port: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WhichQueue {
    port: Option<String>,
    queue: Option<u16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OneQueue {
    port: String,
    queue: u16,
}

pub(super) fn register(app: &AppHandle) {
    let control = app.control();
    add(control, app, "port.list", |app, _: Nothing| {
        Ok(app
            .ports()
            .into_iter()
            .map(|port| Value::String(port.name))
            .collect())
    });
    add(control, app, "port.show", |app, which: Which| {
        let ports = match which.port {
            Some(name) => vec![app.port(&name)?],
            None => app.ports(),
        };
        Ok(ports.iter().map(shown).collect())
    });
    add(control, app, "port.stats", port_stats);
    add(control, app, "queue.list", queue_list);
    add(control, app, "queue.show", queue_show);
    add(control, app, "queue.stop", |app, which: OneQueue| {
        app.stop_queue(&which.port, which.queue)?;
        Ok(Value::Null)
    });
    add(control, app, "queue.start", |app, which: OneQueue| {
        app.start_queue(&which.port, which.queue)?;
        Ok(Value::Null)
    });
}

fn shown(port: &PortInfo) -> Value {
    let mac: Vec<String> = port.mac.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({
        "name": port.name, "ifindex": port.ifindex, "device": port.device, "driver": port.driver,
        "model": port.model, "mac": mac.join(":"), "mtu": port.mtu, "queues": port.queues,
        "link": if port.link_up { "up" } else { "down" }, "speed_mbps": port.speed,
        "numa_node": port.numa_node, "exception_tap": port.exception_tap,
    })
}

/// Everything the device counts, by the datasheet's names, after the well-known ones.
fn port_stats(app: &AppHandle, which: Which) -> Result<Value, ControlError> {
    let reports = reports(app, which.port.as_deref())?;
    let mut all = Map::new();
    for report in reports {
        let device = app.with_port(&report.name, |port| port.xstats());
        let xstats: Map<String, Value> = match device {
            Ok(Ok(xstats)) => xstats
                .into_iter()
                .map(|(name, n)| (name.to_string(), n.into()))
                .collect(),
            Ok(Err(e)) => return Err(ControlError::failed(format!("port {}: {e}", report.name))),
            Err(e) => return Err(e.into()),
        };
        let PortReport {
            name,
            device,
            tap,
            buffers,
            ..
        } = report;
        all.insert(
            name,
            json!({"stats": device, "device": xstats, "tap": tap, "buffers": buffers}),
        );
    }
    Ok(Value::Object(all))
}

fn reports(app: &AppHandle, port: Option<&str>) -> Result<Vec<PortReport>, ControlError> {
    if let Some(port) = port {
        app.port(port)?;
    }
    let all = app.stats().ports;
    Ok(all
        .into_iter()
        .filter(|report| port.is_none_or(|port| port == report.name))
        .collect())
}

fn queue_list(app: &AppHandle, which: Which) -> Result<Value, ControlError> {
    let mut rows = Vec::new();
    for report in reports(app, which.port.as_deref())? {
        for queue in &report.queues {
            rows.push(json!({
                "port": report.name, "queue": queue.queue, "worker": queue.worker,
                "state": if queue.running { "running" } else { "stopped" }, "program": queue.program,
            }));
        }
    }
    Ok(Value::Array(rows))
}

fn queue_show(app: &AppHandle, which: WhichQueue) -> Result<Value, ControlError> {
    let mut rows = Vec::new();
    for report in reports(app, which.port.as_deref())? {
        let last = report.queues.len().saturating_sub(1) as u16;
        if let Some(queue) = which.queue.filter(|queue| *queue > last) {
            return Err(AppError::NoQueue {
                port: report.name,
                queue,
                last,
            }
            .into());
        }
        for queue in report
            .queues
            .into_iter()
            .filter(|q| which.queue.is_none_or(|n| n == q.queue))
        {
            let mut row = to_json(&queue)?;
            if let Value::Object(fields) = &mut row {
                fields.insert("port".into(), report.name.clone().into());
            }
            rows.push(row);
        }
    }
    Ok(Value::Array(rows))
}
