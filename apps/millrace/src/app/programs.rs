//! Programs in front of queues: attach, replace, detach, chains, and steering programs in front of the TX queue choice.
//!
//! Each change makes the new instances here, on the caller's thread, posts them to the workers, and frees here what the
//! workers send back: no packet meets half a change, and the path of a packet frees nothing.

use super::handle::{AppHandle, PortCtl, QueueCtl, QueueState, WORKER, lock};
use crate::capture::tap::Tap;
use crate::config::QueueSel;
use crate::error::AppError;
use crate::hints;
use crate::worker::chain::Attached;
use crate::worker::run::{Command, Reply};
use crate::worker::steer::SteeringProgram;
use millrace_driver::steering::{TxChooser, TxSteering};
use millrace_ebpf::{EngineKind, HintLayout, Hook, Program, RunConfig};
use std::sync::Arc;

/// A program in front of a queue as control knows it.
#[derive(Clone)]
pub(crate) struct AttachedInfo {
    pub(crate) name: String,
    pub(crate) engine: EngineKind,
    pub(crate) program: Arc<Program>,
    /// Its place in the chain; `None` for a program alone.
    pub(crate) config: Option<RunConfig>,
}

/// A program in front of a queue: [`AppHandle::attached`].
#[derive(Clone, Debug)]
pub struct Attachment {
    pub port: String,
    pub queue: u16,
    /// Name it is known by to control.
    pub name: String,
    pub hook: Hook,
    pub engine: EngineKind,
    /// Its place among the programs of a chain; `None` for a program alone.
    pub config: Option<RunConfig>,
}

/// One program of a chain that is to be: [`AppHandle::set_chain`].
#[derive(Clone, Debug)]
pub struct ChainLink {
    /// Name that control shows.
    pub name: String,
    pub program: Arc<Program>,
    /// Usually what [`Program::run_config`] says.
    pub config: RunConfig,
}

impl AppHandle {
    /// Puts `program` in front of queues that have none at its hook. All of them or, on an error, none.
    pub fn attach(
        &self,
        port: &str,
        queues: QueueSel,
        program: &Arc<Program>,
        engine: EngineKind,
    ) -> Result<(), AppError> {
        self.attach_as(program.name(), port, queues, program, engine)
    }

    /// As [`attach`](Self::attach), with the name that control shows.
    pub fn attach_as(
        &self,
        name: &str,
        port: &str,
        queues: QueueSel,
        program: &Arc<Program>,
        engine: EngineKind,
    ) -> Result<(), AppError> {
        let hook = program.hook();
        self.change(port, queues, hook, |state, queue| match state.at(hook).first() {
            Some(old) => Err(AppError::Attached {
                port: port.to_string(),
                queue,
                program: old.name.clone(),
            }),
            None => Ok(vec![alone(name, program, engine)]),
        })
    }

    /// Puts `program` in the place of whatever runs at its hook; no packet is lost and none sees half of each.
    pub fn replace(
        &self,
        port: &str,
        queues: QueueSel,
        program: &Arc<Program>,
        engine: EngineKind,
    ) -> Result<(), AppError> {
        self.replace_as(program.name(), port, queues, program, engine)
    }

    /// As [`replace`](Self::replace), with the name that control shows.
    pub fn replace_as(
        &self,
        name: &str,
        port: &str,
        queues: QueueSel,
        program: &Arc<Program>,
        engine: EngineKind,
    ) -> Result<(), AppError> {
        self.change(port, queues, program.hook(), |_, _| {
            Ok(vec![alone(name, program, engine)])
        })
    }

    /// Takes the programs of these queues away; their frames are passed from then on.
    pub fn detach(&self, port: &str, queues: QueueSel) -> Result<(), AppError> {
        self.detach_hook(port, queues, Hook::Xdp)
    }

    /// Takes the programs of these queues away from a hook. Without a steering program the maps choose TX queues.
    pub fn detach_hook(&self, port: &str, queues: QueueSel, hook: Hook) -> Result<(), AppError> {
        self.change(port, queues, hook, |state, queue| {
            if state.at(hook).is_empty() {
                Err(AppError::NotAttached {
                    port: port.to_string(),
                    queue,
                })
            } else {
                Ok(Vec::new())
            }
        })
    }

