//! A loaded program and the engines it can run on.

use std::sync::Arc;

use crate::{Instance, LoadError, Map};

/// Which engine runs a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum EngineKind {
    /// The checked interpreter: the reference.
    #[default]
    Interp,
    /// Machine code by cranelift.
    Jit,
    /// The rbpf crate, for comparison.
    Rbpf,
}

impl EngineKind {
    /// Name as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            EngineKind::Interp => "interp",
            EngineKind::Jit => "jit",
            EngineKind::Rbpf => "rbpf",
        }
    }
}

impl std::str::FromStr for EngineKind {
    type Err = LoadError;

    fn from_str(s: &str) -> Result<EngineKind, LoadError> {
        match s {
            "interp" => Ok(EngineKind::Interp),
            "jit" => Ok(EngineKind::Jit),
            "rbpf" => Ok(EngineKind::Rbpf),
            other => Err(LoadError::Unsupported(format!(
                "unknown engine `{other}`; there are interp, jit and rbpf"
            ))),
        }
    }
}

/// A linked program with its maps, shared by all workers that run it.
#[derive(Debug)]
pub struct Program {
    name: String,
    section: String,
    frags: bool,
    maps: Vec<Arc<Map>>,
}

impl Program {
    /// Function name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// ELF section it came from.
    pub fn section(&self) -> &str {
        &self.section
    }

    /// Whether it is marked `xdp.frags`: only such programs may be given frames of several buffers.
    pub fn frags(&self) -> bool {
        self.frags
    }

    /// The maps its object has.
    pub fn maps(&self) -> Vec<Arc<Map>> {
        self.maps.clone()
    }

    /// Engine state for one worker; `worker` is what `bpf_get_smp_processor_id` returns and which value of a per-CPU map
    /// the program sees, so it must be below the loader's `cpus`.
    pub fn instance(self: &Arc<Self>, engine: EngineKind, _worker: u32) -> Result<Instance, LoadError> {
        Err(LoadError::EngineUnavailable(engine.name()))
    }
}
