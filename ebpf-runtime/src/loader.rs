//! From an object to programs that can run: maps are made or reused, globals filled in, programs linked.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::maps::{MapFlags, MapType};
use crate::object::kconfig::{self, Host, Variable};
use crate::object::mapdefs::ObjectMap;
use crate::object::{Object, Target};
use crate::program::Collection;
use crate::{Errno, HintLayout, Hook, LoadError, Map, MapDef, Program, RxMeta, link};

/// Most instructions of all programs of an object together.
const OBJECT_MAX: usize = 4_000_000;

/// Options of a load; `Loader::new().cpus(4).load(&object)?`.
#[derive(Debug, Default)]
pub struct Loader {
    cpus: Option<u32>,
    max_entries: BTreeMap<String, u32>,
    reuse: BTreeMap<String, Arc<Map>>,
    globals: BTreeMap<String, Vec<u8>>,
    hook: Option<Hook>,
    hints: Option<HintLayout>,
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

    /// Takes every program of the object for one of this hook, whatever its section is called.
    pub fn hook(mut self, hook: Hook) -> Loader {
        self.hook = Some(hook);
        self
    }

    /// Loads for queues of this layout: `struct millrace_rx_meta`, which programs read from `data_meta`, then has the fields
    /// that such queues give. Without this the struct does not exist. Programs that read it run on such queues only
    /// ([`Program::fits_hints`]).
    pub fn hints(mut self, layout: &HintLayout) -> Loader {
        self.hints = Some(layout.clone());
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
    ///
    /// A program that cannot be linked or checked does not make its neighbours unusable: [`Loaded::program`] gives its
    /// error. Only when no program is left does the load itself fail.
    pub fn load(self, object: &Object) -> Result<Loaded, LoadError> {
        let cpus = self.cpus.unwrap_or(1).max(1);
        self.names_exist(object)?;
        let host = match object.maps.iter().any(|m| !m.kconfig.is_empty()) {
            true => Host::ask(),
            false => Host::default(),
        };
        let mut maps = Vec::new();
        for (index, wanted) in object.maps.iter().enumerate() {
            maps.push(match self.reuse.get(&wanted.def.name) {
                Some(map) => reused(wanted, map)?,
                None => self.make(object, index, wanted, cpus, &host)?,
            });
        }
        let meta = Arc::new(RxMeta::new(object.asks_of_meta(), self.hints.as_ref()));
        let mut results = Vec::new();
        let mut total = 0;
        for (index, function) in object.functions.iter().enumerate().filter(|(_, f)| f.is_program) {
            let body = link::link(object, index, self.hook, &meta).and_then(|body| {
                for (at, map) in object.maps.iter().enumerate() {
                    kconfig::check(&body, at, &self.unknown(map, &host))?;
                }
                let jumps = body.named_maps().filter_map(|at| maps.get(at));
                for map in jumps {
                    if !map.joins(&body) {
                        return Err(not_alike(&body.name, map));
                    }
                }
                Ok(Arc::new(body))
            });
            total += body.as_ref().map_or(0, |b| b.insns.len());
            if total > OBJECT_MAX {
                return Err(LoadError::Unsupported(format!(
                    "the object's programs exceed {OBJECT_MAX} instructions"
                )));
            }
            results.push((function.name.clone(), body));
        }
        let bodies: Vec<_> = results
            .iter()
            .filter_map(|(_, r)| r.as_ref().ok().cloned())
            .collect();
        if bodies.is_empty()
            && let Some((_, Err(first))) = results.first()
        {
            return Err(first.clone());
        }
        for (map, def) in maps.iter().zip(&object.maps) {
            def.lock.into_iter().for_each(|at| map.set_lock(at));
        }
        let collection = Arc::new(Collection {
            maps,
            _bodies: bodies,
            locks: object.maps.iter().map(|m| m.lock).collect(),
            cpus,
        });
        let made = collection
            .maps
            .iter()
            .filter(|m| !self.reuse.contains_key(m.name()));
        made.for_each(|map| map.set_owner(&collection));

        let mut programs = Vec::new();
        let mut refused = Vec::new();
        for (name, result) in results {
            match result {
                Ok(body) => programs.push(Arc::new(Program::new(body, collection.clone()))),
                Err(error) => refused.push((name, error)),
            }
        }
        let loaded = Loaded {
            maps: collection
                .maps
                .iter()
                .zip(&object.maps)
                .filter(|(_, wanted)| wanted.unsupported.is_none())
                .map(|(m, _)| (m.name().to_owned(), m.clone()))
                .collect(),
            programs,
            refused,
        };
        self.fill(object, &collection, &loaded)?;
        Ok(loaded)
    }

    fn names_exist(&self, object: &Object) -> Result<(), LoadError> {
        let have_maps = || {
            object
                .maps
                .iter()
                .map(|m| m.def.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        };
        for name in self.max_entries.keys().chain(self.reuse.keys()) {
            if !object.maps.iter().any(|m| m.def.name == *name) {
                return Err(LoadError::NoSuchSymbol {
                    kind: "map",
                    name: name.clone(),
                    have: have_maps(),
                });
            }
        }
        for (name, value) in &self.globals {
            let Some(global) = object.globals.iter().find(|g| g.name == *name) else {
                let have = object
                    .globals
                    .iter()
                    .map(|g| g.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", ");
                return Err(LoadError::NoSuchSymbol {
                    kind: "global variable",
                    name: name.clone(),
                    have,
                });
            };
            if global.size != value.len() {
                return Err(LoadError::GlobalSize {
                    name: name.clone(),
                    want: global.size,
                    got: value.len(),
                });
            }
        }
        Ok(())
    }

    /// The variables that must have a value and have none.
    fn unknown<'a>(&self, map: &'a ObjectMap, host: &Host) -> Vec<&'a Variable> {
        let wanted = map.kconfig.iter().filter(|v| !v.weak);
        let given = |v: &Variable| self.globals.contains_key(&v.name) || host.knows(v);
        wanted.filter(|v| !given(v)).collect()
    }