    /// Runs these programs one after the other in front of the queues, in the place of whatever runs there, with the rules
    /// of libxdp's dispatcher: ordered by priority, then name; after each, its chain-call actions say whether the next one
    /// runs; past the last one a frame is passed. The change is one step for every packet.
    pub fn set_chain(
        &self,
        port: &str,
        queues: QueueSel,
        links: &[ChainLink],
        engine: EngineKind,
    ) -> Result<(), AppError> {
        let links: Vec<_> = links.iter().map(|link| chained(link, engine)).collect();
        self.change(port, queues, Hook::Xdp, |_, _| ordered(links.clone()))
    }

    /// Adds a program to the chains of these queues; a program alone becomes a chain of two, with its own configuration.
    pub fn chain_add(
        &self,
        port: &str,
        queues: QueueSel,
        link: &ChainLink,
        engine: EngineKind,
    ) -> Result<(), AppError> {
        self.change(port, queues, Hook::Xdp, |state, queue| {
            let mut links = state.programs.clone();
            if links.iter().any(|old| old.name == link.name) {
                return Err(AppError::Attached {
                    port: port.to_string(),
                    queue,
                    program: link.name.clone(),
                });
            }
            for old in &mut links {
                if old.config.is_none() {
                    old.config = Some(run_config(&old.name, &old.program)?);
                }
            }
            links.push(chained(link, engine));
            ordered(links)
        })
    }

    /// Takes one program out of the chains of these queues.
    pub fn chain_remove(&self, port: &str, queues: QueueSel, name: &str) -> Result<(), AppError> {
        self.change(port, queues, Hook::Xdp, |state, queue| {
            let mut links = state.programs.clone();
            links.retain(|link| link.name != name);
            if links.len() == state.programs.len() {
                return Err(AppError::NotInChain {
                    program: name.to_string(),
                    port: port.to_string(),
                    queue,
                });
            }
            Ok(links)
        })
    }

