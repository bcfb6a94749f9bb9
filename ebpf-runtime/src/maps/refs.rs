//! Maps whose values name something: redirect targets, programs for tail calls, other maps.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};

use super::array::{index_of, next_index};
use super::{Map, MapDef, MapFlags, MapType, bounded};
use crate::mem::arena::{Arena, Range};
use crate::program::{Body, Collection};
use crate::{Errno, Hook, Program, RxMeta, RxMetaField};

/// `DEVMAP`, `DEVMAP_HASH`, `CPUMAP`, `XSKMAP`: which interface, worker or socket a redirect goes to.
#[derive(Debug)]
pub(super) struct Targets {
    kind: MapType,
    value_size: usize,
    max_entries: u32,
    /// For the types that are arrays: target + 1, or 0 for none. The data path reads these without a lock.
    slots: Arena,
    slot_count: u32,
    /// For `DEVMAP_HASH`.
    hashed: RwLock<Hashed>,
    /// Values as programs see them, 8 bytes each; of the types that are arrays by index.
    values: Arena,
}

/// Entries of a `DEVMAP_HASH`.
#[derive(Debug, Default)]
struct Hashed {
    /// Target, and which of the values it has.
    entries: BTreeMap<u32, (u32, u32)>,
    /// Values that entries had and have no more.
    free: Vec<u32>,
}

/// Bytes that a value takes.
const VALUE: usize = 8;

impl Targets {
    pub fn new(def: &MapDef) -> io::Result<Targets> {
        let slot_count = if def.kind == MapType::DevmapHash {
            0
        } else {
            def.max_entries
        };
        Ok(Targets {
            kind: def.kind,
            value_size: def.value_size as usize,
            max_entries: def.max_entries,
            slots: Arena::new(bounded((slot_count as usize).checked_mul(4))?)?,
            slot_count,
            hashed: RwLock::default(),
            values: Arena::new(bounded((def.max_entries as usize).checked_mul(VALUE))?)?,
        })
    }

    fn slot(&self, index: u32) -> Option<&AtomicU32> {
        (index < self.slot_count).then(|| self.slots.u32(index as usize * 4))
    }

    fn is_hash(&self) -> bool {
        self.kind == MapType::DevmapHash
    }

    pub fn len(&self) -> u32 {
        if self.is_hash() {
            return read(&self.hashed).entries.len() as u32;
        }
        (0..self.slot_count).filter(|i| self.get(*i).is_some()).count() as u32
    }

    /// The first word of the value at an index: what a redirect goes to.
    pub fn get(&self, index: u32) -> Option<u32> {
        if self.is_hash() {
            return read(&self.hashed).entries.get(&index).map(|(target, _)| *target);
        }
        self.slot(index)?.load(Ordering::Acquire).checked_sub(1)
    }

    /// Which of the values an index has, if there is an entry.
    fn place(&self, index: u32) -> Option<u32> {
        match self.is_hash() {
            true => read(&self.hashed).entries.get(&index).map(|(_, place)| *place),
            false => self.get(index).map(|_| index),
        }
    }

    /// The value as a program's lookup gives it, to read only: `struct bpf_devmap_val`, or the one field of
    /// `struct bpf_xdp_sock`, `queue_id`, which here is what was put into the map. A `CPUMAP` is not for lookups, as in the
    /// kernel.
    pub fn find(&self, key: &[u8]) -> Option<Range> {
        if self.kind == MapType::Cpumap {
            return None;
        }
        let place = self.place(index_of(key)?)?;
        Some(self.values.range(place as usize * VALUE, self.value_size, false))
    }

    /// The value that the byte at `addr` belongs to.
    pub fn range_at(&self, addr: u64) -> Option<Range> {
        let place = self.values.offset_of(addr)? / VALUE;
        let whole = place < self.max_entries as usize;
        whole.then(|| self.values.range(place * VALUE, self.value_size, false))
    }

    fn put(&self, place: u32, target: u32, extra: u32) {
        let at = place as usize * VALUE;
        self.values.u32(at).store(target, Ordering::Relaxed);
        self.values.u32(at + 4).store(extra, Ordering::Relaxed);
    }

    pub fn read(&self, key: &[u8]) -> Result<Vec<u8>, Errno> {
        let index = index_of(key).ok_or(Errno::INVAL)?;
        let target = self.get(index).ok_or(Errno::NOENT)?;
        let mut value = target.to_ne_bytes().to_vec();
        if self.value_size == 8 {
            let place = self.place(index).ok_or(Errno::NOENT)?;
            let extra = self
                .values
                .u32(place as usize * VALUE + 4)
                .load(Ordering::Relaxed);
            value.extend_from_slice(&extra.to_ne_bytes());
        }
        Ok(value)
    }