    fn make(
        &self,
        object: &Object,
        index: usize,
        wanted: &ObjectMap,
        cpus: u32,
        host: &Host,
    ) -> Result<Arc<Map>, LoadError> {
        if wanted.unsupported.is_some() {
            // Holds the place; linking refuses the programs that name it.
            let place = MapDef {
                name: wanted.def.name.clone(),
                kind: MapType::Array,
                key_size: 4,
                value_size: 8,
                max_entries: 1,
                flags: 0,
            };
            return Ok(Arc::new(Map::new(&place, cpus)?));
        }
        let mut def = wanted.def.clone();
        if let Some(n) = self.max_entries.get(&def.name) {
            def.max_entries = *n;
        }
        if def.kind == MapType::PerfEventArray && def.max_entries == 0 {
            def.max_entries = cpus;
        }
        if def.kind == MapType::Ringbuf && def.max_entries != 0 {
            // libbpf rounds ring sizes the same way.
            def.max_entries = def
                .max_entries
                .checked_next_power_of_two()
                .unwrap_or(u32::MAX)
                .max(4096);
        }
        let map = Arc::new(Map::new(&def, cpus)?);
        if let Some(inner) = &wanted.inner {
            map.set_inner_shape(inner);
        }
        if wanted.data {
            let mut contents = wanted.initial.clone().unwrap_or_default();
            contents.resize(def.value_size as usize, 0);
            for variable in &wanted.kconfig {
                host.put(variable, &mut contents);
            }
            for global in object.globals.iter().filter(|g| g.map == index) {
                if let Some(value) = self.globals.get(&global.name) {
                    contents[global.offset..global.offset + global.size].copy_from_slice(value);
                }
            }
            let put = map.update(&0u32.to_ne_bytes(), &contents, MapFlags::Any);
            put.map_err(|e| LoadError::Map {
                map: def.name.clone(),
                reason: format!("its contents: {e}"),
            })?;
            if def.flags & crate::maps::BPF_F_RDONLY_PROG != 0 {
                let frozen = map.freeze();
                frozen.map_err(|e| LoadError::Map {
                    map: def.name.clone(),
                    reason: format!("freezing: {e}"),
                })?;
            }
        }
        Ok(map)
    }