    /// Decides for each queue what shall run at the hook, makes all of it, and only then changes the first queue.
    fn change(
        &self,
        port: &str,
        queues: QueueSel,
        hook: Hook,
        wanted: impl Fn(&QueueState, u16) -> Result<Vec<AttachedInfo>, AppError>,
    ) -> Result<(), AppError> {
        let _changing = lock(&self.0.changes);
        let ctl = self.port_ctl(port)?;
        let selected = self.select(ctl, port, queues)?;
        let layout = ctl.thread.call(|port| hints::translate(port.hint_layout()))?;
        let mut ready = Vec::new();
        for queue in selected {
            let queue_ctl = &ctl.queues[usize::from(queue)];
            let infos = wanted(&lock(&queue_ctl.state), queue)?;
            for info in &infos {
                fits(ctl, port, hook, info, &layout)?;
            }
            let command = match hook {
                Hook::Xdp => Command::SetProgram {
                    slot: queue_ctl.slot,
                    program: made(queue_ctl, &infos, &layout)?,
                },
                Hook::Steering => Command::SetChooser {
                    slot: queue_ctl.slot,
                    chooser: self.chooser(ctl, queue_ctl, &infos, &layout)?,
                },
            };
            ready.push((queue_ctl, infos, command));
        }
        let mut done: Vec<(&QueueCtl, Vec<AttachedInfo>, Command)> = Vec::new();
        for (queue_ctl, infos, command) in ready {
            match self.put(queue_ctl, hook, infos, command) {
                Ok((old_infos, undo)) => done.push((queue_ctl, old_infos, undo)),
                Err(error) => {
                    for (queue_ctl, infos, undo) in done {
                        let _ = self.put(queue_ctl, hook, infos, undo);
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Posts one change; gives what was there before, as the command that would put it back. The caller frees it.
    fn put(
        &self,
        queue: &QueueCtl,
        hook: Hook,
        infos: Vec<AttachedInfo>,
        command: Command,
    ) -> Result<(Vec<AttachedInfo>, Command), AppError> {
        let slot = queue.slot;
        let reply = self.ask(queue.worker, command)?;
        let old = std::mem::replace(lock(&queue.state).at_mut(hook), infos);
        let undo = match reply {
            Reply::Program(program) => Command::SetProgram { slot, program },
            Reply::Chooser(chooser) => Command::SetChooser { slot, chooser },
            _ => Command::Barrier,
        };
        Ok((old, undo))
    }

    fn chooser(
        &self,
        ctl: &PortCtl,
        queue: &QueueCtl,
        infos: &[AttachedInfo],
        layout: &HintLayout,
    ) -> Result<Option<Box<dyn TxChooser>>, AppError> {
        let Some(info) = infos.first() else {
            return Ok(None);
        };
        Ok(Some(Box::new(SteeringProgram {
            instance: instance(queue, info, layout)?,
            ifindex: lock(&ctl.info).ifindex,
            hints: layout.clone(),
            key: ctl.key,
        })))
    }

    /// Changes the maps and the program slot that choose the TX queue of frames which `queue` of `port` received. Returns
    /// those that did so before.
    pub fn set_steering(
        &self,
        port: &str,
        queue: u16,
        steering: TxSteering,
    ) -> Result<Option<TxSteering>, AppError> {
        let _changing = lock(&self.0.changes);
        let ctl = self.port_ctl(port)?;
        self.select(ctl, port, QueueSel::N(queue))?;
        let queue = &ctl.queues[usize::from(queue)];
        let steering = Box::new(steering);
        match self.ask(
            queue.worker,
            Command::SetSteering {
                slot: queue.slot,
                steering,
            },
        )? {
            Reply::Steering(old) => {
                // Whatever program control had put there went with the old maps.
                lock(&queue.state).steering.clear();
                Ok(old.map(|old| *old))
            }
            _ => Ok(None),
        }
    }

    /// Puts taps on queues, all of them or none, or takes them away where `tap` gives none.
    pub(crate) fn set_captures(
        &self,
        port: &str,
        queues: QueueSel,
        tap: impl Fn(&HintLayout) -> Option<Tap>,
    ) -> Result<(), AppError> {
        let _changing = lock(&self.0.changes);
        let ctl = self.port_ctl(port)?;
        let selected = self.select(ctl, port, queues)?;
        let layout = ctl.thread.call(|port| hints::translate(port.hint_layout()))?;
        for &queue in &selected {
            if tap(&layout).is_some() && lock(&ctl.queues[usize::from(queue)].state).tapped {
                return Err(AppError::Tapped {
                    port: port.to_string(),
                    queue,
                });
            }
        }
        for queue in selected {
            let queue_ctl = &ctl.queues[usize::from(queue)];
            let tap = tap(&layout).map(Box::new);
            let on = tap.is_some();
            let slot = queue_ctl.slot;
            self.ask(queue_ctl.worker, Command::SetTap { slot, tap })?;
            lock(&queue_ctl.state).tapped = on;
        }
        Ok(())
    }

    /// Where the queues of a port keep what the NIC says of a frame: what [`millrace_ebpf::Loader::hints`] wants for programs
    /// that read `struct millrace_rx_meta`.
    pub fn hint_layout(&self, port: &str) -> Result<HintLayout, AppError> {
        let ctl = self.port_ctl(port)?;
        ctl.thread.call(|port| hints::translate(port.hint_layout()))
    }

    /// The layout to load a program for: that of the port named, else of all ports, which must then be the same.
    pub(crate) fn layout_for(&self, port: Option<&str>) -> Result<HintLayout, AppError> {
        if let Some(port) = port {
            return self.hint_layout(port);
        }
        let names: Vec<_> = self.ports().into_iter().map(|port| port.name).collect();
        let mut layouts = Vec::new();
        for name in &names {
            layouts.push(self.hint_layout(name)?);
        }
        layouts.dedup();
        match layouts.pop() {
            Some(layout) if layouts.is_empty() => Ok(layout),
            _ => Err(AppError::Config(format!(
                "the program reads struct millrace_rx_meta, which differs among the ports ({}); say for which to load it: `hints PORT`",
                names.join(", ")
            ))),
        }
    }

    /// Programs in front of queues, by port and queue; those of a chain in the order in which they run.
    pub fn attached(&self) -> Vec<Attachment> {
        let mut all = Vec::new();
        for port in &self.0.ports {
            for (queue, ctl) in (0u16..).zip(&port.queues) {
                let state = lock(&ctl.state).clone();
                all.extend(
                    state
                        .programs
                        .iter()
                        .chain(&state.steering)
                        .map(|info| Attachment {
                            port: lock(&port.info).name.clone(),
                            queue,
                            name: info.name.clone(),
                            hook: info.program.hook(),
                            engine: info.engine,
                            config: info.config,
                        }),
                );
            }
        }
        all
    }

    pub(crate) fn ask(&self, worker: usize, command: Command) -> Result<Reply, AppError> {
        let fail = |source| AppError::Mailbox { worker, source };
        self.0.workers[worker].mailbox.call(command, WORKER).map_err(fail)
    }

    fn select(&self, ctl: &PortCtl, port: &str, queues: QueueSel) -> Result<Vec<u16>, AppError> {
        let count = ctl.queues.len() as u16;
        match queues {
            QueueSel::All => Ok((0..count).collect()),
            QueueSel::N(queue) => self.one_queue(ctl, port, queue).map(|_| vec![queue]),
        }
    }
}

impl QueueState {
    /// What runs at a hook.
    fn at(&self, hook: Hook) -> &[AttachedInfo] {
        match hook {
            Hook::Xdp => &self.programs,
            Hook::Steering => &self.steering,
        }
    }

    fn at_mut(&mut self, hook: Hook) -> &mut Vec<AttachedInfo> {
        match hook {
            Hook::Xdp => &mut self.programs,
            Hook::Steering => &mut self.steering,
        }
    }
}

fn alone(name: &str, program: &Arc<Program>, engine: EngineKind) -> AttachedInfo {
    AttachedInfo {
        name: name.to_string(),
        engine,
        program: program.clone(),
        config: None,
    }
}

fn chained(link: &ChainLink, engine: EngineKind) -> AttachedInfo {
    AttachedInfo {
        config: Some(link.config),
        ..alone(&link.name, &link.program, engine)
    }
}

/// libxdp's order: priority, then name. Among equals the one that came first stays first.
fn ordered(mut links: Vec<AttachedInfo>) -> Result<Vec<AttachedInfo>, AppError> {
    for (i, link) in links.iter().enumerate() {
        if links[..i].iter().any(|other| other.name == link.name) {
            return Err(AppError::Config(format!(
                "program {} stands in the chain twice; name each once",
                link.name
            )));
        }
    }
    let key = |link: &AttachedInfo| (link.config.unwrap_or_default().priority, link.name.clone());
    links.sort_by_key(key);
    Ok(links)
}

/// What the object says about its place in a chain.
pub(crate) fn run_config(name: &str, program: &Program) -> Result<RunConfig, AppError> {
    program.run_config().map_err(|source| AppError::Program {
        program: name.to_string(),
        source: Box::new(source),
    })
}

/// Refuses what cannot run at this place.
fn fits(
    ctl: &PortCtl,
    port: &str,
    hook: Hook,
    info: &AttachedInfo,
    layout: &HintLayout,
) -> Result<(), AppError> {
    let is = info.program.hook();
    if is != hook {
        return Err(AppError::WrongHook {
            program: info.name.clone(),
            is,
            wanted: hook,
        });
    }
    let mtu = lock(&ctl.info).mtu;
    if hook == Hook::Xdp && !info.program.frags() && usize::from(mtu) > ctl.single_buffer_mtu {
        return Err(AppError::NeedsFrags {
            program: info.name.clone(),
            port: port.to_string(),
            mtu,
            largest: ctl.single_buffer_mtu,
        });
    }
    let fits = info.program.fits_hints(layout);
    fits.map_err(|source| AppError::Program {
        program: info.name.clone(),
        source: Box::new(source),
    })
}

fn instance(
    queue: &QueueCtl,
    info: &AttachedInfo,
    layout: &HintLayout,
) -> Result<millrace_ebpf::Instance, AppError> {
    let made = info.program.instance(info.engine, queue.worker as u32);
    let mut instance = made.map_err(|source| AppError::Program {
        program: info.name.clone(),
        source: Box::new(source),
    })?;
    instance.set_hints(layout);
    if info.program.wants_routes()
        && let Some(feed) = crate::routes::host()
    {
        instance.set_routes(feed);
    }
    Ok(instance)
}

/// A worker's own instances of these programs.
fn made(
    queue: &QueueCtl,
    infos: &[AttachedInfo],
    layout: &HintLayout,
) -> Result<Option<Box<Attached>>, AppError> {
    Ok(match infos {
        [] => None,
        [one] if one.config.is_none() => Some(Box::new(Attached::single(instance(queue, one, layout)?))),
        links => {
            let mut chain = Vec::new();
            for link in links {
                chain.push((instance(queue, link, layout)?, link.config.unwrap_or_default()));
            }
            Some(Box::new(Attached::chain(chain)))
        }
    })
}
