//! From an object to programs that can run: maps are made or reused, globals filled in, programs linked.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::{LoadError, Map, Object, Program};

/// Options of a load; `Loader::new().cpus(4).load(&object)?`.
#[derive(Debug, Default)]
pub struct Loader {
    cpus: Option<u32>,
    max_entries: BTreeMap<String, u32>,
    reuse: BTreeMap<String, Arc<Map>>,
    globals: BTreeMap<String, Vec<u8>>,
}

impl Loader {
    /// A loader with the object's own values throughout, for one worker.
    pub fn new() -> Loader {
        Loader::default()
    }

    /// How many workers will run the programs: per-CPU maps get a value for each.
    pub fn cpus(mut self, n: u32) -> Loader {
        self.cpus = Some(n);
        self
    }

    /// Overrides `max_entries` of a map.
    pub fn map_max_entries(mut self, name: &str, n: u32) -> Loader {
        self.max_entries.insert(name.into(), n);
        self
    }

    /// Uses an existing map instead of making one; its type and sizes must be the object's.
    pub fn reuse_map(mut self, name: &str, map: Arc<Map>) -> Loader {
        self.reuse.insert(name.into(), map);
        self
    }

    /// Sets a global variable (`const volatile` in `.rodata`, or one in `.data`/`.bss`) before the programs see it.
    pub fn global(mut self, name: &str, value: &[u8]) -> Loader {
        self.globals.insert(name.into(), value.to_vec());
        self
    }

    /// Makes the maps and links the programs.
    pub fn load(self, _object: &Object) -> Result<Loaded, LoadError> {
        Err(LoadError::Unsupported(
            "loading objects is not in this build yet".into(),
        ))
    }
}

/// A loaded object.
#[derive(Debug)]
pub struct Loaded {
    /// Its maps by name.
    pub maps: BTreeMap<String, Arc<Map>>,
    programs: Vec<Arc<Program>>,
}

impl Loaded {
    /// The program of that name; `None` takes the only one.
    pub fn program(&self, name: Option<&str>) -> Result<Arc<Program>, LoadError> {
        let have = || {
            self.programs
                .iter()
                .map(|p| p.name())
                .collect::<Vec<_>>()
                .join(", ")
        };
        match name {
            Some(wanted) => self
                .programs
                .iter()
                .find(|p| p.name() == wanted)
                .cloned()
                .ok_or_else(|| LoadError::NoSuchProgram {
                    wanted: wanted.into(),
                    have: have(),
                }),
            None => match self.programs.as_slice() {
                [one] => Ok(one.clone()),
                [] => Err(LoadError::NoSuchProgram {
                    wanted: "(any)".into(),
                    have: "none".into(),
                }),
                _ => Err(LoadError::AmbiguousProgram { have: have() }),
            },
        }
    }

    /// All programs, in file order.
    pub fn programs(&self) -> &[Arc<Program>] {
        &self.programs
    }

    /// A map by name.
    pub fn map(&self, name: &str) -> Result<&Arc<Map>, LoadError> {
        self.maps.get(name).ok_or_else(|| LoadError::NoSuchSymbol {
            kind: "map",
            name: name.into(),
            have: self.maps.keys().cloned().collect::<Vec<_>>().join(", "),
        })
    }
}