    /// Entries that maps of maps and program arrays have from the start.
    fn fill(&self, object: &Object, collection: &Collection, loaded: &Loaded) -> Result<(), LoadError> {
        for init in &object.inits {
            let map = &collection.maps[init.map];
            let result = match &init.target {
                Target::Map(inner) => {
                    let inner = &collection.maps[*inner];
                    map.set_inner(&init.index.to_ne_bytes(), inner, MapFlags::Any)
                }
                Target::Code { section, offset } => {
                    let function = object.function_at(*section, (*offset / 8) as usize);
                    let name = function.map(|f| object.functions[f].name.as_str());
                    match loaded.programs.iter().find(|p| Some(p.name()) == name) {
                        // Who uses it is told why it is refused.
                        Some(program) => match map.set_program(init.index, program) {
                            Err(Errno::ACCESS) => continue,
                            result => result,
                        },
                        None => continue,
                    }
                }
                _ => continue,
            };
            result.map_err(|e| LoadError::Map {
                map: map.name().into(),
                reason: format!("its initial entry {}: {e}", init.index),
            })?;
        }
        Ok(())
    }
}

fn not_alike(program: &str, map: &Map) -> LoadError {
    LoadError::Map {
        map: map.name().into(),
        reason: format!(
            "program `{program}` is not like the programs that jump through it: all are for one hook, all or none are \
             xdp.frags, and all have the same struct millrace_rx_meta; give it a program array of its own"
        ),
    }
}

/// A map given from outside must be what the object expects.
fn reused(wanted: &ObjectMap, map: &Arc<Map>) -> Result<Arc<Map>, LoadError> {
    let (want, have) = (&wanted.def, map.def());
    let alike = (want.kind, want.key_size, want.value_size) == (have.kind, have.key_size, have.value_size);
    if alike {
        return Ok(map.clone());
    }
    Err(LoadError::Map {
        map: want.name.clone(),
        reason: format!(
            "the map to reuse is {} {}/{}, the object wants {} {}/{} (type, key and value size)",
            have.kind.name(),
            have.key_size,
            have.value_size,
            want.kind.name(),
            want.key_size,
            want.value_size
        ),
    })
}

/// A loaded object.
#[derive(Debug)]
pub struct Loaded {
    /// Its maps by name.
    pub maps: BTreeMap<String, Arc<Map>>,
    programs: Vec<Arc<Program>>,
    refused: Vec<(String, LoadError)>,
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
        let Some(wanted) = name else {
            return match self.programs.as_slice() {
                [one] => Ok(one.clone()),
                [] => Err(LoadError::NoSuchProgram {
                    wanted: "(any)".into(),
                    have: "none".into(),
                }),
                _ => Err(LoadError::AmbiguousProgram { have: have() }),
            };
        };
        if let Some(program) = self.programs.iter().find(|p| p.name() == wanted) {
            return Ok(program.clone());
        }
        match self.refused.iter().find(|(name, _)| name == wanted) {
            Some((_, error)) => Err(error.clone()),
            None => Err(LoadError::NoSuchProgram {
                wanted: wanted.into(),
                have: have(),
            }),
        }
    }

    /// All programs that can run, in file order.
    pub fn programs(&self) -> &[Arc<Program>] {
        &self.programs
    }

    /// Programs of the object that cannot run, and why.
    pub fn refused(&self) -> &[(String, LoadError)] {
        &self.refused
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
