//! Our runtime.

use std::sync::Arc;

use millrace_ebpf::{EngineKind, Instance, LoadError, Loader, Object, XdpBuff};
use millrace_l4lb::dataplane::{RuntimeTables, Tables};

use super::Engine;

const HEADROOM: usize = 256;

pub struct Runtime {
    instance: Instance,
    tables: Arc<RuntimeTables>,
    buffer: Vec<u8>,
}

impl Runtime {
    /// On the default engine.
    pub fn new() -> Result<Runtime, LoadError> {
        Runtime::on(EngineKind::default())
    }

    pub fn on(engine: EngineKind) -> Result<Runtime, LoadError> {
        let object = Object::parse(millrace_l4lb::OBJECT).expect("the program is an object");
        let loaded = match Loader::new()
            .cpus(1)
            .map_max_entries("flows", 400_000)
            .load(&object)
        {
            Err(why @ LoadError::Unsupported(_)) => return Err(why),
            other => other.expect("the program loads"),
        };
        let program = loaded.program(None).expect("there is one program");
        let instance = program.instance(engine, 0).expect("the engine takes it");
        Ok(Runtime {
            instance,
            tables: Arc::new(RuntimeTables(loaded.maps)),
            buffer: vec![0; 4096],
        })
    }
}

impl Engine for Runtime {
    fn name(&self) -> &'static str {
        "runtime"
    }

    fn tables(&self) -> Arc<dyn Tables> {
        self.tables.clone()
    }

    fn run(&mut self, frame: &[u8]) -> (u32, Vec<u8>) {
        self.buffer[HEADROOM..HEADROOM + frame.len()].copy_from_slice(frame);
        let mut buff = XdpBuff::new(&mut self.buffer, HEADROOM, frame.len(), 0, &[]);
        let verdict = self.instance.run_one(&mut buff);
        let (at, len) = (buff.data_offset(), buff.len());
        assert!(
            self.instance.last_fault().is_none(),
            "{:?}",
            self.instance.last_fault()
        );
        (verdict.action() as u32, self.buffer[at..at + len].to_vec())
    }
}
