//! Programs and maps by name: what control can attach and look into.

use crate::error::AppError;
use millrace_ebpf::{HintLayout, Hook, Loader, Map, Object, Program};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Maps that the control socket shows. Cheap to clone; clones share the maps.
#[derive(Clone, Debug, Default)]
pub struct Maps(Arc<Mutex<Shown>>);

#[derive(Debug, Default)]
struct Shown {
    maps: BTreeMap<String, Arc<Map>>,
    /// Those that stay when the program that brought them is unloaded, and that objects loaded later share.
    pinned: BTreeSet<String>,
}

impl Maps {
    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a map when its program is unloaded, until [`unpin`](Self::unpin).
    pub fn pin(&self, name: &str) -> Result<(), AppError> {
        let mut shown = self.lock();
        if !shown.maps.contains_key(name) {
            return Err(AppError::NoMap(name.to_string()));
        }
        shown.pinned.insert(name.to_string());
        Ok(())
    }

    /// Ends the pin; the map itself goes from the list, too, and from memory when no program uses it any more.
    pub fn unpin(&self, name: &str) -> Result<(), AppError> {
        let mut shown = self.lock();
        if !shown.pinned.remove(name) {
            return Err(AppError::NotPinned(name.to_string()));
        }
        shown.maps.remove(name);
        Ok(())
    }

    pub fn is_pinned(&self, name: &str) -> bool {
        self.lock().pinned.contains(name)
    }

    /// Takes away what `prog load` had added, but for what is pinned.
    pub(crate) fn forget(&self, names: &[String]) {
        let mut shown = self.lock();
        for name in names {
            if !shown.pinned.contains(name) {
                shown.maps.remove(name);
            }
        }
    }

    /// Shows a map under a name that is free.
    pub(crate) fn insert_new(&self, name: &str, map: Arc<Map>) -> Result<(), AppError> {
        let mut shown = self.lock();
        if shown.maps.contains_key(name) {
            return Err(AppError::MapExists(name.to_string()));
        }
        shown.maps.insert(name.to_string(), map);
        shown.pinned.insert(name.to_string());
        Ok(())
    }

    /// Shows `map` under `name`; a map of that name is no longer shown and is returned.
    pub fn insert(&self, name: impl Into<String>, map: Arc<Map>) -> Option<Arc<Map>> {
        self.lock().maps.insert(name.into(), map)
    }

    pub fn remove(&self, name: &str) -> Option<Arc<Map>> {
        let mut shown = self.lock();
        shown.pinned.remove(name);
        shown.maps.remove(name)
    }

    pub fn get(&self, name: &str) -> Result<Arc<Map>, AppError> {
        self.lock()
            .maps
            .get(name)
            .cloned()
            .ok_or_else(|| AppError::NoMap(name.to_string()))
    }

    /// All maps in the order of their names.
    pub fn list(&self) -> Vec<(String, Arc<Map>)> {
        self.lock()
            .maps
            .iter()
            .map(|(name, map)| (name.clone(), map.clone()))
            .collect()
    }
}

/// A program that can be attached by name.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub program: Arc<Program>,
    /// Names in [`Maps`] that `prog load` added for it; they go when it is unloaded.
    pub(crate) maps: Vec<String>,
}

/// Programs that control can attach. Cheap to clone; clones share the programs.
#[derive(Clone, Debug, Default)]
pub struct Programs(Arc<Mutex<BTreeMap<String, Loaded>>>);

impl Programs {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Loaded>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets control attach `program` under `name`.
    pub fn insert(&self, name: impl Into<String>, program: Arc<Program>) {
        self.lock().insert(
            name.into(),
            Loaded {
                program,
                maps: Vec::new(),
            },
        );
    }

    pub fn get(&self, name: &str) -> Result<Loaded, AppError> {
        self.lock()
            .get(name)
            .cloned()
            .ok_or_else(|| AppError::NoProgram(name.to_string()))
    }

    pub(crate) fn remove(&self, name: &str) -> Option<Loaded> {
        self.lock().remove(name)
    }

    /// All programs in the order of their names.
    pub fn list(&self) -> Vec<(String, Loaded)> {
        self.lock()
            .iter()
            .map(|(name, loaded)| (name.clone(), loaded.clone()))
            .collect()
    }

    /// Loads one program of an ELF object as `name`, and shows its maps as `map` where that name is free, as
    /// `name.map` where it is not, and its sections as `name.rodata`. A program that the verifier refuses is not kept.
    ///
    /// `layout` is asked for the metadata of the queues that it is to run on, if it reads their struct.
    pub(crate) fn load(
        &self,
        wish: &Wish<'_>,
        cpus: u32,
        maps: &Maps,
        layout: impl FnOnce() -> Result<HintLayout, AppError>,
    ) -> Result<Loaded, AppError> {
        let name = wish.name;
        let fail = |source| AppError::Program {
            program: name.to_string(),
            source: Box::new(source),
        };
        if self.lock().contains_key(name) {
            return Err(AppError::ProgramExists(name.to_string()));
        }
        let object = Object::parse(wish.elf).map_err(fail)?;
        let mut loader = Loader::new().cpus(cpus);
        if object.uses_rx_meta() {
            loader = loader.hints(&layout()?);
        }
        if let Some(hook) = wish.hook {
            loader = loader.hook(hook);
        }
        // Pinned by name: shared with whoever brought the map first.
        let pinned: Vec<String> = object.pinned_maps().into_iter().map(str::to_string).collect();
        let mut reuse = wish.reuse.to_vec();
        reuse.extend(pinned.iter().filter(|map| maps.is_pinned(map)).cloned());
        for map in &reuse {
            loader = loader.reuse_map(map, maps.get(map)?);
        }
        let loaded = loader.load(&object).map_err(fail)?;
        let program = loaded.program(wish.function).map_err(fail)?;
        if let Err(source) = program.verify() {
            return Err(AppError::Refused {
                name: name.to_string(),
                program,
                source: Box::new(source),
            });
        }
        let mut programs = self.lock();
        if programs.contains_key(name) {
            return Err(AppError::ProgramExists(name.to_string()));
        }
        let mut shown = Vec::new();
        let mut all = maps.lock();
        for (map_name, map) in &loaded.maps {
            if reuse.contains(map_name) {
                continue;
            }
            let taken = all.maps.contains_key(map_name);
            // Sections such as .rodata are maps too, and every object has the same.
            let shown_as = match map_name.strip_prefix('.') {
                Some(section) => format!("{name}.{section}"),
                None if taken => format!("{name}.{map_name}"),
                None => map_name.clone(),
            };
            all.maps.insert(shown_as.clone(), map.clone());
            if pinned.contains(map_name) && !taken {
                all.pinned.insert(shown_as.clone());
            }
            shown.push(shown_as);
        }
        let entry = Loaded { program, maps: shown };
        programs.insert(name.to_string(), entry.clone());
        Ok(entry)
    }
}

/// What `prog.load` asks for.
pub(crate) struct Wish<'a> {
    pub(crate) elf: &'a [u8],
    /// Name to attach it by.
    pub(crate) name: &'a str,
    /// Function, where the object has several programs.
    pub(crate) function: Option<&'a str>,
    /// Kind of program, where the section's name does not say it.
    pub(crate) hook: Option<Hook>,
    /// Maps of the instance to share instead of making new ones of the same name.
    pub(crate) reuse: &'a [String],
}