    pub fn write(&self, key: &[u8], value: &[u8], flags: MapFlags) -> Result<(), Errno> {
        let index = index_of(key).ok_or(Errno::INVAL)?;
        let target = index_of(value).ok_or(Errno::INVAL)?;
        let extra = value.get(4..).and_then(index_of).unwrap_or(0);
        if target == u32::MAX {
            return Err(Errno::INVAL);
        }
        if self.is_hash() {
            let mut map = write(&self.hashed);
            let used = map.entries.len();
            let place = match (map.entries.get(&index), flags) {
                (Some(_), MapFlags::NoExist) => return Err(Errno::EXIST),
                (Some((_, place)), _) => *place,
                (None, _) if used >= self.max_entries as usize => return Err(Errno::TOOBIG),
                // What is not free is in use: the values before `used`, when none is free.
                (None, _) => map.free.pop().unwrap_or(used as u32),
            };
            self.put(place, target, extra);
            map.entries.insert(index, (target, place));
        } else {
            let slot = self.slot(index).ok_or(Errno::TOOBIG)?;
            match flags {
                MapFlags::NoExist if self.kind != MapType::Xskmap => return Err(Errno::EXIST),
                MapFlags::NoExist if slot.load(Ordering::Relaxed) != 0 => return Err(Errno::EXIST),
                MapFlags::Exist if self.kind == MapType::Xskmap && slot.load(Ordering::Relaxed) == 0 => {
                    return Err(Errno::NOENT);
                }
                _ => {}
            }
            // Interface 0 and a CPU queue of length 0 clear the entry (kernel/bpf/devmap.c, cpumap.c).
            let clears = self.kind != MapType::Xskmap && target == 0;
            self.put(index, target, extra);
            slot.store(if clears { 0 } else { target + 1 }, Ordering::Release);
        }
        Ok(())
    }

    pub fn remove(&self, key: &[u8]) -> Result<(), Errno> {
        let index = index_of(key).ok_or(Errno::INVAL)?;
        if self.is_hash() {
            let mut map = write(&self.hashed);
            let (_, place) = map.entries.remove(&index).ok_or(Errno::NOENT)?;
            map.free.push(place);
            return Ok(());
        }
        // The array types succeed also when nothing is there.
        self.slot(index).ok_or(Errno::INVAL)?.store(0, Ordering::Release);
        Ok(())
    }

    pub fn next_key(&self, key: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        if !self.is_hash() {
            return next_index(key, self.max_entries);
        }
        let map = read(&self.hashed);
        let after = key.and_then(index_of).filter(|k| map.entries.contains_key(k));
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let next = map.entries.range((from, Bound::Unbounded)).next();
        next.map(|(k, _)| k.to_ne_bytes().to_vec()).ok_or(Errno::NOENT)
    }
}

/// `PROG_ARRAY`.
#[derive(Debug)]
pub(super) struct Programs {
    max_entries: u32,
    slots: RwLock<BTreeMap<u32, ProgramSlot>>,
    owner: OnceLock<Weak<Collection>>,
    /// What the programs are like that jump through it.
    like: OnceLock<Jumper>,
    /// The struct of metadata that they leave in front of frames.
    meta: OnceLock<Vec<RxMetaField>>,
}

/// What programs that jump to each other have in common (kernel/bpf/core.c, `bpf_prog_map_compatible`).
#[derive(Debug, PartialEq, Eq)]
struct Jumper {
    hook: Hook,
    frags: bool,
}

impl Jumper {
    fn of(body: &Body) -> Jumper {
        Jumper {
            hook: body.hook,
            frags: body.frags(),
        }
    }
}

/// One entry of a program array.
#[derive(Debug, Clone)]
pub(crate) struct ProgramSlot {
    /// The program's code.
    pub body: Weak<Body>,
    /// The object it belongs to.
    pub collection: Weak<Collection>,
    /// Keeps programs of other objects alive. An object's own programs must not be: the object keeps the array.
    _keep: Option<Arc<Collection>>,
}

impl Programs {
    pub fn new(max_entries: u32) -> Programs {
        Programs {
            max_entries,
            slots: RwLock::default(),
            owner: OnceLock::new(),
            like: OnceLock::new(),
            meta: OnceLock::new(),
        }
    }

    /// Whether programs like this one may jump through it; the first one that asks decides what they are like.
    pub fn joins(&self, body: &Body) -> bool {
        let jumper = Jumper::of(body);
        let fields = body.rx_meta.as_deref().map_or(&[][..], RxMeta::fields);
        *self.like.get_or_init(|| jumper) == Jumper::of(body)
            && self.meta.get_or_init(|| fields.to_vec()) == fields
    }

    /// Whether a program may be jumped to: it is like those that jump, and reads no struct of metadata other than theirs.
    fn takes(&self, body: &Body) -> bool {
        let fields = body.rx_meta.as_deref().map_or(&[][..], RxMeta::fields);
        *self.like.get_or_init(|| Jumper::of(body)) == Jumper::of(body)
            && (fields.is_empty() || self.meta.get_or_init(|| fields.to_vec()) == fields)
    }

    pub fn set_owner(&self, owner: &Arc<Collection>) {
        // Only the first object that made the map owns it.
        let _ = self.owner.set(Arc::downgrade(owner));
    }

    pub fn len(&self) -> u32 {
        read(&self.slots).len() as u32
    }

    pub fn get(&self, index: u32) -> Option<ProgramSlot> {
        read(&self.slots).get(&index).cloned()
    }

    pub fn id(&self, key: &[u8]) -> Result<Vec<u8>, Errno> {
        let index = index_of(key).ok_or(Errno::INVAL)?;
        let body = self
            .get(index)
            .and_then(|slot| slot.body.upgrade())
            .ok_or(Errno::NOENT)?;
        Ok(body.id.to_ne_bytes().to_vec())
    }

    pub fn set(&self, index: u32, program: &Arc<Program>) -> Result<(), Errno> {
        if index >= self.max_entries {
            return Err(Errno::TOOBIG);
        }
        // In the kernel nobody has such a program: loading it fails, mostly with this.
        program.verify().map_err(|_| Errno::ACCESS)?;
        if !self.takes(program.body()) {
            return Err(Errno::INVAL);
        }
        let collection = program.collection();
        let mine = self
            .owner
            .get()
            .is_some_and(|o| o.as_ptr() == Arc::as_ptr(collection));
        let slot = ProgramSlot {
            body: Arc::downgrade(program.body()),
            collection: Arc::downgrade(collection),
            _keep: (!mine).then(|| collection.clone()),
        };
        let old = write(&self.slots).insert(index, slot);
        // Dropped outside the lock: it may be the last reference to an object.
        drop(old);
        Ok(())
    }

    pub fn remove(&self, key: &[u8]) -> Result<(), Errno> {
        let index = index_of(key).ok_or(Errno::INVAL)?;
        if index >= self.max_entries {
            return Err(Errno::TOOBIG);
        }
        let old = write(&self.slots).remove(&index);
        old.map(drop).ok_or(Errno::NOENT)
    }
}

/// `ARRAY_OF_MAPS`, `HASH_OF_MAPS`.
#[derive(Debug)]
pub(super) struct InnerMaps {
    array: bool,
    max_entries: u32,
    maps: RwLock<BTreeMap<Vec<u8>, Arc<Map>>>,
    shape: OnceLock<MapDef>,
}

impl InnerMaps {
    pub fn new(def: &MapDef) -> InnerMaps {
        InnerMaps {
            array: def.kind == MapType::ArrayOfMaps,
            max_entries: def.max_entries,
            maps: RwLock::default(),
            shape: OnceLock::new(),
        }
    }

    pub fn len(&self) -> u32 {
        read(&self.maps).len() as u32
    }

    pub fn with<R>(&self, key: &[u8], f: impl FnOnce(&Arc<Map>) -> R) -> Option<R> {
        read(&self.maps).get(key).map(f)
    }

    pub fn id(&self, key: &[u8]) -> Result<Vec<u8>, Errno> {
        self.with(key, |map| map.id().to_ne_bytes().to_vec())
            .ok_or(Errno::NOENT)
    }

    /// Says what inner maps must look like; without it the first one inserted does.
    pub fn shape(&self) -> Option<&MapDef> {
        self.shape.get()
    }

    pub fn set_shape(&self, shape: &MapDef) {
        // The first word counts.
        let _ = self.shape.set(shape.clone());
    }

    pub fn set(&self, key: &[u8], inner: &Arc<Map>, flags: MapFlags) -> Result<(), Errno> {
        let def = inner.def();
        if matches!(
            def.kind,
            MapType::ProgArray | MapType::ArrayOfMaps | MapType::HashOfMaps
        ) {
            return Err(Errno::OPNOTSUPP);
        }
        let shape = self.shape.get_or_init(|| def.clone());
        let alike =
            (def.kind, def.key_size, def.value_size) == (shape.kind, shape.key_size, shape.value_size);
        if !alike {
            return Err(Errno::INVAL);
        }
        let mut maps = write(&self.maps);
        let there = maps.contains_key(key);
        if self.array {
            if index_of(key).is_none_or(|i| i >= self.max_entries) {
                return Err(Errno::TOOBIG);
            }
            if flags == MapFlags::NoExist {
                return Err(Errno::EXIST);
            }
        } else {
            match (there, flags) {
                (true, MapFlags::NoExist) => return Err(Errno::EXIST),
                (false, MapFlags::Exist) => return Err(Errno::NOENT),
                (false, _) if maps.len() >= self.max_entries as usize => return Err(Errno::TOOBIG),
                _ => {}
            }
        }
        let old = maps.insert(key.to_vec(), inner.clone());
        drop(maps);
        drop(old);
        Ok(())
    }

    pub fn remove(&self, key: &[u8]) -> Result<(), Errno> {
        let old = write(&self.maps).remove(key);
        old.map(drop).ok_or(Errno::NOENT)
    }

    pub fn next_key(&self, key: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        if self.array {
            return next_index(key, self.max_entries);
        }
        let maps = read(&self.maps);
        let from = match key {
            Some(key) if maps.contains_key(key) => Bound::Excluded(key),
            _ => Bound::Unbounded,
        };
        let next = maps.range::<[u8], _>((from, Bound::Unbounded)).next();
        next.map(|(k, _)| k.clone()).ok_or(Errno::NOENT)
    }
}

/// A poisoned lock only says that another thread panicked; these tables are consistent between statements.
fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}
